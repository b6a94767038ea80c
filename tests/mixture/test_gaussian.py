"""Against scipy's multivariate normal and scikit-learn's mixture, with set parameters."""

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as scipy_entropy
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture as SklearnMixture

from avader.mixture.gaussian import (
    GaussianMixture,
    batch_scaled_responsibilities,
    closed_form_responsibilities,
    entropy,
    integrated_responsibilities,
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


@pytest.fixture
def posteriors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    return rng.normal(0, 3, (B, D)), rng.normal(-1, 1.5, (B, D))


def test_closed_form_by_quadrature(arrays, mixture, posteriors):
    """E_q log N is of a quadratic: three Gauss-Hermite nodes a dimension give it exactly."""
    (weights, means, variances), (mean, logvar) = arrays, posteriors
    nodes, shares = np.polynomial.hermite_e.hermegauss(3)
    z = mean[..., None] + np.exp(logvar / 2)[..., None] * nodes  # (B, D, 3)
    spread = np.sqrt(variances)[..., None]
    log_n = norm.logpdf(z[:, None], means[..., None], spread)  # (B, K, D, 3)
    expected = (log_n @ shares / shares.sum()).sum(-1) + np.log(weights)
    g = closed_form_responsibilities(*map(torch.from_numpy, posteriors), mixture)
    np.testing.assert_allclose(g, softmax(expected, axis=1), atol=1e-12)


def test_closed_form_by_monte_carlo(arrays, mixture, posteriors):
    (weights, means, variances), (mean, logvar) = arrays, posteriors
    noise = np.random.default_rng(7).standard_normal((50_000, D))
    z = mean[0] + np.exp(logvar[0] / 2) * noise
    expected = scipy_log_density(z, means, variances).mean(0) + np.log(weights)
    g = closed_form_responsibilities(*map(torch.from_numpy, posteriors), mixture)
    np.testing.assert_allclose(g[0], softmax(expected), atol=0.01)


def test_integrated_by_integration(arrays, mixture, posteriors):
    """The integral of q(z) N(z; m, v) is a product of one-dimensional integrals."""
    (weights, means, variances), (mean, logvar) = arrays, posteriors
    expected = np.log(weights) + np.zeros((3, K))
    z = np.linspace(-60, 60, 60_001)
    for b, k, d in np.ndindex(3, K, D):
        q = norm.pdf(z, mean[b, d], np.exp(logvar[b, d] / 2))
        n = norm.pdf(z, means[k, d], np.sqrt(variances[k, d]))
        expected[b, k] += np.log(trapezoid(q * n, z))
    g = integrated_responsibilities(*map(torch.from_numpy, posteriors), mixture)
    np.testing.assert_allclose(g[:3], softmax(expected, axis=1), rtol=1e-6)
    np.testing.assert_allclose(g.sum(-1), 1, atol=1e-12)


def test_integrated_by_monte_carlo(arrays, mixture, posteriors):
    """The mixture's parts averaged over draws z ~ q."""
    (weights, means, variances), (mean, logvar) = arrays, posteriors
    noise = np.random.default_rng(7).standard_normal((50_000, D))
    g = integrated_responsibilities(*map(torch.from_numpy, posteriors), mixture).numpy()
    for row in np.argsort(-g.max(axis=1))[[0, B // 2, -1]]:  # a certain, a middling, an open one
        z = mean[row] + np.exp(logvar[row] / 2) * noise
        joint = scipy_log_density(z, means, variances) + np.log(weights)
        expected = softmax(logsumexp(joint, axis=0))
        np.testing.assert_allclose(g[row], expected, atol=0.02)


@pytest.mark.parametrize("logvar", [-1e30, 800.0, 1e30])
def test_integrated_over_posteriors_that_are_extreme(mixture, z, logvar):
    points = torch.from_numpy(z)
    g = integrated_responsibilities(points, torch.full_like(points, logvar), mixture)
    assert g.isfinite().all()
    np.testing.assert_allclose(g.sum(-1), 1, atol=1e-12)


@pytest.mark.parametrize("kind", [closed_form_responsibilities, integrated_responsibilities])
def test_sharp_posteriors_give_the_exact_responsibilities(mixture, z, kind):
    points = torch.from_numpy(z)
    g = kind(points, torch.full_like(points, -80.0), mixture)
    np.testing.assert_allclose(g, responsibilities(points, mixture), atol=1e-12)
    assert kind(points.float(), torch.zeros_like(points).float(), mixture).isfinite().all()


def test_batch_scaled_is_numpys(mixture, z):
    joint = log_joint(torch.from_numpy(z), mixture)
    a = -joint.numpy()
    expected = softmax(-20.0 * (a - a.min()) / (a.max() - a.min()), axis=1)
    least, greatest = (-joint).min(), (-joint).max()
    g = batch_scaled_responsibilities(joint, least=least, greatest=greatest, scale=20.0)
    np.testing.assert_allclose(g, expected, rtol=1e-12)
    # Half a batch with the whole batch's extremes: as in the whole batch.
    half = batch_scaled_responsibilities(joint[::2], least=least, greatest=greatest, scale=20.0)
    assert torch.equal(half, g[::2])
    # From the least to the greatest of a row lie at most L nats: 50 without being told.
    whole = batch_scaled_responsibilities(joint, least=least, greatest=greatest)
    logs = whole.log()
    assert (logs.max(1).values - logs.min(1).values).max() <= 50 + 1e-9
    np.testing.assert_allclose(
        logs[0] - logs[0, 0], 50 * (a[0, 0] - a[0]) / (a.max() - a.min()), atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_scaled_of_equal_terms_is_uniform(dtype):
    joint = torch.full((4, K), -123.4, dtype=dtype, requires_grad=True)
    g = batch_scaled_responsibilities(joint, least=(-joint).min(), greatest=(-joint).max())
    np.testing.assert_allclose(g.detach(), 1 / K, rtol=1e-6)
    g[:, 0].log().sum().backward()
    assert joint.grad.isfinite().all()
