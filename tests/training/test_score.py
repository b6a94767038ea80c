"""The score of a search: a bound that no trial can scale, less what is taken off for collapse."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from avader.model.schedule import total_epochs
from avader.training.data import MemoryImages, as_images, held_out_rows
from avader.training.loop import Watch, train
from avader.training.score import WORST, bound, collapse, score
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.tiny import RECIPE, changed, images

KL_WEIGHT, GAMMA = RECIPE.schedule.kl_weight, RECIPE.schedule.gamma


def row(epoch: int, **given: float) -> dict:
    facts = {"held_out_reconstruction": 8.0, "held_out_kl": 20.0, "effective_components": 2.0}
    return {"epoch": epoch, **facts, **given}


def test_the_bound_is_that_of_a_gaussian_of_variance_half_the_weight():
    """Differences between models are those of log N(x; x_hat, w / 2) - KL, by scipy."""
    rng = np.random.default_rng(0)
    x, near, far = rng.random(50), rng.random(50), rng.random(50)
    sigma = math.sqrt(KL_WEIGHT / 2)

    def by_scipy(x_hat, kl):
        return stats.norm(x_hat, sigma).logpdf(x).sum() - kl

    def ours(x_hat, kl):
        error = ((x - x_hat) ** 2).sum()
        return bound(row(9, held_out_reconstruction=error, held_out_kl=kl), RECIPE)

    assert ours(near, 3.0) - ours(far, 7.0) == pytest.approx(
        by_scipy(near, 3.0) - by_scipy(far, 7.0)
    )


def test_the_gamma_phase_weighs_the_kl_as_it_trains():
    assert bound(row(1), RECIPE) == pytest.approx(-(8 + GAMMA * 20) / KL_WEIGHT)
    assert bound(row(4), RECIPE) == pytest.approx(-(8 + KL_WEIGHT * 20) / KL_WEIGHT)


@pytest.mark.parametrize(
    ("effective", "components", "expected"),
    [
        (12.0, 12, 0.0),
        (6.0, 12, 0.0),
        (3.0, 12, 100 * math.log(2)),
        (1.0, 12, 100 * math.log(6)),
        (0.0, 12, 0.0),  # the mixture has not trained
        (1.0, 1, 0.0),
    ],
)
def test_collapse(effective, components, expected):
    assert collapse(effective, components, 100.0) == pytest.approx(expected)


def test_a_collapsed_training_scores_below_a_slightly_worse_one():
    """All images in one component of twelve, for a bound that is 20 nats better."""
    whole = score(row(9, effective_components=8.0), RECIPE, components=12, penalty=100)
    collapsed = row(9, effective_components=1.1, held_out_kl=0.0)
    assert bound(collapsed, RECIPE) == pytest.approx(bound(row(9), RECIPE) + 20)
    assert score(collapsed, RECIPE, components=12, penalty=100) < whole - 100
    assert score(collapsed, RECIPE, components=12, penalty=0) > whole


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_the_worst(value):
    assert score(row(9, held_out_kl=value), RECIPE, components=2, penalty=1) == WORST


def trained(recipe):
    pixels = images(120)
    held_out = held_out_rows(len(pixels), share=recipe.held_out, seed=recipe.seed)
    task = Task(recipe, MemoryImages(pixels, held_out=held_out))
    state = fresh_state(recipe, mean_pixel=task.images.mean_pixel)
    train(state, task, Watch())
    return state, task


def test_of_real_trainings():
    """A good learning rate beats a hopeless one, and the reconstruction is that of held-out images
    computed here."""
    scores = {}
    for rate in (5e-3, 1e-6):
        recipe = changed(held_out=0.2, optimiser={"learning_rate": rate})
        state, task = trained(recipe)
        last = state.history[-1]
        assert last["epoch"] == total_epochs(recipe.schedule)
        scores[rate] = score(last, RECIPE, components=2, penalty=100)
    assert scores[5e-3] > scores[1e-6] + 10
    x = as_images(task.images.pixels[task.images.held_out_rows])
    with torch.no_grad():
        x_hat = state.model.eval().decode(state.model.encode(x)[0])
    error = ((x - x_hat) ** 2).sum((1, 2, 3)).mean()
    assert float(last["held_out_reconstruction"]) == pytest.approx(float(error), rel=0.05)
