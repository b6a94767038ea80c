"""A mixture of diagonal Gaussians: density, likelihood, responsibilities, entropy.

Legend: B points, K components, D latent dimensions. Everything stays in log space and in the
dtype that comes in; catalogues use float64. Nothing here depends on the other points of a batch.
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


def entropy(g: Tensor) -> Tensor:
    """-sum_c g_c log g_c of responsibilities (B, K), with 0 log 0 = 0: (B,), nats."""
    terms: Tensor = torch.special.entr(g)
    return terms.sum(-1)
