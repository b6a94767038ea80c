"""Loss terms against scipy, numpy loops and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, rel_entr
from scipy.stats import norm
from sklearn.metrics import mutual_info_score

from avader.mixture.gaussian import GaussianMixture, responsibilities
from avader.model.losses import (
    contrast,
    l2,
    mixture_kl,
    mutual_information,
    pseudo_labels,
    reconstruction,
    unit_kl,
)
from avader.model.vade import VaDE
from avader.recipe import Network

B, D, K = 5, 4, 3


@pytest.fixture
def numbers():
    """mean, logvar (B, D), g (B, K) and a mixture, in float64."""
    random = np.random.default_rng(3)
    mean, logvar = random.normal(size=(B, D)), random.normal(size=(B, D)) - 1
    g = random.dirichlet(np.ones(K), size=B)
    weights = random.dirichlet(np.ones(K))
    means, variances = 2 * random.normal(size=(K, D)), random.uniform(0.2, 2.0, (K, D))
    parts = (np.log(weights), means, variances)
    mixture = GaussianMixture(*(torch.from_numpy(part) for part in parts))
    return torch.from_numpy(mean), torch.from_numpy(logvar), torch.from_numpy(g), mixture


def test_squared_error_is_a_sum_over_bands_and_pixels():
    random = np.random.default_rng(0)
    x, x_hat = random.random((2, B, 3, 8, 8)).astype(np.float32)
    wanted = [((x[i] - x_hat[i]) ** 2).mean() * 3 * 8 * 8 for i in range(B)]
    got = reconstruction(torch.from_numpy(x), torch.from_numpy(x_hat), "mse")
    assert got.shape == (B,)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_cross_entropy_is_a_sum_of_nats():
    random = np.random.default_rng(0)
    x, p = random.random((2, B, 2, 4, 4))
    wanted = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    got = reconstruction(torch.from_numpy(x), torch.from_numpy(p), "cross-entropy")
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_cross_entropy_at_the_limits_is_finite():
    x = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    x_hat = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2).requires_grad_()
    error = reconstruction(x, x_hat, "cross-entropy")
    assert error.item() == pytest.approx(200.0)  # two logarithms cut at -100, two at 0
    error.sum().backward()
    assert torch.isfinite(x_hat.grad).all()


def test_unit_kl_by_integration(numbers):
    """Dimension by dimension, the integral of q log (q / p) on a fine grid."""
    mean, logvar, _, _ = numbers
    grid = np.linspace(-20, 20, 40_001)
    wanted = np.zeros(B)
    for b, d in np.ndindex(B, D):
        q = norm.pdf(grid, mean[b, d], math.exp(logvar[b, d] / 2))
        wanted[b] += rel_entr(q, norm.pdf(grid)).sum() * (grid[1] - grid[0])
    np.testing.assert_allclose(unit_kl(mean, logvar), wanted, rtol=1e-9)


def test_mixture_kl_by_monte_carlo(numbers):
    """E over q(z) g(c) of log q(z) + log g(c) - log p(z, c), with g fixed."""
    mean, logvar, g, mixture = (
        numbers[0].numpy(),
        numbers[1].numpy(),
        numbers[2].numpy(),
        numbers[3],
    )
    random = np.random.default_rng(11)
    draws = 400_000
    for b in range(B):
        scale = np.exp(logvar[b] / 2)
        z = mean[b] + scale * random.standard_normal((draws, D))
        component = random.choice(K, size=draws, p=g[b])
        m, v = mixture.means.numpy()[component], mixture.variances.numpy()[component]
        value = norm.logpdf(z, mean[b], scale).sum(1) + np.log(g[b])[component]
        value -= mixture.log_weights.numpy()[component] + norm.logpdf(z, m, np.sqrt(v)).sum(1)
        got = mixture_kl(*(part[b : b + 1] for part in numbers[:3]), mixture).item()
        assert abs(got - value.mean()) < 5 * value.std() / math.sqrt(draws)


def test_mixture_kl_in_loops(numbers):
    """The method's formula, written out term by term."""
    mean, logvar, g, mixture = numbers
    wanted = np.zeros(B)
    for b in range(B):
        for c in range(K):
            inner = sum(
                math.log(mixture.variances[c, d])
                + (math.exp(logvar[b, d]) + (mean[b, d] - mixture.means[c, d]) ** 2)
                / mixture.variances[c, d]
                for d in range(D)
            )
            wanted[b] += g[b, c] * (0.5 * inner - mixture.log_weights[c] + math.log(g[b, c]))
        wanted[b] -= 0.5 * sum(1 + logvar[b, d] for d in range(D))
    np.testing.assert_allclose(mixture_kl(mean, logvar, g, mixture), wanted, rtol=1e-12)


def test_mixture_kl_of_one_unit_component_is_the_unit_kl(numbers):
    mean, logvar, _, _ = numbers
    unit = GaussianMixture(torch.zeros(1), torch.zeros(1, D), torch.ones(1, D))
    got = mixture_kl(mean, logvar, torch.ones(B, 1), unit)
    torch.testing.assert_close(got, unit_kl(mean, logvar))


def test_mixture_kl_bounds_the_marginal_from_above(numbers):
    """For one posterior the bound is met by no g better than by exact responsibilities' average."""
    mean, logvar, _, mixture = numbers
    energy = -0.5 * (
        mixture.variances.log()
        + (logvar.exp()[:, None] + (mean[:, None] - mixture.means) ** 2) / mixture.variances
    ).sum(2)
    best = (mixture.log_weights + energy).softmax(1)  # the g that makes the bound least
    least = mixture_kl(mean, logvar, best, mixture)
    for other in (numbers[2], responsibilities(mean, mixture)):
        assert (mixture_kl(mean, logvar, other, mixture) >= least - 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("offset", "log_variance"), [(0.0, 0.0), (300.0, -9.0), (1e-6, 40.0)])
def test_gradients_are_finite_in_extremes(offset, log_variance, dtype):
    """Far points, floored variances, wide posteriors: responsibilities of exactly 0 included."""
    mixture = GaussianMixture(
        torch.log(torch.tensor([1.0 - 1e-12, 1e-12], dtype=dtype)).requires_grad_(),
        torch.tensor([[0.0, 0.0], [5.0, 5.0]], dtype=dtype, requires_grad=True),
        torch.full((2, 2), 1e-4, dtype=dtype, requires_grad=True),
    )
    mean = torch.full((3, 2), offset, dtype=dtype, requires_grad=True)
    logvar = torch.full((3, 2), log_variance, dtype=dtype, requires_grad=True)
    g = responsibilities(mean + 0.5, mixture)
    assert (g == 0).any()
    loss = mixture_kl(mean, logvar, g, mixture).sum() + unit_kl(mean, logvar).sum()
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, (mean, logvar, *mixture)):
        assert torch.isfinite(gradient).all()


def test_g_of_zero_counts_nothing():
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.0], [9.0]]), torch.ones(2, 1)
    )
    alone = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
    mean, logvar = torch.tensor([[0.3]]), torch.tensor([[-1.0]])
    got = mixture_kl(mean, logvar, torch.tensor([[1.0, 0.0]]), mixture)
    wanted = mixture_kl(mean, logvar, torch.ones(1, 1), alone) + math.log(2)
    torch.testing.assert_close(got, wanted)


def test_l2_counts_the_network_and_not_the_mixture():
    network = Network(size=8, latent=2, filters=(2,), kernels=(3,), decoder_kernels=(3,))
    model = VaDE(network, components=3, variance_floor=1e-4)
    model.set_mixture(np.ones(3), np.full((3, 2), 100.0), np.ones((3, 2)))
    wanted = sum(
        float((value.numpy() ** 2).sum())
        for name, value in model.state_dict().items()
        if name.startswith(("encoder.", "decoder."))
    )
    assert l2(model).item() == pytest.approx(wanted, rel=1e-5)


def test_weighted_reconstruction_by_hand():
    x, x_hat = np.random.default_rng(7).random((2, 3, 4, 4, 4)).astype(np.float64)
    weight = np.random.default_rng(7).random((3, 1, 4, 4))
    wanted = (weight * (x - x_hat) ** 2).sum((1, 2, 3))
    got = reconstruction(*map(torch.from_numpy, (x, x_hat)), "mse", torch.from_numpy(weight))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_contrast_by_loops():
    """The cross-entropy of an image's other view among all, by cosine similarity, both ways."""
    first, second = np.random.default_rng(7).normal(size=(2, 5, 3))
    found = []
    for one, other in ((first, second), (second, first)):
        for i in range(5):
            similar = [
                one[i] @ other[j] / np.linalg.norm(one[i]) / np.linalg.norm(other[j]) / 0.3
                for j in range(5)
            ]
            found.append(logsumexp(similar) - similar[i])
    got = contrast(torch.from_numpy(first), torch.from_numpy(second), 0.3)
    assert got.item() == pytest.approx(np.mean(found), rel=1e-12)


def test_contrast_ends():
    """Log B where views tell nothing; near 0 where each is like its own alone."""
    same = torch.ones(6, 3, dtype=torch.float64)
    assert contrast(same, same, 0.2).item() == pytest.approx(np.log(6))
    apart = torch.eye(6, dtype=torch.float64)
    assert contrast(apart, apart, 0.05).item() == pytest.approx(0, abs=1e-6)


def test_mutual_information_is_scikit_learns():
    table = np.random.default_rng(7).integers(1, 50, (4, 4))
    table = table + table.T  # symmetric, as two views' tables are made
    wanted = mutual_info_score(None, None, contingency=table)
    got = mutual_information(torch.from_numpy(table / table.sum()))
    assert got.item() == pytest.approx(wanted, rel=1e-10)
    agree = torch.eye(5, dtype=torch.float64) / 5
    assert mutual_information(agree).item() == pytest.approx(np.log(5))


def test_pseudo_labels_are_a_cross_entropy_where_there_is_a_label():
    joint, labels = np.random.default_rng(7).normal(size=(4, 3)), np.array([2, -1, 0, 1])
    wanted = -log_softmax(joint, axis=1)[np.arange(4), labels]
    wanted[1] = 0
    got = pseudo_labels(torch.from_numpy(joint), torch.from_numpy(labels))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
