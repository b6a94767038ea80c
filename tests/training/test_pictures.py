"""Pictures of a model in training: its own numbers, and nothing of the training used up."""

import numpy as np
import pytest
import torch

from avader.training.data import MemoryImages
from avader.training.loop import Watch, train
from avader.training.mixture import start_mixture
from avader.training.pictures import examples, pictures
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.tiny import RECIPE, changed, images


def begun(recipe=RECIPE):
    return fresh_state(recipe, mean_pixel=0.2)


@pytest.mark.parametrize(
    ("count", "rows"), [(3, [0, 1, 2]), (12, range(12)), (24, range(1, 24, 2)), (0, [])]
)
def test_examples_are_spread_evenly(count, rows):
    pixels = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    assert examples(MemoryImages(pixels)).ravel().tolist() == list(rows)


def test_examples_are_held_out_where_some_are():
    pixels = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1)
    held_out = np.array([3, 50, 99])
    assert examples(MemoryImages(pixels, held_out=held_out)).ravel().tolist() == [3, 50, 99]


def test_reconstructions_are_those_of_the_means():
    state, pixels = begun(), images(5)
    made = pictures(state, pixels)
    np.testing.assert_array_equal(made.images, (pixels / np.float32(255)).astype(np.float32))
    with torch.no_grad():
        for n in range(5):
            mean, _ = state.model.encode(torch.from_numpy(made.images[n : n + 1]))
            wanted = state.model.decode(mean)[0]
            np.testing.assert_allclose(made.reconstructions[n], wanted, atol=1e-6)


def test_samples_are_of_the_unit_gaussian_before_there_is_a_mixture():
    made = pictures(begun(), images(2))
    assert (made.components, made.weights) == ([], [])
    assert made.samples.shape == (1, 8, 1, 16, 16)


def test_samples_are_of_each_component():
    """Components of no width: every sample is the decoded mean."""
    state = begun()
    means = np.array([[2.0, 0, 0], [-1, 1, 3]])
    state.model.set_mixture([0.25, 0.75], means, np.full((2, 3), 1e-12))
    state.model.variance_floor = 0.0
    with torch.no_grad():
        state.model.mixture_log_variances.fill_(-60.0)
        wanted = state.model.decode(torch.from_numpy(means).float()).numpy()
    state.mixture_ready = True
    made = pictures(state, images(2))
    assert made.components == [0, 1]
    assert made.weights == pytest.approx([0.25, 0.75])
    np.testing.assert_allclose(made.samples, np.stack([wanted] * 8, 1), atol=1e-5)


def test_the_heaviest_components_are_shown():
    state = begun(changed(mixture={"components": 20}))
    weights = np.arange(20) % 7 + 1.0
    state.model.set_mixture(weights, np.zeros((20, 3)), np.ones((20, 3)))
    state.mixture_ready = True
    made = pictures(state, images(2))
    assert made.samples.shape[0] == 12
    assert made.components == sorted(made.components)
    shown = weights[made.components]
    assert shown.min() >= np.delete(weights, made.components).max()


def test_the_training_is_the_same_with_pictures_and_without():
    """Taken after every epoch, in train mode; the mode is left as it was."""

    def look(state):
        state.model.train()
        pictures(state, images(3))
        assert state.model.training

    with_pictures, without = begun(), begun()
    task = Task(RECIPE, MemoryImages(images()))
    train(with_pictures, task, Watch(epoch=look))
    train(without, task, Watch())
    for one, two in zip(with_pictures.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_first_mixture_is_drawn_from():
    state = begun()
    start_mixture(state, Task(RECIPE, MemoryImages(images())))
    assert pictures(state, images(2)).components == [0, 1]
