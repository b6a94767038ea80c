"""Draw synthetic objects from the mixture; object i is the same whatever is drawn beside it.

An object uses 1 + D words of the latent stream: word 0 gives its component by the inverse
cumulative weights, words 1 to D the normals of its latents. Always on the CPU, in numpy float64
with separate product and sum, rounded once to float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError
from avader.mixture.gaussian import GaussianMixture, log_likelihood
from avader.mixture.random import Stream, normals, uniforms, words

# The low-likelihood flag's quantile of log p(z), over this many draws of the mixture itself.
LOW_LIKELIHOOD_QUANTILE = 0.001
LOW_LIKELIHOOD_DRAWS = 100_000


class MixtureArrays(NamedTuple):
    """A mixture in numpy float64: weights (K,), means (K, D), variances (K, D)."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def mixture_arrays(mixture: GaussianMixture) -> MixtureArrays:
    """The mixture as numpy float64 arrays, out of torch's graph and on the CPU."""
    log_weights, means, variances = (part.detach().cpu().double().numpy() for part in mixture)
    return MixtureArrays(np.exp(log_weights), means, variances)


def sample(
    mixture: MixtureArrays,
    *,
    count: int,
    seed: int,
    start: int = 0,
    components: Sequence[int] | None = None,
    variance_scale: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Objects start .. start + count - 1 of a seed: z (B, D) float32 and component (B,) int16.

    components: draw from these alone, in any order, their weights renormalised; none or empty
    draws from all. variance_scale: factor on the variances. Raises InputError for components
    that the mixture has not, and for a scale that is not above 0.
    """
    if not (variance_scale > 0 and np.isfinite(variance_scale)):
        raise InputError(f"variance_scale: wanted a number above 0, got {variance_scale}")
    chosen = _chosen(components, weights=mixture.weights)
    raw = words(seed, Stream.LATENT, start, count, 1 + mixture.means.shape[1])
    component = chosen[_inverse_cumulative(uniforms(raw[:, 0]), mixture.weights[chosen])]
    spread = np.sqrt(mixture.variances * variance_scale)[component]
    spread *= normals(raw[:, 1:])
    z = mixture.means[component] + spread
    return z.astype(np.float32), component.astype(np.int16)


def low_likelihood_threshold(
    mixture: MixtureArrays,
    *,
    quantile: float = LOW_LIKELIHOOD_QUANTILE,
    draws: int = LOW_LIKELIHOOD_DRAWS,
    seed: int = 0,
) -> float:
    """The log p(z), nats, below which only this fraction of the mixture's own draws falls.

    An image whose latent lies below it is flagged as unlike anything the model has learned.
    """
    z, _ = sample(mixture, count=draws, seed=seed)
    weights, means, variances = (torch.from_numpy(part) for part in mixture)
    tensors = GaussianMixture(weights.log(), means, variances)
    points = torch.from_numpy(z).double()
    rows = 10_000  # bounds the (rows, K, D) array
    parts = [log_likelihood(points[i : i + rows], tensors) for i in range(0, draws, rows)]
    return float(np.quantile(torch.cat(parts).numpy(), quantile))


def _chosen(components: Sequence[int] | None, *, weights: NDArray[np.float64]) -> NDArray[np.intp]:
    if components is None or len(components) == 0:
        return np.arange(len(weights))
    wrong = [c for c in components if not 0 <= c < len(weights)]
    if wrong or len(set(components)) < len(components):
        raise InputError(
            f"components: wanted distinct numbers from 0 to {len(weights) - 1}, "
            f"got {list(components)}"
        )
    return np.sort(np.asarray(components, dtype=np.intp))


def _inverse_cumulative(u: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions (B,) in weights (K,), relative, of uniforms (B,)."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative[:-1] / cumulative[-1], u, side="right")
