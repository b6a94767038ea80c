"""How many components the latents ask for: a Dirichlet-process mixture on many mini-batches.

Legend: N rows, D latent dimensions. scikit-learn does the fitting. Source: the paper's section
4.1. A Dirichlet process holds as many components as the rows it sees can tell apart, so clouds
that are not Gaussian are described by more of them the more rows a batch has: the count belongs
to its batch size, and how far the batches agree says how much it means.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from avader.errors import InputError
from avader.mixture.initial import Floats, checked_latents, generator_of

STEPS = 200
"""Steps of variational inference at most, for one batch."""
LEAST_PRIOR_VARIANCE = 1e-6
"""Floor of the prior variance, so that a latent dimension that says nothing is no error."""


@dataclass(frozen=True, slots=True)
class Count:
    """What the batches said.

    counts: components left with weight, one per batch. batch_rows: rows of each. most: components
    that each began with.
    """

    counts: tuple[int, ...]
    batch_rows: int
    most: int

    @property
    def components(self) -> int:
        """The median count; of an even number of batches the lower of the two in the middle."""
        return sorted(self.counts)[(len(self.counts) - 1) // 2]

    @property
    def agreement(self) -> float:
        """Share of the batches, 0 to 1, whose count is within 1 of the median."""
        near = [abs(count - self.components) <= 1 for count in self.counts]
        return sum(near) / len(near)

    def line(self) -> str:
        """One line for people."""
        text = (
            f"{self.components} components: the median of {len(self.counts)} batches of "
            f"{self.batch_rows:,} rows ({min(self.counts)} to {max(self.counts)}; "
            f"{self.agreement:.0%} within 1 of it)"
        )
        if self.components < self.most:
            return text
        return f"{text}; that is all they began with: raise --mixture.most-components"


def count_components(
    latents: NDArray[np.floating],
    *,
    most: int,
    seed: int,
    batches: int = 20,
    batch_rows: int = 1000,
    threshold: float = 0.01,
) -> Count:
    """Components that latents (N, D) ask for, by mini-batch.

    Each of `batches` random subsets of `batch_rows` rows (or all N, where there are fewer) gets a
    diagonal Dirichlet-process mixture by stick breaking, beginning with `most` components; those
    whose weight stays above `threshold` are counted. The result is a function of the latents and
    the seed. Raises InputError for batches with fewer rows than `most` and for latents that are
    not finite.
    """
    data = checked_latents(latents, 1)
    rows = min(batch_rows, len(data))
    if rows < most:
        raise InputError(
            f"counting components: wanted at least {most} latents in a batch, as many as the "
            f"components to begin with, got {rows}. Pack more images or lower "
            "--mixture.most-components."
        )
    generator = generator_of(seed)
    counts = []
    for _ in range(batches):
        batch = data[generator.permutation(len(data))[:rows]]
        counts.append(int((_weights(batch, most, generator) > threshold).sum()))
    return Count(tuple(counts), rows, most)


def _weights(batch: Floats, most: int, generator: np.random.RandomState) -> Floats:
    """Weights (most,) of a Dirichlet-process mixture of one batch (n, D)."""
    fit = BayesianGaussianMixture(
        n_components=most,
        covariance_type="diag",
        weight_concentration_prior_type="dirichlet_process",
        covariance_prior=np.maximum(batch.var(0), LEAST_PRIOR_VARIANCE),
        max_iter=STEPS,
        random_state=generator,
    )
    with warnings.catch_warnings():
        # Stopping at the last step, and fewer distinct rows than components, are both usable.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit.fit(batch).weights_
