"""What a worker of `train` does: opens the images, goes on from the last checkpoint, trains."""

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from avader.catalogue.provenance import provenance
from avader.errors import InputError, TrainingError
from avader.inference.engine import Engine
from avader.io.models import write_model, write_noise
from avader.model.files import build_model, model_config, model_tensors, parse_config
from avader.model.schedule import total_epochs
from avader.pipelines.board import Notices
from avader.pipelines.cores import cores
from avader.pipelines.memory import keep_freed_memory
from avader.pipelines.training.checkpoints import Checkpoints
from avader.pipelines.training.given import WorkerTask
from avader.pipelines.training.images import open_images
from avader.pipelines.training.memory import free_bytes
from avader.pipelines.training.residuals import noise_line, noise_of_training
from avader.pipelines.training.sight import Teller
from avader.recipe import Preprocessing, Recipe
from avader.training.data import Images
from avader.training.group import Group
from avader.training.loop import Watch, train
from avader.training.state import TrainingState, fresh_state
from avader.training.summary import summarise
from avader.training.task import Task


def work_on(given: WorkerTask, notices: Notices) -> None:
    """One worker, from its images to the end of the schedule.

    What cannot be mended by a restart is told to the driver; anything else is raised, so that
    Ray Train restarts from the last checkpoint.
    """
    # Our lines go through the notices; Ray Train's on every report would drown them.
    logging.disable(logging.INFO)
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    tune_process()
    saved = Checkpoints(given.out).latest(notices.write) if group.is_first else None
    saved = group.from_first(saved)
    images, mean, problem = _load(given, group, fresh=saved is None)
    # One rank's bad input is all ranks' end: the others would wait for it in the first sum.
    problems = [text for text in group.gather(problem) if text]
    if problems or images is None:
        if group.is_first:
            notices.fail(problems[0])
        return
    device = str(ray.train.torch.get_device())
    try:
        state = fresh_state(given.recipe, mean_pixel=group.from_first(mean), device=device)
        if saved is not None:
            state.restore(saved)
        _train(state, given, Task(given.recipe, images, group), notices)
    except TrainingError as error:  # every rank sees the same sums, so every rank ends
        if group.is_first:
            notices.fail(str(error))


def _load(given: WorkerTask, group: Group, *, fresh: bool) -> tuple[Images | None, float, str]:
    """The images, the mean of their pixels, or what is wrong with them.

    The mean is taken by rank 0 for a training that begins; it is 0 elsewhere.
    """
    try:
        limit = int(given.memory_limit * 2**30)
        if not limit:
            limit = free_bytes() // 2 // ray.train.get_context().get_local_world_size()
        images = open_images(given.data, given.recipe, limit=limit, world=group.world)
        return images, images.mean_pixel if fresh and group.is_first else 0.0, ""
    except InputError as error:
        return None, 0.0, str(error)


def tune_process() -> None:
    """Use this worker's CPUs, and keep freed memory for the next batch."""
    assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, min(int(assigned), cores())))
    keep_freed_memory()


def _train(state: TrainingState, given: WorkerTask, task: Task, notices: Notices) -> None:
    """Train from where the state is to the end; rank 0 tells, and writes checkpoints and model."""
    if not task.group.is_first:
        train(state, task, Watch())
        summarise(state, task)
        return
    teller = Teller(task.recipe, len(task.images.training_rows), given.out, notices)
    teller.begin(state, task)
    checkpoints = Checkpoints(given.out)
    watch = Watch(
        epoch=lambda state: _epoch_done(state, teller, checkpoints),
        batch=lambda state: _batch_done(state, teller, checkpoints),
        say=notices.write,
    )
    train(state, task, watch)
    summary = asdict(summarise(state, task))
    config = model_config(state.model, Preprocessing(**given.data.settings["preprocessing"]))
    tensors = model_tensors(state.model)
    engine = Engine(build_model(parse_config(config), tensors))
    _write_noise(engine, given, task.images, notices)
    write_model(given.out, config=config, tensors=tensors, card=_card(state, given, summary))


def _epoch_done(state: TrainingState, teller: Teller, checkpoints: Checkpoints) -> None:
    """After every epoch: metrics and a line, and a checkpoint where one is due."""
    teller.epoch(state)
    recipe = teller.recipe
    last = state.epoch == total_epochs(recipe.schedule)
    if last or state.epoch % recipe.checkpoint_epochs == 0:
        checkpoints.save(state)


def _batch_done(state: TrainingState, teller: Teller, checkpoints: Checkpoints) -> None:
    """After every batch: a line now and then, and a checkpoint where one is due."""
    teller.batch(state)
    if is_due_within_an_epoch(teller.recipe, state):
        checkpoints.save(state)


def is_due_within_an_epoch(recipe: Recipe, state: TrainingState) -> bool:
    """Whether a checkpoint is due after this batch."""
    every, progress = recipe.checkpoint_steps, state.progress
    return bool(every and progress is not None and progress.batches % every == 0)


def _write_noise(engine: Engine, given: WorkerTask, images: Images, notices: Notices) -> None:
    """Write the survey's noise, where the images have any to measure: a model is whole without."""
    spectrum, about = noise_of_training(engine, images, data=given.data.digest)
    if not np.isfinite(spectrum).all():
        notices.write("  no noise is kept: wanted pixels outside of the sources, got none")
        return
    write_noise(given.out, spectrum=spectrum, about=about)
    notices.write("  " + noise_line(spectrum, about))


def _card(state: TrainingState, given: WorkerTask, summary: dict[str, Any]) -> dict[str, Any]:
    """The model's card, the last file of its folder: it says that training is done."""
    recipe = given.recipe
    last = state.history[-1]
    return provenance(
        recipe={"name": given.name, **recipe.model_dump(mode="json")},
        seed=recipe.seed,
        data={"manifest": given.data.digest, "rows": given.data.totals["rows"]},
        result={
            **summary,
            "epochs": state.epoch,
            **{name: last[name] for name in ("loss", "reconstruction", "mixture_kl", "l2")},
        },
    )
