"""How far a catalogue's galaxies are from those that its model was trained on.

Legend: K components, D latent dimensions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

COLUMNS = ("component", "log_likelihood")
FAR = 0.1
"""Total variation distance, beyond what chance gives, that is worth a warning."""
NATS_EACH = 0.1
"""Change of the mean log p(z), nats for each latent dimension, that is worth a warning."""


@dataclass(frozen=True)
class Tally:
    """occupancy: galaxies of each component, K. mean_log_likelihood: of log p(z), nats, or None."""

    occupancy: tuple[int, ...]
    mean_log_likelihood: float | None


@dataclass(frozen=True)
class Drift:
    """From the training images to the catalogue.

    distance: total variation distance of the shares of components, 0 to 1. chance: about what
    samples of these sizes differ by if nothing changed. nats: change of the mean log p(z), or None.
    """

    distance: float
    chance: float
    nats: float | None


def tally(parts: Iterable[pa.Table], components: int) -> Tally:
    """The tally of a catalogue's parts, each with the columns above."""
    counts, total, known = np.zeros(components, np.int64), 0.0, 0
    for part in parts:
        counts += np.bincount(part["component"].to_numpy(), minlength=components)
        likelihood = part["log_likelihood"].to_numpy().astype(np.float64)
        total, known = total + float(likelihood.sum()), known + len(likelihood)
    return Tally(tuple(counts.tolist()), total / known if known else None)


def drift(found: Tally, trained: Tally) -> Drift:
    """How far the one is from the other; both have galaxies."""
    ours, theirs = np.array(found.occupancy), np.array(trained.occupancy)
    pooled = (ours + theirs) / (ours.sum() + theirs.sum())
    # Mean absolute difference of two binomial shares, in the normal approximation.
    spread = np.sqrt(pooled * (1 - pooled) * (1 / ours.sum() + 1 / theirs.sum()))
    nats = None
    if found.mean_log_likelihood is not None and trained.mean_log_likelihood is not None:
        nats = found.mean_log_likelihood - trained.mean_log_likelihood
    return Drift(
        distance=float(np.abs(ours / ours.sum() - theirs / theirs.sum()).sum() / 2),
        chance=float(spread.sum() * math.sqrt(2 / math.pi) / 2),
        nats=nats,
    )


def warnings(seen: Drift, latent: int) -> list[str]:
    """What is worth a warning, in words; latent: D."""
    found = []
    if seen.distance > FAR + seen.chance:
        found.append(
            f"components are filled otherwise than by the training images: the shares differ by "
            f"{seen.distance:.2f} (0 is alike, 1 is disjoint; chance gives {seen.chance:.2f})"
        )
    if seen.nats is not None and abs(seen.nats) > NATS_EACH * latent:
        side = "above" if seen.nats > 0 else "below"
        found.append(
            f"the mean log p(z) is {abs(seen.nats):.1f} nats {side} that of the training images"
        )
    return found
