"""Two processes that add up by gloo train as one does: all that ours compares between images."""

import json
import subprocess
import sys

import pytest

TRAINING = """
import json, sys, torch
from torch import distributed
from avader.training.data import MemoryImages, held_out_rows
from avader.training.group import Group
from avader.training.loop import Watch, train
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.tiny import changed, images

rank, world, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if world > 1:
    meeting = "file://" + meeting
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
recipe = changed(
    contrast={"weight": 0.5, "projection": 5, "views": {"rotation": 20.0, "shift": 2.0}},
    agreement=0.3, mixture={"scaled": 50.0, "least_share": 0.01}, held_out=0.1,
    schedule={"pseudo_labels": 0.2, "gamma_epochs": 2, "annealing_epochs": 1, "periods": 1},
)
task = Task(recipe, MemoryImages(images(125), held_out=held_out_rows(125, share=0.1, seed=1)),
            Group(rank, world))
state = fresh_state(recipe, mean_pixel=0.2)
train(state, task, Watch())
weights = float(sum(p.double().abs().sum() for p in state.parameters()))
print(json.dumps({"history": state.history, "weights": weights}))
if world > 1:
    distributed.destroy_process_group()
"""


def trained(world: int, meeting) -> list[dict]:
    """What each of `world` processes ended with."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(rank), str(world), str(meeting)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * world, said
    return [json.loads(out) for out, _ in said]


@pytest.mark.long
def test_two_processes_follow_one(tmp_path):
    (one,) = trained(1, tmp_path / "one")
    first, second = trained(2, tmp_path / "two")
    assert first["weights"] == second["weights"], "the ranks parted"
    assert len(one["history"]) == 4
    names = (
        *("loss", "reconstruction", "unit_kl", "contrast"),
        *("held_out_reconstruction", "held_out_kl", "effective_components"),
    )
    for alone, together in zip(one["history"], first["history"], strict=True):
        for name in names:
            assert together[name] == pytest.approx(alone[name], rel=1e-3), (name, alone["epoch"])
    mixed = [row for row in one["history"] if row["phase"] != "gamma"]
    assert all(row["agreement"] < 0 and row["mixture_kl"] > 0 for row in mixed)
    assert mixed[0]["pseudo_labels"] > 0
