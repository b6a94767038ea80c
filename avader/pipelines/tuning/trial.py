"""A trial of `tune`: one training in one process, told of epoch by epoch.

The state is written below unfinished/, under a name made of the values alone, as often as the
recipe says, after an epoch before that is reported: a trial that was killed goes on from there, and
reports its epochs again.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.tune
import torch
from pydantic import ValidationError

from avader.errors import InputError, TrainingError
from avader.io import storage
from avader.io.manifest import Manifest
from avader.model.schedule import total_epochs
from avader.pipelines.training.images import open_images
from avader.pipelines.training.memory import free_bytes
from avader.pipelines.training.worker import is_due_within_an_epoch, tune_process
from avader.plan import canonical_json
from avader.recipe import Recipe, varied
from avader.training.loop import Watch, train
from avader.training.score import WORST, bound, score
from avader.training.state import Metrics, TrainingState, fresh_state
from avader.training.task import Task

SCORE, EPOCH, FAILURE, AGAIN = "score", "epoch", "failure", "again"
ENDS_SEARCH = "ends_search"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Search:
    """What all trials are given.

    recipe: whose ranges are searched. out: folder URI. device: "cpu" or "cuda". penalty: nats,
    see training/score.py. memory_limit: GiB of images in a trial, 0 for a part of what is free.
    neighbours: trials that may run on one machine at once, and share its free memory.
    """

    recipe: Recipe
    data: Manifest
    out: str
    device: str
    penalty: float
    memory_limit: float = 0.0
    neighbours: int = 1

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped early."""
        return total_epochs(self.recipe.schedule)


def values_name(values: Mapping[str, Any]) -> str:
    """The name of a trial's folder, of its values alone."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def trial_folder(out: str, values: Mapping[str, Any]) -> str:
    """Folder URI of what is kept of a trial while it runs."""
    return storage.join(out, UNFINISHED, values_name(values))


def trial(values: dict[str, Any], search: Search) -> None:
    """Train with these values, by the settings' dotted names; Ray Tune calls it.

    What no restart can mend is reported as a failure; anything else is raised, so that Ray Tune
    starts the trial again.
    """
    # The driver says how trials go.
    logging.disable(logging.INFO)
    tune_process()
    try:
        recipe = varied(search.recipe, values)
    except ValidationError as error:
        _fail(search, f"values that do not go together: {error.errors()[0]['msg']}")
        return
    file = storage.join(trial_folder(search.out, values), "state.pt")
    saved = storage.read_bytes(file) if storage.exists(file) else None
    try:
        limit = int(search.memory_limit * 2**30) or free_bytes() // 2 // search.neighbours
        images = open_images(search.data, recipe, limit=limit, world=1)
        # Where images are streamed this reads them all.
        mean = images.mean_pixel if saved is None else 0.0
    except InputError as error:
        _fail(search, str(error), ends_search=True)
        return
    task = Task(recipe, images)
    state = fresh_state(recipe, mean_pixel=mean, device=search.device)
    if saved is not None:
        state.restore(saved)
    for row in state.history:
        _report(row, state, search, again=True)
    try:
        watch = Watch(
            epoch=lambda state: _epoch_done(state, search, file),
            batch=lambda state: _batch_done(state, recipe, file),
        )
        train(state, task, watch)
    except (InputError, TrainingError) as error:
        _fail(search, str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        _fail(search, f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more'}")


def _epoch_done(state: TrainingState, search: Search, file: str) -> None:
    last = state.epoch == search.epochs
    if last or state.epoch % search.recipe.checkpoint_epochs == 0:
        storage.write_bytes(file, state.to_bytes())
    _report(state.history[-1], state, search)


def _batch_done(state: TrainingState, recipe: Recipe, file: str) -> None:
    if is_due_within_an_epoch(recipe, state):
        storage.write_bytes(file, state.to_bytes())


def _report(row: Metrics, state: TrainingState, search: Search, *, again: bool = False) -> None:
    """Tell Ray Tune of an epoch; does not return where the trial is to stop.

    again: of one that was told of before the trial was killed.
    """
    components, epoch = state.model.components, int(row["epoch"])
    ray.tune.report(
        {
            EPOCH: epoch,
            AGAIN: again,
            SCORE: score(row, search.recipe, components=components, penalty=search.penalty),
            "bound": bound(row, search.recipe),
            "components": components,
            "effective_components": row["effective_components"],
            "train_seconds": sum(float(past["seconds"]) for past in state.history[:epoch]),
        }
    )


def _fail(search: Search, reason: str, *, ends_search: bool = False) -> None:
    ray.tune.report({EPOCH: search.epochs, SCORE: WORST, FAILURE: reason, ENDS_SEARCH: ends_search})
