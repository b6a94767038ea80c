"""A mixture of diagonal Gaussians: density, likelihood, responsibilities, entropy.

Legend: B points, K components, D latent dimensions. Everything stays in log space and in the
dtype that comes in; catalogues use float64. Nothing here depends on the other points of a batch,
but for batch_scaled_responsibilities, which belongs to training alone.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)


class GaussianMixture(NamedTuple):
    """log_weights (K,), their exponentials sum to 1; means (K, D); variances (K, D), positive."""

    log_weights: Tensor
    means: Tensor
    variances: Tensor


def log_density(z: Tensor, mixture: GaussianMixture) -> Tensor:
    """log N(z; m_c, diag v_c) of points (B, D) under each component: (B, K), nats."""
    squared = (z.unsqueeze(1) - mixture.means).square() / mixture.variances  # (B, K, D)
    log_volume = mixture.variances.log().sum(-1)  # (K,)
    return -0.5 * (z.shape[-1] * LOG_2_PI + log_volume + squared.sum(-1))


def log_joint(z: Tensor, mixture: GaussianMixture) -> Tensor:
    """log [pi_c N(z; m_c, diag v_c)] of points (B, D): (B, K), nats."""
    return mixture.log_weights + log_density(z, mixture)


def log_likelihood(z: Tensor, mixture: GaussianMixture) -> Tensor:
    """log p(z) = log sum_c pi_c N(z; m_c, diag v_c) of points (B, D): (B,), nats."""
    return log_joint(z, mixture).logsumexp(-1)


def responsibilities(z: Tensor, mixture: GaussianMixture) -> Tensor:
    """p(c | z), exact, of points (B, D): (B, K), rows sum to 1.

    The greatest log term is subtracted first (log-sum-exp), so that points far from every
    component still get probabilities.
    """
    return log_joint(z, mixture).softmax(-1)


def closed_form_responsibilities(mean: Tensor, logvar: Tensor, mixture: GaussianMixture) -> Tensor:
    """The g of least mixture KL for posteriors q = N(mean, diag exp(logvar)), both (B, D): (B, K).

    g_c is proportional to pi_c exp(E_q log N(z; m_c, v_c)), and E_q log N is the log
    density at the mean less half the sum of the posterior's variances over the component's.
    """
    trace = (logvar.exp().unsqueeze(1) / mixture.variances).sum(-1)  # (B, K)
    return (log_joint(mean, mixture) - 0.5 * trace).softmax(-1)


def integrated_responsibilities(mean: Tensor, logvar: Tensor, mixture: GaussianMixture) -> Tensor:
    """p(c) of the mixture integrated over N(mean, diag exp(logvar)), both (B, D): (B, K).

    softmax_c [log pi_c + log N(mean; m_c, v_c + exp(logvar))]: the convolution of two Gaussians
    is the Gaussian whose variances are the sums. In float64 any mean and logvar that float32
    holds give probabilities.
    """
    # The sum of the variances in logs, so that a great logvar does not overflow: (B, K, D).
    log_variances = torch.logaddexp(mixture.variances.log(), logvar.unsqueeze(1))
    squared = (mean.unsqueeze(1) - mixture.means).square() * (-log_variances).exp()
    # D log 2 pi is the same for all components and falls out.
    return (mixture.log_weights - 0.5 * (log_variances + squared).sum(-1)).softmax(-1)


def batch_scaled_responsibilities(
    log_joint: Tensor, *, least: Tensor, greatest: Tensor, scale: float = 50.0
) -> Tensor:
    """softmax_c [-L (a - min a) / (max a - min a)] of a = -log_joint (B, K): (B, K).

    least, greatest: min a and max a of the whole batch, scalars, reduced over all ranks by the
    caller; scale: L. Where they are equal all components are equally likely. A row's result
    depends on the other rows of its batch: for training only. Source: Cao et al. 2020 (s3VDC).
    """
    width = greatest - least
    width = torch.where(width > 0, width, 1.0)  # of 0 the gradient would be infinite
    return (-scale * (-log_joint - least) / width).softmax(-1)


def entropy(g: Tensor) -> Tensor:
    """-sum_c g_c log g_c of responsibilities (B, K), with 0 log 0 = 0: (B,), nats."""
    terms: Tensor = torch.special.entr(g)
    return terms.sum(-1)
