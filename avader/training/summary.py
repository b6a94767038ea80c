"""What a finished training says about itself, over all its images.

Legend: N rows, K components.
"""

from dataclasses import dataclass

import numpy as np
import torch

from avader.mixture.gaussian import log_likelihood, responsibilities
from avader.training.data import near_equal
from avader.training.mixture import effective_number, encode_rows
from avader.training.precision import precision_on
from avader.training.state import TrainingState
from avader.training.task import Task

ROWS = 10_000
"""Rows whose densities, (ROWS, K, D), are computed at once."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Facts at the encoder's means.

    occupancy: images per component by highest probability. effective_components: exp(entropy) of
    it. mean_log_likelihood: mean of log p(z), nats. precision: what rank 0 computed in.
    """

    occupancy: list[int]
    effective_components: float
    mean_log_likelihood: float
    precision: str


@torch.no_grad()
def summarise(state: TrainingState, task: Task) -> Summary:
    """The summary of all images; every rank encodes its part and gets the whole answer."""
    start, stop = near_equal(task.images.rows, task.group.world)[task.group.rank]
    means, _ = encode_rows(state, task.images, np.arange(start, stop))
    z = torch.from_numpy(means).double()
    mixture = type(state.model.mixture())(*(value.cpu() for value in state.model.mixture()))
    some = z.split(ROWS)  # type: ignore[no-untyped-call]
    component = torch.cat([responsibilities(each, mixture).argmax(1) for each in some])
    likelihood = torch.cat([log_likelihood(each, mixture) for each in some])
    parts = task.group.gather((component.numpy(), likelihood.numpy()))
    components = np.concatenate([part[0] for part in parts])
    likelihoods = np.concatenate([part[1] for part in parts])
    occupancy = np.bincount(components, minlength=state.model.components).tolist()
    return Summary(
        occupancy=occupancy,
        effective_components=effective_number(occupancy),
        mean_log_likelihood=float(likelihoods.mean()),
        precision=precision_on(task.recipe, state.device.type),
    )
