"""How many components latents need: a Dirichlet-process mixture on many mini-batches.

Source: the paper's section 4.1. Legend: N rows, D latent dimensions.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from avader.mixture.initial import checked_latents, generator_of

THRESHOLD = 0.01
"""Least weight of a component that counts."""
STEPS = 300


@dataclass(frozen=True)
class Count:
    """components: the median of what the batches counted, `counts`, one a mini-batch."""

    components: int
    counts: tuple[int, ...]

    @property
    def agreeing(self) -> float:
        """Share of the mini-batches whose count is within 1 of the median."""
        return float(np.mean(np.abs(np.array(self.counts) - self.components) <= 1))

    def line(self) -> str:
        """For people."""
        return (
            f"{self.components} components: {len(self.counts)} mini-batches counted "
            f"{min(self.counts)} to {max(self.counts)}, {self.agreeing:.0%} within 1"
        )


def count_components(
    latents: NDArray[np.floating], *, most: int, batches: int, seed: int, batch_rows: int = 1000
) -> Count:
    """Count the components of latents (N, D), at most `most`, on mini-batches of `batch_rows`.

    Each is fitted by a diagonal mixture with a stick-breaking prior; those of weight 0.01 and more
    count. Raises InputError for fewer rows than `most` and for latents that are not finite.
    """
    data = checked_latents(latents, most)
    generator = generator_of(seed)
    counts = []
    for _ in range(batches):
        rows = generator.permutation(len(data))[: max(batch_rows, most)]
        fit = BayesianGaussianMixture(
            n_components=most,
            covariance_type="diag",
            weight_concentration_prior_type="dirichlet_process",
            max_iter=STEPS,
            random_state=generator,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit.fit(data[rows])
        counts.append(int((fit.weights_ >= THRESHOLD).sum()))
    return Count(int(np.median(counts)), tuple(counts))
