"""The first mixture: known blobs are found, bad latents are refused."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import multivariate_normal

from avader.errors import InputError
from avader.mixture.initial import initial_mixture, widened

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 1.0], [0.0, 7.0, -2.0]])
VARIANCES = np.array([[1.0, 0.5, 0.2], [0.3, 2.0, 1.0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def blobs():
    random = np.random.default_rng(5)
    which = random.choice(3, size=6000, p=WEIGHTS)
    noise = random.standard_normal((6000, 3))
    return (MEANS[which] + np.sqrt(VARIANCES[which]) * noise).astype(np.float32)


def fit(latents, **changed):
    settings = {"components": 3, "starts": 3, "seed": 1, "variance_floor": 1e-4}
    return initial_mixture(latents, **{**settings, **changed})


def test_known_blobs_are_found(blobs):
    weights, means, variances = fit(blobs)
    distance = np.square(means[:, None] - MEANS).sum(2)
    found = linear_sum_assignment(distance)[1]
    np.testing.assert_allclose(weights, WEIGHTS[found], atol=0.02)
    np.testing.assert_allclose(means, MEANS[found], atol=0.1)
    np.testing.assert_allclose(variances, VARIANCES[found], rtol=0.12)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_same_seed_same_mixture(blobs):
    first, second = fit(blobs[:500]), fit(blobs[:500])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_more_starts_are_never_less_likely(blobs):
    def likelihood(mixture):
        density = sum(
            weight * multivariate_normal.pdf(blobs[:800], mean, np.diag(variance))
            for weight, mean, variance in zip(*mixture, strict=True)
        )
        return np.log(density).mean()

    one, many = (likelihood(fit(blobs[:800], components=6, starts=starts)) for starts in (1, 8))
    assert many >= one - 1e-4


def test_variances_have_a_floor():
    latents = np.repeat(np.arange(4.0), 25)[:, None] * np.ones((1, 2))
    _, _, variances = fit(latents, components=4, variance_floor=0.01)
    assert variances.min() >= 0.01


def test_fewer_distinct_latents_than_components():
    weights, means, variances = fit(np.zeros((10, 2)))
    assert all(np.isfinite(part).all() for part in (weights, means, variances))
    assert weights.min() > 0


def test_widened_by_moments(blobs):
    """One component: the variance becomes its own plus the mean posterior variance."""
    logvars = np.random.default_rng(0).normal(size=blobs.shape)
    mixture = fit(blobs, components=1)
    _, means, variances = widened(mixture, blobs, logvars)
    np.testing.assert_array_equal(means, mixture[1])
    np.testing.assert_allclose(variances[0], mixture[2][0] + np.exp(logvars).mean(0))


def test_too_few_latents():
    with pytest.raises(InputError, match="at least 3 latents, one per component, got 2"):
        fit(np.zeros((2, 2)))


def test_latents_that_are_not_finite():
    latents = np.zeros((10, 2))
    latents[3] = np.nan
    with pytest.raises(InputError, match="1 of 10 rows that are not"):
        fit(latents)
