"""On a GPU the training is the same, to rounding, and goes on from a checkpoint of either."""

import pytest
import torch

from avader.recipe import Recipe
from avader.training.data import MemoryImages, held_out_rows
from avader.training.loop import Watch, train
from avader.training.state import TrainingState, fresh_state
from avader.training.task import Task
from tests.training.tiny import changed, images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

OURS = changed(
    precision="float32",
    outside_weight=0.5,
    agreement=1.0,
    contrast={"weight": 1.0, "projection": 8},
    mixture={"start": "graph", "responsibilities": "bound"},
    schedule={"pseudo_labels": 0.3},
)
PAPER = changed(precision="float32")


def trained(
    recipe: Recipe, device: str, *, begun: bytes | None = None
) -> tuple[TrainingState, list[bytes]]:
    """The state at the end, and a checkpoint of every epoch; begun: a checkpoint to go on from."""
    state = fresh_state(recipe, mean_pixel=0.2, device=device)
    if begun is not None:
        state.restore(begun)
    kept: list[bytes] = []
    data = MemoryImages(images(), held_out=held_out_rows(60, share=0.1, seed=0))
    train(state, Task(recipe, data), Watch(epoch=lambda state: kept.append(state.to_bytes())))
    return state, kept


def losses(state: TrainingState) -> list[float]:
    return [float(row["loss"]) for row in state.history]


@pytest.mark.parametrize("recipe", [PAPER, OURS], ids=["paper", "ours"])
def test_a_gpu_follows_a_cpu(recipe):
    on_cpu, _ = trained(recipe, "cpu")
    on_gpu, _ = trained(recipe, "cuda")
    assert losses(on_gpu)[:3] == pytest.approx(losses(on_cpu)[:3], rel=1e-3)
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=0.05)


@pytest.mark.parametrize("recipe", [PAPER, OURS], ids=["paper", "ours"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_checkpoint_of_a_gpu_goes_on(recipe, device):
    whole, kept = trained(recipe, "cuda")
    for at in (1, 4):  # in the gamma phase, and when the mixture trains
        rest, _ = trained(recipe, device, begun=kept[at])
        assert losses(rest) == pytest.approx(losses(whole), rel=1e-3 if device == "cuda" else 0.02)


def test_a_checkpoint_within_an_epoch_of_a_gpu_goes_on():
    kept: list[bytes] = []
    state, data = fresh_state(PAPER, mean_pixel=0.2, device="cuda"), MemoryImages(images())
    train(state, Task(PAPER, data), Watch(batch=lambda state: kept.append(state.to_bytes())))
    for at in (1, -2):
        again = fresh_state(PAPER, mean_pixel=0.2, device="cuda")
        again.restore(kept[at])
        assert again.progress is not None
        train(again, Task(PAPER, data), Watch())
        assert losses(again) == pytest.approx(losses(state), rel=1e-3)


def test_bfloat16_learns_as_float32():
    fast, _ = trained(OURS.model_copy(update={"precision": "bfloat16"}), "cuda")
    assert losses(fast) == pytest.approx(losses(trained(OURS, "cuda")[0]), rel=0.1)
