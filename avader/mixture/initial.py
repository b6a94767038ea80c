"""The first mixture, from latents: k-means, then diagonal EM, the likeliest of several starts.

Legend: N rows, D latent dimensions, K components. scikit-learn does the fitting. Source: the
paper's sections 3.3 and 4.1, after Cao et al. 2020.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Fit

from avader.errors import InputError
from avader.mixture.gaussian import GaussianMixture, responsibilities

Floats = NDArray[np.float64]

EM_STEPS = 200
EM_TOLERANCE = 1e-4
"""EM stops when a step gains less than this much mean log-likelihood, nats per row."""


def initial_mixture(
    latents: NDArray[np.floating], *, components: int, starts: int, seed: int, variance_floor: float
) -> tuple[Floats, Floats, Floats]:
    """Weights (K,), means (K, D) and variances (K, D), float64, of latents (N, D).

    Start i is k-means with one k-means++ seeding, then a diagonal Gaussian mixture by EM from the
    k-means partition; of `starts` starts the one of greatest mean log-likelihood is kept. The
    result is a function of the latents and the seed. Variances are at least `variance_floor`,
    weights are above 0 and sum to 1. Raises InputError for fewer rows than components and for
    latents that are not finite.
    """
    data = checked_latents(latents, components)
    generator = generator_of(seed)
    with warnings.catch_warnings():
        # EM that stops at its last step, and fewer distinct latents than components, are both
        # usable: training goes on from what was found.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [_fit(data, components, variance_floor, generator) for _ in range(starts)]
    best = max(fits, key=lambda fit: fit.lower_bound_)
    weights = np.maximum(best.weights_, np.finfo(np.float64).tiny)
    return weights / weights.sum(), best.means_, np.maximum(best.covariances_, variance_floor)


def widened(
    mixture: tuple[Floats, Floats, Floats],
    latents: NDArray[np.floating],
    logvars: NDArray[np.floating],
) -> tuple[Floats, Floats, Floats]:
    """The mixture with each component's mean posterior variance added to its own.

    latents (N, D): encoder means; logvars (N, D): encoder log variances. For given
    responsibilities of the latents this is the variance at which the mixture KL is least.
    """
    weights, means, variances = mixture
    tensors = (torch.from_numpy(part) for part in (np.log(weights), means, variances))
    z = torch.from_numpy(np.asarray(latents, dtype=np.float64))
    g = responsibilities(z, GaussianMixture(*tensors)).numpy()  # (N, K)
    spread = g.T @ np.exp(np.asarray(logvars, dtype=np.float64))
    return weights, means, variances + spread / np.maximum(g.sum(0), 1e-9)[:, None]


def _fit(data: Floats, components: int, floor: float, generator: np.random.RandomState) -> Fit:
    """One start: EM from a k-means partition of data (N, D)."""
    partition = KMeans(components, n_init=1, random_state=generator).fit(data)
    weights, means, variances = moments(data, partition.labels_, components)
    fit = Fit(
        components,
        covariance_type="diag",
        reg_covar=floor,
        max_iter=EM_STEPS,
        tol=EM_TOLERANCE,
        weights_init=weights,
        means_init=means,
        precisions_init=1.0 / np.maximum(variances, floor),
        random_state=generator,
    )
    return fit.fit(data)


def moments(
    data: Floats, labels: NDArray[np.integer], components: int
) -> tuple[Floats, Floats, Floats]:
    """Weight, mean and variance of each cluster of data (N, D): (K,), (K, D), (K, D)."""
    member = (labels[:, None] == np.arange(components)).astype(np.float64)  # (N, K)
    count = np.maximum(member.sum(0), 1e-9)
    means = member.T @ data / count[:, None]
    variances = member.T @ np.square(data) / count[:, None] - np.square(means)
    return count / count.sum(), means, variances


def generator_of(seed: int) -> np.random.RandomState:
    """Random numbers in scikit-learn's own kind, a function of the seed: any integer from 0."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


def checked_latents(latents: NDArray[np.floating], components: int) -> Floats:
    """Latents (N, D) as float64; InputError for fewer than K and for any that is not finite."""
    data = np.asarray(latents, dtype=np.float64)
    if len(data) < components:
        raise InputError(
            f"first mixture: wanted at least {components} latents, one per component, "
            f"got {len(data)}. Pack more images or lower --mixture.components."
        )
    if not np.isfinite(data).all():
        bad = int((~np.isfinite(data)).any(axis=1).sum())
        raise InputError(
            f"first mixture: wanted finite latents, got {bad} of {len(data)} rows that are not. "
            "The network has diverged: lower --optimiser.learning-rate."
        )
    return data
