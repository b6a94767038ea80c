"""Components that have lost their members, and how they get members again.

Legend: N rows, D latent dimensions, K components.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError
from avader.mixture.gaussian import GaussianMixture, log_joint
from avader.mixture.sample import MixtureArrays

Floats = NDArray[np.float64]

LEAST_VARIANCE = 0.1
"""A half keeps at least this fraction of the variance that was split, in every dimension."""
CHUNK = 10_000  # rows; bounds the (rows, K, D) array


def starving(occupancy: NDArray[np.floating], *, least: float) -> NDArray[np.intp]:
    """Numbers of the components whose share of the rows (K,) is below `least`, in order.

    least: 0 (none starves) to below 1 / K (above that even equal shares would starve); InputError
    for any other.
    """
    if not 0 <= least * len(occupancy) < 1:
        raise InputError(
            f"least occupancy: wanted 0 to below 1 / {len(occupancy)} components, got {least:g}"
        )
    return np.flatnonzero(np.asarray(occupancy) < least)


def reseeded(
    mixture: MixtureArrays, latents: NDArray[np.floating], starved: NDArray[np.intp]
) -> MixtureArrays:
    """The mixture with every starving component made one half of a populous one.

    latents (N, D): encoder means, of the same rows on every rank; starved: numbers of the starving
    components. For each in turn, the component that most rows are assigned to is split (see
    _upper_half): both halves get half its weight, and a mean and variances that keep the whole's.
    All weights are then brought to sum 1; means and variances of the other components stay.
    Where the most populous one has no two different rows, nothing can be split and the mixture
    stays as it is. A function of its arguments alone.
    """
    data = np.asarray(latents, dtype=np.float64)
    weights, means, variances = (np.array(part, dtype=np.float64) for part in mixture)
    component = _assigned(data, mixture)  # (N,)
    for number in starved:
        donor = int(np.bincount(component, minlength=len(weights)).argmax())
        members = np.flatnonzero(component == donor)
        upper = _upper_half(data[members])
        if donor == number or upper is None:
            continue
        component[members[upper]] = number
        means[donor] = data[members[~upper]].mean(0)
        means[number] = data[members[upper]].mean(0)
        between = np.square(0.5 * (means[number] - means[donor]))
        within = np.maximum(variances[donor] - between, LEAST_VARIANCE * variances[donor])
        variances[donor] = variances[number] = within
        weights[donor] = weights[number] = 0.5 * weights[donor]
    return MixtureArrays(weights / weights.sum(), means, variances)


def _upper_half(members: Floats) -> NDArray[np.bool_] | None:
    """Which of rows (n, D) lie above the median along their direction of greatest variance: (n,).

    None where all are equal. The halves' means differ otherwise: no row below is above one above.
    Given equal weights and variances the two Gaussians at these means are told apart by a linear
    function of z which is positive at one mean and negative at the other, so at least one row of
    each half, in practice nearly all, is likelier under its own.
    """
    if (members == members[:1]).all():  # none at all, too
        return None
    offset = members - members.mean(0)
    direction = np.linalg.eigh(offset.T @ offset)[1][:, -1]
    direction *= np.sign(direction[np.abs(direction).argmax()])  # eigenvectors have no sign
    rank = np.argsort(np.argsort(offset @ direction, kind="stable"), kind="stable")
    upper: NDArray[np.bool_] = rank >= len(members) / 2
    return upper


def _assigned(data: Floats, mixture: MixtureArrays) -> NDArray[np.intp]:
    """The likeliest component of each row of data (N, D): (N,)."""
    weights = np.maximum(mixture.weights, np.finfo(np.float64).tiny)
    terms = (np.log(weights), mixture.means, mixture.variances)
    tensors = GaussianMixture(*(torch.from_numpy(np.asarray(part, np.float64)) for part in terms))
    z = torch.from_numpy(data)
    chunks = (z[i : i + CHUNK] for i in range(0, len(z), CHUNK))
    return torch.cat([log_joint(chunk, tensors).argmax(1) for chunk in chunks]).numpy()
