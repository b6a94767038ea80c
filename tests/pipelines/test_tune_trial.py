"""A trial of `tune` in this process: what it reports, and what it keeps."""

import logging
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.tune
import torch

from avader.io.manifest import read_manifest
from avader.pipelines.tuning import trial as trials
from avader.pipelines.tuning.trial import trial_folder
from avader.recipe import Recipe
from avader.training.data import MemoryImages
from tests.pipelines.packed import write_packed
from tests.training.tiny import changed, images

RATES = {"optimiser.learning_rate": {"low": 1e-6, "high": 5e-3, "log": True}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images())


@pytest.fixture
def alone(data, tmp_path, monkeypatch):
    """Runs a trial in this process: what it reports, in order, and its folder."""
    for module, name in ((trials, "tune_process"), (logging, "disable")):
        monkeypatch.setattr(module, name, lambda *_: None)

    def run(recipe: Recipe, values: dict[str, float], report=None) -> tuple[list[dict], str]:
        told: list[dict] = []
        monkeypatch.setattr(ray.tune, "report", report or told.append)
        search = trials.Search(recipe, read_manifest(data), str(tmp_path), "cpu", penalty=100.0)
        trials.trial(values, search)
        return told, trial_folder(str(tmp_path), values)

    return run


def test_a_trial_that_wants_too_much_memory_fails_by_itself(alone, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.")

    monkeypatch.setattr(trials, "train", fail)
    told, _ = alone(changed(search=RATES), {"optimiser.learning_rate": 1e-3})
    assert [row["failure"] for row in told] == [
        "out of memory: CUDA out of memory. Tried to allocate 90.00 GiB."
    ]
    assert not told[0]["ends_search"]


def test_a_trial_keeps_its_state_within_an_epoch_where_asked(alone, tmp_path):
    class EndError(Exception):
        pass

    def report(_):
        raise EndError

    values = {"optimiser.learning_rate": 1e-3}
    for steps, kept in ((0, []), (1, ["state.pt"])):
        recipe = changed(search=RATES, held_out=0.1, checkpoint_epochs=1000, checkpoint_steps=steps)
        with pytest.raises(EndError):
            alone(recipe, values, report)
        folder = Path(trial_folder(str(tmp_path), values))
        assert [path.name for path in folder.glob("*")] == kept


def test_streamed_images_that_cannot_be_used_end_the_search(tmp_path, ray_session, monkeypatch):
    """What is wrong with them is seen when their mean is taken."""
    pixels = images().astype(np.float16) / 255
    pixels[7] = np.nan
    data = write_packed(tmp_path / "packed", pixels, per_shard=10)
    monkeypatch.setattr(trials, "tune_process", lambda: None)
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    told: list[dict] = []
    monkeypatch.setattr(ray.tune, "report", told.append)
    few = 40 * 512 / 2**30  # GiB of 40 images of the 60
    recipe = changed(search=RATES, window=20)
    search = trials.Search(recipe, read_manifest(data), str(tmp_path), "cpu", 100.0, few)
    trials.trial({"optimiser.learning_rate": 1e-3}, search)
    assert [row["ends_search"] for row in told] == [True]
    assert "wanted finite pixels, got 1 images of 10" in told[0]["failure"]


def test_a_trial_that_goes_on_tells_its_epochs_again_as_such(alone, monkeypatch):
    """And takes no mean of its images, which it has."""
    values = {"optimiser.learning_rate": 1e-3}
    first, _ = alone(changed(search=RATES, held_out=0.1), values)
    monkeypatch.setattr(MemoryImages, "mean_pixel", None)
    again, _ = alone(changed(search=RATES, held_out=0.1), values)
    assert [row["again"] for row in first] == [False] * len(first)
    assert [row["again"] for row in again] == [True] * len(first)
    assert [row["score"] for row in again] == [row["score"] for row in first]
