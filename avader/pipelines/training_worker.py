"""What a worker of `train` does: images into memory, the loop, checkpoints, the model's files."""

import ctypes
import logging
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
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
from avader.training.data import Masks, MemoryImages, Pixels, held_out_rows
from avader.training.group import Group
from avader.training.loop import Watch, train
from avader.training.state import TrainingState, fresh_state
from avader.training.summary import summarise
from avader.training.task import Task

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
    images, problem = _load(given)
    # One rank's bad input is all ranks' end: the others would wait for it in the first sum.
    problems = [text for text in group.gather(problem) if text]
    if problems or images is None:
        if group.is_first:
            notices.fail(problems[0])
        return
    try:
        _train(given, Task(given.recipe, images, group), notices)
    except TrainingError as error:  # every rank sees the same sums, so every rank ends
        if group.is_first:
            notices.fail(str(error))


def _load(given: WorkerTask) -> tuple[MemoryImages | None, str]:
    """The images, or what is wrong with them."""
    try:
        return load_images(given.data, given.recipe), ""
    except InputError as error:
        return None, str(error)


def load_images(data: Manifest, recipe: Recipe) -> MemoryImages:
    """All images of packed cutouts as stored, (N, C, H, W), with masks where the recipe asks."""
    rows, masked = data.totals["rows"], recipe.outside_weight < 1
    pixels: Pixels | None = None
    masks: Masks | None = None
    filled = 0
    for path in data.paths:
        table = shards.read_part(data.uri, path, ["image", *(["source_mask"] if masked else [])])
        images, bits = part_images(table)
        if pixels is None:
            pixels = np.empty((rows, *images.shape[1:]), images.dtype)
            masks = None if bits is None else np.empty((rows, bits.shape[1]), np.uint8)
        pixels[filled : filled + len(images)] = images
        if masks is not None and bits is not None:
            masks[filled : filled + len(images)] = bits
        filled += len(images)
    if pixels is None or filled != rows:
        raise InputError(
            f"wanted {rows:,} images in {storage.public_uri(data.uri)}, got {filled:,}; the folder "
            "was changed after it was packed: run `avader verify`, then pack again"
        )
    held_out = held_out_rows(rows, share=recipe.held_out, seed=recipe.seed)
    return MemoryImages(pixels, masks, held_out=held_out)


def part_images(table: pa.Table) -> tuple[Pixels, Masks | None]:
    """Pixels (B, C, H, W) and packed masks (B, H W / 8), where there are any, of a shard's rows.

    Raises InputError for pixels that are not finite.
    """
    pixels: Pixels = np.concatenate([chunk.to_numpy_ndarray() for chunk in table["image"].chunks])
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).any(axis=(1, 2, 3)).sum())
        raise InputError(
            f"wanted finite pixels, got {bad} images of {len(pixels)} in a shard that are not; "
            "run `avader verify`, then pack again"
        )
    if "source_mask" not in table.column_names:
        return pixels, None
    flat = table["source_mask"].combine_chunks().flatten().to_numpy()
    return pixels, flat.reshape(len(pixels), -1)


def tune_process() -> None:
    """Use this worker's CPUs, and keep freed memory for the next batch."""
    assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, min(int(assigned), os.cpu_count() or 1)))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have glibc keep what is freed in this process.

    It gives large arrays back to the system at once, and page faults then cost a third to two
    thirds of the speed on CPUs.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            getattr(libc, "mallopt", lambda *_: 0)(option, value)


def _train(given: WorkerTask, task: Task, notices: Notices) -> None:
    """Go on from the last checkpoint, or begin, and train to the end; rank 0 writes the model."""
    images, first = task.images, task.group.is_first
    device = ray.train.torch.get_device()
    state = fresh_state(task.recipe, mean_pixel=images.mean_pixel, device=str(device))
    _restore(state)
    teller = Teller(task.recipe, len(images.training_rows), given.out, notices) if first else None
    if teller is not None:
        teller.begin(state, images)
    watch = Watch(
        epoch=lambda state: _epoch_done(state, given, teller),
        batch=lambda state: _batch_done(state, given, teller),
        say=notices.write if first else lambda line: None,
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
    if last or state.epoch % given.recipe.checkpoint_epochs == 0:
        _checkpoint(state, is_first=teller is not None)


def _batch_done(state: TrainingState, given: WorkerTask, teller: Teller | None) -> None:
    """After every batch: a line now and then by rank 0, and a checkpoint where one is due."""
    if teller is not None:
        teller.batch(state)
    every = given.recipe.checkpoint_steps
    if every and state.progress is not None and state.progress.batches % every == 0:
        _checkpoint(state, is_first=teller is not None)


def _checkpoint(state: TrainingState, *, is_first: bool) -> None:
    """Write a checkpoint (rank 0); every rank calls it."""
    metrics = dict(state.history[-1]) if state.history else {}
    if not is_first:
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
