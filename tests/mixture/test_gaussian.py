"""Against scipy's multivariate normal and scikit-learn's mixture, with set parameters."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import entropy as scipy_entropy
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as SklearnMixture

from avader.mixture.gaussian import (
    GaussianMixture,
    entropy,
    log_density,
    log_joint,
    log_likelihood,
    responsibilities,
)

B, K, D = 40, 5, 7


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(K))
    return weights, rng.normal(0, 3, (K, D)), rng.uniform(0.01, 9, (K, D))


@pytest.fixture
def mixture(arrays) -> GaussianMixture:
    weights, means, variances = map(torch.from_numpy, arrays)
    return GaussianMixture(weights.log(), means, variances)


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 4, (B, D))


def scipy_log_density(z, means, variances):
    columns = [
        multivariate_normal(m, np.diag(v)).logpdf(z) for m, v in zip(means, variances, strict=True)
    ]
    return np.stack(columns, axis=1)


def test_density_and_joint_are_scipys(arrays, mixture, z):
    weights, means, variances = arrays
    expected = scipy_log_density(z, means, variances)
    points = torch.from_numpy(z)
    np.testing.assert_allclose(log_density(points, mixture), expected, rtol=1e-12)
    np.testing.assert_allclose(log_joint(points, mixture), expected + np.log(weights), rtol=1e-12)
    np.testing.assert_allclose(
        log_likelihood(points, mixture), logsumexp(expected + np.log(weights), axis=1), rtol=1e-12
    )


def test_responsibilities_and_likelihood_are_sklearns(arrays, mixture, z):
    weights, means, variances = arrays
    oracle = SklearnMixture(K, covariance_type="diag")
    oracle.weights_, oracle.means_, oracle.covariances_ = weights, means, variances
    oracle.precisions_cholesky_ = 1 / np.sqrt(variances)
    g = responsibilities(torch.from_numpy(z), mixture)
    np.testing.assert_allclose(g, oracle.predict_proba(z), atol=1e-12)
    np.testing.assert_allclose(g.sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(
        log_likelihood(torch.from_numpy(z), mixture), oracle.score_samples(z), rtol=1e-11
    )


def test_entropy_is_scipys_and_zero_where_certain(mixture, z):
    g = responsibilities(torch.from_numpy(z), mixture)
    np.testing.assert_allclose(entropy(g), scipy_entropy(g.numpy(), axis=1), atol=1e-12)
    assert entropy(torch.eye(K)).tolist() == [0.0] * K
    assert entropy(torch.full((1, K), 1 / K)).item() == pytest.approx(np.log(K))


@pytest.mark.parametrize("far", [1e3, 1e10, float(np.finfo(np.float32).max)])
def test_far_points_still_get_probabilities(mixture, far):
    directions = np.random.default_rng(5).choice([-1, 1], (B, D))
    g = responsibilities(torch.from_numpy(directions * far), mixture)
    assert torch.isfinite(g).all()
    np.testing.assert_allclose(g.sum(-1), 1, atol=1e-12)
    assert torch.isfinite(log_likelihood(torch.from_numpy(directions * far), mixture)).all()
    assert torch.isfinite(entropy(g)).all()


def test_far_from_all_the_widest_component_wins():
    mixture = GaussianMixture(
        torch.tensor([0.999, 0.001], dtype=torch.float64).log(),
        torch.zeros(2, 1, dtype=torch.float64),
        torch.tensor([[1.0], [1.1]], dtype=torch.float64),
    )
    g = responsibilities(torch.tensor([[1e4]], dtype=torch.float64), mixture)
    assert g.tolist() == [[0.0, 1.0]]


def test_gradients_flow_and_are_finite(mixture, z):
    parameters = GaussianMixture(*(part.clone().requires_grad_() for part in mixture))
    log_likelihood(torch.from_numpy(z), parameters).sum().backward()
    assert all(torch.isfinite(part.grad).all() for part in parameters)
