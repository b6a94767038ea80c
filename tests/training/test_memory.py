"""Memory does not grow with the epochs."""

import subprocess
import sys

import pytest

MEASURE = """
import os, torch
from avader.training.data import MemoryImages, held_out_rows
from avader.training.loop import Watch, train
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.tiny import changed, images

torch.set_num_threads(1)
recipe = changed(
    contrast={"weight": 1.0, "projection": 8}, agreement=0.1, held_out=0.1, optimiser={"batch": 64},
    schedule={"gamma_epochs": 10, "periods": 2, "annealing_epochs": 3, "static_epochs": 2},
)
page = os.sysconf("SC_PAGE_SIZE")

def told(state):
    state.to_bytes()  # as a checkpoint does
    print(int(open("/proc/self/statm").read().split()[1]) * page / 2**20, flush=True)

source = MemoryImages(images(2000), held_out=held_out_rows(2000, share=0.1, seed=1))
train(fresh_state(recipe, mean_pixel=0.2), Task(recipe, source), Watch(epoch=told))
"""
WARM = 12
"""Epochs after which all has been used once: the gamma phase, the first mixture, annealing."""
MOST = 2.0
"""MiB that may come and go."""


@pytest.mark.long
def test_memory_is_flat_over_twenty_epochs():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sizes = [float(line) for line in done.stdout.split()]
    assert len(sizes) == 20
    gamma, mixture = sizes[2:10], sizes[WARM:]
    assert max(gamma) - min(gamma) < MOST, sizes
    assert max(mixture) - min(mixture) < MOST, sizes
