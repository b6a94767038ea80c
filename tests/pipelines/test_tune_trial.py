"""A trial of `tune` in this process: what it reports, and what it keeps."""

import logging
from pathlib import Path

import pytest
import ray
import ray.tune
import torch

from avader.io.manifest import read_manifest
from avader.pipelines.tuning import trial as trials
from avader.pipelines.tuning.trial import trial_folder
from avader.recipe import Recipe
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
