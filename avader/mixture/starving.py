"""Components that starve, and how they are made again: as half of the largest one.

Legend: N rows, D latent dimensions, K components.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from avader.mixture.gaussian import GaussianMixture, log_joint
from avader.mixture.initial import Floats


def starving(shares: NDArray[np.floating], *, least: float) -> NDArray[np.bool_]:
    """Which components (K,) have less than `least` of an equal share 1 / K; shares sum to 1."""
    return np.asarray(shares < least / len(shares))


def reseeded(
    mixture: tuple[Floats, Floats, Floats],
    latents: NDArray[np.floating],
    starved: NDArray[np.bool_],
) -> tuple[Floats, Floats, Floats]:
    """The mixture with each starved component made again; the others' shapes are kept.

    mixture: weights (K,), means (K, D), variances (K, D); latents (N, D); starved (K,). In turn,
    the component with the most members by highest probability is cut in two at its members' mean,
    along the dimension of their largest variance: one half is its own, the other the starved
    one's, each with its members' weight, mean and variance.
    """
    weights, means, variances = (part.copy() for part in mixture)
    data = np.asarray(latents, dtype=np.float64)
    floor = variances.min(0)
    parts = (np.log(np.maximum(weights, 1e-300)), means, variances)
    joint = log_joint(torch.from_numpy(data), GaussianMixture(*map(torch.from_numpy, parts)))
    logs: Floats = joint.numpy()
    logs[:, starved] = -np.inf
    member = logs.argmax(1)
    for component in np.flatnonzero(starved):
        largest = int(np.bincount(member, minlength=len(weights)).argmax())
        mine = np.flatnonzero(member == largest)
        spread = data[mine]
        along = int(spread.var(0).argmax())
        given = mine[spread[:, along] > spread[:, along].mean()]
        if not len(given):  # all of them are the same
            continue
        member[given] = component
        both = weights[largest]
        for part in (largest, component):
            rows = data[member == part]
            weights[part] = both * len(rows) / len(mine)
            means[part] = rows.mean(0)
            variances[part] = np.maximum(rows.var(0), floor)
    return weights / weights.sum(), means, variances
