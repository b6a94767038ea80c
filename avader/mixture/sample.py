"""Draw synthetic objects from the mixture; object i is the same whatever is drawn beside it.

An object uses 1 + D words of the latent stream: word 0 gives its component by the inverse
cumulative weights, where it is drawn at all, words 1 to D the normals of its latents. Always on the
CPU, in numpy float64 with separate product and sum, rounded once to float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError
from avader.mixture.gaussian import GaussianMixture, log_likelihood
from avader.mixture.random import Stream, normals, uniforms, words, words_at

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


@dataclass(frozen=True)
class Draw:
    """What is drawn from a mixture: with the mixture, all that decides object i.

    components: draw from these alone, in any order; empty draws from all. weights: of those, in
    the order of their numbers, relative; empty takes the mixture's. blocks: (component, objects) of
    the first objects, of the next ones and so on, whose components are then not drawn; an object
    beyond them all has none. variance_scale: factor on the variances. truncation: standard
    deviations from its component's mean that no latent exceeds; 0 sets no bound.
    """

    seed: int
    components: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    variance_scale: float = 1.0
    truncation: float = 0.0

    def check(self, components: int) -> None:
        """Raise InputError for what a mixture of K components can't draw."""
        for name, least in (("variance_scale", 0), ("truncation", -1)):
            value = getattr(self, name)
            if not (value > least and value >= 0 and np.isfinite(value)):
                above = "a number above 0" if least == 0 else "a number above 0, or 0 for no bound"
                raise InputError(f"{name}: wanted {above}, got {value}")
        wrong = [c for c in self.components if not 0 <= c < components]
        if wrong or len(set(self.components)) < len(self.components):
            raise InputError(
                f"components: wanted distinct numbers from 0 to {components - 1}, "
                f"got {list(self.components)}"
            )
        absent = [c for c, _ in self.blocks if not 0 <= c < components]
        if absent:
            raise InputError(
                f"counts: wanted components from 0 to {components - 1}, got {absent[0]}"
            )
        if self.weights and len(self.weights) != len(self.components or range(components)):
            raise InputError(
                f"weights: wanted one for each of {len(self.components or range(components))} "
                f"components, got {len(self.weights)}"
            )
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < np.inf):
            raise InputError(
                f"weights: wanted numbers from 0, one above it, got {list(self.weights)}"
            )


def draw(
    mixture: MixtureArrays, wanted: Draw, *, start: int, count: int
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Objects start .. start + count - 1: z (B, D) float32 and component (B,) int16.

    Raises InputError for what the mixture can't draw, and objects beyond the blocks.
    """
    wanted.check(len(mixture.weights))
    raw = words(wanted.seed, Stream.LATENT, start, count, 1 + mixture.means.shape[1])
    return _objects(mixture, wanted, np.arange(start, start + count), raw)


def draw_at(
    mixture: MixtureArrays, wanted: Draw, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """The objects of these indices, in any order, as `draw` gives them."""
    wanted.check(len(mixture.weights))
    raw = words_at(wanted.seed, Stream.LATENT, indices, 1 + mixture.means.shape[1])
    return _objects(mixture, wanted, indices, raw)


def sample(
    mixture: MixtureArrays,
    *,
    count: int,
    seed: int,
    start: int = 0,
    components: Sequence[int] | None = None,
    variance_scale: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Objects start .. start + count - 1 of a seed, as `draw` gives them."""
    chosen = () if components is None else tuple(map(int, components))
    if components is not None and not chosen:
        raise InputError("components: wanted one at least, got none; leave it out to draw from all")
    wanted = Draw(seed, chosen, variance_scale=variance_scale)
    return draw(mixture, wanted, start=start, count=count)


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


def _objects(
    mixture: MixtureArrays, wanted: Draw, indices: NDArray[np.int64], raw: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Objects of these indices (B,) from their words (B, 1 + D)."""
    component = _components(mixture, wanted, indices, raw[:, 0])
    spread = np.sqrt(mixture.variances * wanted.variance_scale)[component]
    spread *= normals(raw[:, 1:], within=wanted.truncation)
    z = mixture.means[component] + spread
    return z.astype(np.float32), component.astype(np.int16)


def _components(
    mixture: MixtureArrays, wanted: Draw, indices: NDArray[np.int64], raw: NDArray[np.uint64]
) -> NDArray[np.intp]:
    """The component (B,) of each index: its block's, or drawn by its word."""
    if wanted.blocks:
        numbers, counts = np.array(wanted.blocks, np.int64).T
        ends = np.cumsum(counts)
        if indices.max(initial=-1) >= ends[-1]:
            raise InputError(f"wanted objects below {ends[-1]}, got {indices.max()}")
        return numbers[np.searchsorted(ends, indices, side="right")]
    chosen = np.sort(np.array(wanted.components or range(len(mixture.weights)), np.intp))
    weights = np.array(wanted.weights) if wanted.weights else mixture.weights[chosen]
    return chosen[_inverse_cumulative(uniforms(raw), weights)]


def _inverse_cumulative(u: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions (B,) in weights (K,), relative, of uniforms (B,)."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative[:-1] / cumulative[-1], u, side="right")
