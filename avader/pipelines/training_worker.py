"""What a worker of `train` does: images into memory, the loop, checkpoints, the model's files."""

import ctypes
import logging
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from avader.catalogue.provenance import provenance
from avader.errors import InputError, TrainingError
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.io.models import write_model
from avader.model.files import model_config, model_tensors
from avader.model.schedule import total_epochs
from avader.pipelines.board import Notices
from avader.pipelines.sight import Teller
from avader.recipe import Preprocessing, Recipe
from avader.training.data import Pixels
from avader.training.group import Group
from avader.training.loop import Task, Watch, train
from avader.training.state import TrainingState, fresh_state
from avader.training.summary import summarise

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class WorkerTask:
    """What all workers of a training are given. name: the recipe's; out: folder URI."""

    recipe: Recipe
    name: str
    data: Manifest
    out: str


def work(config: dict[str, Any]) -> None:
    """One worker, from its images to the end of the schedule; Ray Train calls it.

    What cannot be mended by a restart is told to the driver; anything else is raised, so that
    Ray Train restarts from the last checkpoint.
    """
    # Our lines go through the notices; Ray Train's on every report would drown them.
    logging.disable(logging.INFO)
    given: WorkerTask = config["task"]
    notices: Notices = config["notices"]
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size())
    tune_process()
    pixels, problem = _load(given.data)
    # One rank's bad input is all ranks' end: the others would wait for it in the first sum.
    problems = [text for text in group.gather(problem) if text]
    if problems or pixels is None:
        if group.is_first:
            notices.fail(problems[0])
        return
    try:
        _train(given, Task(given.recipe, pixels, group), notices)
    except TrainingError as error:  # every rank sees the same sums, so every rank ends
        if group.is_first:
            notices.fail(str(error))


def _load(data: Manifest) -> tuple[Pixels | None, str]:
    """The images, or what is wrong with them."""
    try:
        return load_pixels(data), ""
    except InputError as error:
        return None, str(error)


def load_pixels(data: Manifest) -> Pixels:
    """All images of packed cutouts, (N, C, H, W) as stored, part by part into one array."""
    rows = data.totals["rows"]
    pixels: Pixels | None = None
    filled = 0
    for path in data.paths:
        column = shards.read_part(data.uri, path, ["image"])["image"]
        for chunk in column.chunks:
            images = chunk.to_numpy_ndarray()
            if pixels is None:
                pixels = np.empty((rows, *images.shape[1:]), images.dtype)
            pixels[filled : filled + len(images)] = images
            filled += len(images)
    if pixels is None or filled != rows:
        raise InputError(
            f"wanted {rows:,} images in {storage.public_uri(data.uri)}, got {filled:,}; the folder "
            "was changed after it was packed: run `avader verify`, then pack again"
        )
    return pixels


def tune_process() -> None:
    """Use this worker's CPUs, and keep freed memory for the next batch.

    glibc gives large arrays back to the system at once, and page faults then cost a third to two
    thirds of the speed on CPUs.
    """
    assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, min(int(assigned), os.cpu_count() or 1)))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            getattr(libc, "mallopt", lambda *_: 0)(option, value)


def _train(given: WorkerTask, task: Task, notices: Notices) -> None:
    """Go on from the last checkpoint, or begin, and train to the end; rank 0 writes the model."""
    pixels, first = task.pixels, task.group.is_first
    device = ray.train.torch.get_device()
    full = 255.0 if pixels.dtype == np.uint8 else 1.0
    mean = float(pixels.mean(dtype=np.float64)) / full
    state = fresh_state(task.recipe, mean_pixel=mean, device=str(device))
    _restore(state)
    teller = Teller(task.recipe, len(pixels), given.out, notices) if first else None
    if teller is not None:
        teller.begin(state, pixels)
    watch = Watch(
        epoch=lambda state: _epoch_done(state, given, teller),
        batch=teller.batch if teller is not None else lambda state, images: None,
    )
    train(state, task, watch)
    summary = summarise(state, task)
    if first:
        _write_model(state, given, asdict(summary))


def _restore(state: TrainingState) -> None:
    """Become the last checkpoint's state, where there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        state.restore(storage.read_bytes(storage.join(folder, STATE_FILE)))


def _epoch_done(state: TrainingState, given: WorkerTask, teller: Teller | None) -> None:
    """After every epoch: metrics and a line by rank 0, and a checkpoint where one is due."""
    if teller is not None:
        teller.epoch(state)
    last = state.epoch == total_epochs(given.recipe.schedule)
    if state.epoch % given.recipe.checkpoint_epochs and not last:
        return
    metrics = dict(state.history[-1])
    if teller is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        storage.write_bytes(storage.join(folder, STATE_FILE), state.to_bytes())
        ray.train.report(metrics, ray.train.Checkpoint.from_directory(folder))


def _write_model(state: TrainingState, given: WorkerTask, summary: dict[str, Any]) -> None:
    """Write the model folder; its card is the last file, and says that training is done."""
    recipe = given.recipe
    last = state.history[-1]
    write_model(
        given.out,
        config=model_config(state.model, Preprocessing(**given.data.settings["preprocessing"])),
        tensors=model_tensors(state.model),
        card=provenance(
            recipe={"name": given.name, **recipe.model_dump(mode="json")},
            seed=recipe.seed,
            data={"manifest": given.data.digest, "rows": given.data.totals["rows"]},
            result={
                **summary,
                "epochs": state.epoch,
                **{name: last[name] for name in ("loss", "reconstruction", "mixture_kl", "l2")},
            },
        ),
    )
