"""What the page says of a catalogue, gathered part by part in bounded memory.

Legend: D latent dimensions, K components, N rows of a part.
"""

from dataclasses import dataclass, field

import numpy as np

CUTS = (0.5, 0.75, 0.9)
MEMBERS = 8
EXAMPLES = 24
LATENTS = 5_000
VALUES = 1_000_000  # rows at most that a median is taken of


@dataclass(frozen=True)
class Rows:
    """Columns of one part. object_id (N,), component (N,), probability (N, K), latent (N, D).

    log_likelihood and reconstruction_error (N,) may hold NaN for what was not computed; flags
    (N,) are the bits of the catalogue. part: the part's path.
    """

    part: str
    object_id: np.ndarray
    component: np.ndarray
    probability: np.ndarray
    latent: np.ndarray
    log_likelihood: np.ndarray
    reconstruction_error: np.ndarray
    flags: np.ndarray

    def __len__(self) -> int:
        return len(self.object_id)


@dataclass(frozen=True)
class Chosen:
    """A row whose picture is shown. row: its number in the catalogue; latent: (D,)."""

    row: int
    part: str
    object_id: str
    component: int
    probability: float
    latent: np.ndarray = field(repr=False, compare=False)


class Summary:
    """Sums over the parts of a catalogue of `rows` rows; call `add` with each part in order."""

    def __init__(self, *, rows: int, components: int, latent: int) -> None:
        self.rows, self.components = rows, components
        self.seen = 0
        self.counts = np.zeros(components, np.int64)
        self.above = np.zeros((components, len(CUTS)), np.int64)
        self.flag_counts: dict[int, int] = {}
        self.members: list[list[Chosen]] = [[] for _ in range(components)]
        self.examples: list[Chosen] = []
        self._matrix = np.zeros((components, components))
        self._likelihood = [0.0, 0]
        self._highest = 0.0
        self._errors: list[np.ndarray] = []
        self._latents: list[np.ndarray] = [np.zeros((0, latent), np.float32)]
        self._labels: list[np.ndarray] = [np.zeros(0, np.int64)]

    def add(self, part: Rows) -> None:
        """Count a part."""
        label = part.component.astype(np.int64)
        own = part.probability[np.arange(len(part)), label]
        self._count(label, own=own, part=part)
        for k in np.unique(label):
            self._keep_members(int(k), part, label=label, own=own)
        for row in self._of_this_part(EXAMPLES, part):
            self.examples.append(self._chosen(part, row, own=own))
        sampled = self._of_this_part(LATENTS, part)
        self._latents.append(part.latent[sampled])
        self._labels.append(label[sampled])
        self._errors.append(part.reconstruction_error[self._of_this_part(VALUES, part)])
        self.seen += len(part)

    @property
    def matrix(self) -> np.ndarray:
        """Mean probability (K, K) of component j given the assigned k; NaN without members."""
        with np.errstate(invalid="ignore"):
            means: np.ndarray = self._matrix / self.counts
        return means

    @property
    def latents(self) -> tuple[np.ndarray, np.ndarray]:
        """A sample of latents (n, D), evenly spread over the rows, and their components (n,)."""
        return np.concatenate(self._latents), np.concatenate(self._labels)

    @property
    def mean_log_likelihood(self) -> float | None:
        """Mean of log p(z), nats; None where no row has one."""
        total, count = self._likelihood
        return total / count if count else None

    @property
    def mean_highest_probability(self) -> float | None:
        """Mean probability of the assigned component; None without rows."""
        return self._highest / self.seen if self.seen else None

    @property
    def median_error(self) -> float | None:
        """Median reconstruction error of up to 10^6 evenly spread rows; None where none has one."""
        errors = np.concatenate(self._errors) if self._errors else np.zeros(0)
        errors = errors[np.isfinite(errors)]
        return float(np.median(errors)) if len(errors) else None

    def _count(self, label: np.ndarray, *, own: np.ndarray, part: Rows) -> None:
        self.counts += np.bincount(label, minlength=self.components)
        np.add.at(self._matrix.T, label, part.probability.astype(np.float64))
        for number, cut in enumerate(CUTS):
            self.above[:, number] += np.bincount(label[own > cut], minlength=self.components)
        known = part.log_likelihood[np.isfinite(part.log_likelihood)]
        self._likelihood[0] += float(known.sum(dtype=np.float64))
        self._likelihood[1] += len(known)
        self._highest += float(own.sum(dtype=np.float64))
        for bit in (1 << n for n in range(31)):
            if flagged := int(np.count_nonzero(part.flags & bit)):
                self.flag_counts[bit] = self.flag_counts.get(bit, 0) + flagged

    def _keep_members(self, k: int, part: Rows, *, label: np.ndarray, own: np.ndarray) -> None:
        """Merge this part's most probable members of component k into those kept."""
        rows = np.flatnonzero(label == k)
        best = rows[np.lexsort((rows, -own[rows]))[:MEMBERS]]
        merged = self.members[k] + [self._chosen(part, int(row), own=own) for row in best]
        merged.sort(key=lambda chosen: (-chosen.probability, chosen.row))
        self.members[k] = merged[:MEMBERS]

    def _chosen(self, part: Rows, row: int, *, own: np.ndarray) -> Chosen:
        return Chosen(
            row=self.seen + row,
            part=part.part,
            object_id=str(part.object_id[row]),
            component=int(part.component[row]),
            probability=float(own[row]),
            latent=part.latent[row].copy(),
        )

    def _of_this_part(self, wanted: int, part: Rows) -> np.ndarray:
        """Row numbers in this part of `wanted` rows spread evenly over the catalogue, or all."""
        if wanted >= self.rows:
            return np.arange(len(part))
        # Row floor((i + 1/2) rows / wanted) for i = 0 .. wanted - 1, those in this part.
        first, last = (
            -(-(2 * at * wanted - self.rows) // (2 * self.rows))
            for at in (self.seen, self.seen + len(part))
        )
        index = np.arange(max(first, 0), min(max(last, 0), wanted))
        return (2 * index + 1) * self.rows // (2 * wanted) - self.seen
