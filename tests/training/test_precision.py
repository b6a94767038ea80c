"""The arithmetic of a training: what the recipe says, or what the machine has."""

import pytest
import torch

from avader.recipe import Recipe
from avader.training.data import MemoryImages
from avader.training.loop import Watch, train
from avader.training.precision import has_native_bfloat16, precision_on
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.test_loop import changed, images


@pytest.mark.parametrize("feature", ["amx_bf16", "avx512_bf16", "bf16"])
def test_auto_is_what_the_processor_has(monkeypatch, feature):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True, "avx2": True})
    assert precision_on(Recipe(precision="auto"), "cpu") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: False, "avx2": True})
    assert precision_on(Recipe(precision="auto"), "cpu") == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_named_precision_is_kept_on_every_machine(precision):
    assert precision_on(Recipe(precision=precision), "cpu") == precision


def test_auto_trains_as_the_precision_that_it_stands_for():
    losses = []
    for precision in ("auto", "bfloat16" if has_native_bfloat16("cpu") else "float32"):
        recipe = changed(precision=precision)
        state = fresh_state(recipe, mean_pixel=0.1)
        train(state, Task(recipe, MemoryImages(images())), Watch())
        losses.append([row["loss"] for row in state.history])
    assert losses[0] == losses[1]
