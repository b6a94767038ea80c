"""Starving components are named, and have members again once re-seeded."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as SklearnMixture

from avader.errors import InputError
from avader.mixture.sample import MixtureArrays
from avader.mixture.starving import reseeded, starving

D = 3
CENTRES = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
COUNTS = [3000, 1000, 600]
VARIANCES = np.array([[4.0, 1.0, 0.25], [1.0, 1.0, 1.0], [0.5, 1.0, 1.0]])


@pytest.fixture
def latents():
    which = np.repeat(np.arange(3), COUNTS)
    noise = np.random.default_rng(0).standard_normal((len(which), D))
    return CENTRES[which] + np.sqrt(VARIANCES[which]) * noise


def starved_mixture(far=500.0, extra=1):
    """The true mixture with more components, so far away that none has a member."""
    weights = np.array([*COUNTS, *[1e-6] * extra], dtype=float)
    means = np.concatenate([CENTRES, far + np.zeros((extra, D))])
    variances = np.concatenate([VARIANCES, np.full((extra, D), 1e-3)])
    return MixtureArrays(weights / weights.sum(), means, variances)


def oracle(mixture):
    fit = SklearnMixture(len(mixture.weights), covariance_type="diag")
    fit.weights_, fit.means_, fit.covariances_ = mixture
    fit.precisions_cholesky_ = 1 / np.sqrt(mixture.variances)
    return fit


def occupancy(mixture, latents):
    counts = np.bincount(oracle(mixture).predict(latents), minlength=len(mixture.weights))
    return counts / len(latents)


def test_who_starves():
    shares = np.array([0.5, 0.0, 0.3, 0.009, 0.191])
    assert starving(shares, least=0.01).tolist() == [1, 3]
    assert starving(shares, least=0.009).tolist() == [1]
    assert starving(shares, least=0.0).tolist() == []


@pytest.mark.parametrize("least", [-0.1, 0.2, float("nan")])
def test_a_least_occupancy_that_equal_shares_miss(least):
    with pytest.raises(InputError, match="wanted 0 to below 1 / 5 components"):
        starving(np.full(5, 0.2), least=least)


def test_a_starved_component_has_members_again(latents):
    mixture = starved_mixture()
    before = occupancy(mixture, latents)
    found = starving(before, least=0.01)
    assert found.tolist() == [3]
    fed = reseeded(mixture, latents, found)
    after = occupancy(fed, latents)
    # The most populous one is shared about equally, the others keep what they had.
    assert after[[0, 3]] == pytest.approx([before[0] / 2] * 2, rel=0.05)
    np.testing.assert_allclose(after[1:3], before[1:3], atol=0.005)
    np.testing.assert_array_equal(fed.means[1:3], mixture.means[1:3])
    np.testing.assert_array_equal(fed.variances[1:3], mixture.variances[1:3])
    assert fed.weights.sum() == pytest.approx(1, abs=1e-12)
    assert fed.weights[0] == fed.weights[3]


def test_halves_together_are_the_whole(latents):
    """Mean and variance of the two halves as one are those of what was split, nearly."""
    mixture = starved_mixture()
    fed = reseeded(mixture, latents, np.array([3]))
    halves = fed.means[[0, 3]]
    np.testing.assert_allclose(halves.mean(0), mixture.means[0], atol=0.1)
    total = fed.variances[[0, 3]].mean(0) + halves.var(0)
    np.testing.assert_allclose(total, mixture.variances[0], rtol=1e-9)
    # Split along the first dimension, which is the widest: half-normal means lie at 0.8 sigma.
    np.testing.assert_allclose(halves[1] - halves[0], [2 * 2 * 0.798, 0, 0], atol=0.15)


def test_the_data_are_hardly_less_likely(latents):
    mixture = starved_mixture()
    fed = reseeded(mixture, latents, np.array([3]))
    assert oracle(fed).score(latents) > oracle(mixture).score(latents) - 0.1


def test_many_starve_at_once(latents):
    mixture = starved_mixture(extra=4)
    fed = reseeded(mixture, latents, starving(occupancy(mixture, latents), least=0.01))
    after = occupancy(fed, latents)
    assert after.min() > 0.05
    assert len(np.unique(fed.means, axis=0)) == 7


def test_total_collapse_into_one(latents):
    """All rows in one wide component: the other three get members of it."""
    mixture = starved_mixture()
    wide = mixture.variances.copy()
    wide[0] = 400.0
    collapsed = MixtureArrays(np.array([1 - 3e-12, *[1e-12] * 3]), mixture.means.copy(), wide)
    collapsed.means[1:] = 1e4
    before = occupancy(collapsed, latents)
    assert before[0] == 1
    after = occupancy(reseeded(collapsed, latents, starving(before, least=0.01)), latents)
    assert after.min() > 0.05


@pytest.mark.parametrize("seed", range(20))
def test_both_halves_have_members_whatever_the_data(seed):
    """Skewed, tied and few rows."""
    random = np.random.default_rng(seed)
    latents = np.round(random.exponential(2.0, (2 + seed, 2)), seed % 3)
    latents[0] += 1.0
    mixture = MixtureArrays(
        np.array([1 - 1e-9, 1e-9]),
        np.stack([latents.mean(0), [1e3, 1e3]]),
        np.stack([random.uniform(0.1, 30, 2), [1e-3, 1e-3]]),
    )
    assert occupancy(mixture, latents)[1] == 0
    assert occupancy(reseeded(mixture, latents, np.array([1])), latents).min() > 0


def test_same_arguments_same_mixture_and_arguments_stay(latents):
    mixture = starved_mixture()
    kept = [part.copy() for part in mixture]
    first = reseeded(mixture, latents.astype(np.float32), np.array([3]))
    again = reseeded(mixture, latents.astype(np.float32), np.array([3]))
    for part, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, other)
    for part, other in zip(mixture, kept, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("starved", [[], [0]])
def test_nothing_to_do(latents, starved):
    """None starves, or the one named is the most populous: nothing changes."""
    mixture = starved_mixture()
    for part, other in zip(
        reseeded(mixture, latents, np.array(starved, int)), mixture, strict=True
    ):
        np.testing.assert_allclose(part, other, rtol=1e-12)


def test_equal_rows_cannot_be_split():
    mixture = starved_mixture()
    same = reseeded(mixture, np.full((50, D), 0.1), np.array([3]))
    np.testing.assert_array_equal(same.means, mixture.means)
    np.testing.assert_allclose(same.weights, mixture.weights)
