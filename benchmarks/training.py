"""What the benchmarks of training share: a recipe in a mode, trained in this process."""

import hashlib
import json
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from avader.config import recipe_settings
from avader.recipe import Recipe
from avader.recipes import load_recipe_text
from avader.training.data import MemoryImages
from avader.training.loop import Watch, train
from avader.training.state import TrainingState, fresh_state
from avader.training.task import Task
from benchmarks.common import machine

Scores = dict[str, float]
SHORT = {"gamma_epochs": 1, "annealing_epochs": 1, "static_epochs": 0}
"""A schedule for --quick."""


def kept(
    folder: Path, name: str, settings: object, work: Callable[[], Scores], *, device: str = "cpu"
) -> Scores:
    """The scores kept under a name, or those of the work, which are then kept there.

    settings: what the work depends on, as text; scores kept under others are made again. The
    file also says on what machine, at what commit and when they were made.
    """
    path = folder / f"{name}.json"
    on = settings if device == "cpu" else (settings, device)
    told = hashlib.sha256(repr(on).encode()).hexdigest()[:16]
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == told:
            scores: Scores = found["scores"]
            return scores
    scores = work()
    about = {
        "settings": told,
        "machine": machine(device),
        "commit": commit(),
        "date": str(date.today()),
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"scores": scores, **about}, indent=1) + "\n")
    part.replace(path)
    return scores


def set_apart(recipe: Recipe) -> str:
    """What sets a recipe apart from the defaults: the same after a setting was added."""
    return recipe.model_dump_json(exclude_defaults=True)


def commit() -> str:
    """The commit that is checked out, "+" after it if there are changes; empty outside of git."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True)
    head = git(["git", "rev-parse", "--short", "HEAD"], check=False).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"], check=False).stdout
    return head + "+" * bool(changed.strip())


def recipe_of(name: str, *, mode: str, **changed: Any) -> Recipe:
    """A built-in recipe in a mode, some of its settings changed: sections by mappings."""
    values = Recipe(**recipe_settings(tomllib.loads(load_recipe_text(name)), name, mode=mode))
    settings = values.model_dump()
    for key, value in changed.items():
        settings[key] = {**settings[key], **value} if isinstance(value, Mapping) else value
    return Recipe(**settings)


def trained(
    recipe: Recipe,
    images: MemoryImages,
    say: Callable[[str], None] = print,
    *,
    device: str = "cpu",
) -> tuple[TrainingState, float]:
    """A training to its end on a device, and its seconds; a line an epoch."""
    began = time.monotonic()

    def told(state: TrainingState) -> None:
        row = state.history[-1]
        terms = ("loss", "reconstruction", "mixture_kl", "contrast", "agreement", "pseudo_labels")
        parts = [f"{name} {row[name]:.3f}" for name in terms if name in row]
        say(
            f"  {row['phase']}, epoch {state.epoch}: {', '.join(parts)}, "
            f"{row['effective_components']:.1f} components, {row['images_per_second']:.0f} images/s"
        )

    state = fresh_state(recipe, mean_pixel=images.mean_pixel, device=device)
    train(state, Task(recipe, images), Watch(epoch=told, say=say))
    return state, time.monotonic() - began


def one_to_one_accuracy(labels: NDArray[np.integer], clusters: NDArray[np.integer]) -> float:
    """Share of rows whose cluster is matched with their label, each cluster with one label."""
    count = int(max(labels.max(), clusters.max())) + 1
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(labels))
