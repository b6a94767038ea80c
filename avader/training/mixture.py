"""The mixture in a training: how it starts, and how starving components come back.

Rank 0 fits and hands round, so that no difference in arithmetic can part the ranks. Legend: N rows,
D latent dimensions, K components.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError, TrainingError
from avader.mixture.count import count_components
from avader.mixture.gaussian import GaussianMixture, responsibilities
from avader.mixture.graph import graph_partition, partition_mixture
from avader.mixture.initial import Floats, initial_mixture, widened
from avader.mixture.sample import MixtureArrays, mixture_arrays
from avader.mixture.starving import reseeded, starving
from avader.training.data import Images, as_images
from avader.training.group import Group
from avader.training.noise import Purpose, Rows, permutation
from avader.training.state import TrainingState
from avader.training.task import Task

Result = TypeVar("Result")

ENCODE_BATCH = 256
RESEED_ROWS = 20_000
"""Images by which starving components are made again."""


@dataclass(frozen=True)
class Start:
    """A first mixture: weights (K,), means (K, D), variances (K, D), and the sample's partition
    where the training asks for it: rows and labels (n,)."""

    mixture: tuple[Floats, Floats, Floats]
    rows: Rows
    labels: NDArray[np.int64] | None
    line: str


def start_mixture(state: TrainingState, task: Task) -> str:
    """Make the first mixture from a sample of the images, encoded at their mean; same on all ranks.

    Returns what to say of it. Raises TrainingError where the latents allow none.
    """
    start: Start = _by_first(task.group, lambda: first_mixture(state, task))
    state.set_components(len(start.mixture[0]))
    state.model.set_mixture(*start.mixture)
    if start.labels is not None:
        state.partition = torch.full((task.images.rows,), -1, dtype=torch.int64)
        state.partition[start.rows] = torch.from_numpy(start.labels)
    state.mixture_ready = True
    return start.line


def first_mixture(state: TrainingState, task: Task) -> Start:
    """The first mixture of a sample of the images."""
    settings, seed = task.recipe.mixture, task.recipe.seed
    rows = sample_rows(task, settings.initial_rows)
    means, logvars = encode_rows(state, task.images, rows)
    components = settings.components
    line = f"  first mixture: {settings.start} on {len(rows):,} images"
    if components == "auto":
        count = count_components(means, most=settings.most_components, seed=seed)
        components, line = count.components, f"{line}; {count.line()}"
    floor = settings.variance_floor
    if settings.start == "graph":
        labels = graph_partition(means, components=components, seed=seed)
        fitted = partition_mixture(means, labels, components, floor)
    else:
        fitted = initial_mixture(
            means,
            components=components,
            starts=settings.initial_starts,
            seed=seed,
            variance_floor=floor,
        )
        labels = _assigned(means, fitted)
    if settings.initial_spread:
        fitted = widened(fitted, means, logvars)
    return Start(fitted, rows, labels if task.recipe.schedule.pseudo_labels else None, line)


def reseed(state: TrainingState, task: Task) -> int:
    """Make components that starved in the epoch again from the largest; how many there were."""
    assert state.progress is not None
    occupancy = state.progress.totals[-state.model.components :].numpy()
    least = task.recipe.mixture.least_share / len(occupancy)
    starved = starving(occupancy / occupancy.sum(), least=least)
    if not len(starved):
        return 0

    def fresh() -> MixtureArrays:
        means, _ = encode_rows(state, task.images, sample_rows(task, RESEED_ROWS))
        return reseeded(mixture_arrays(state.model.mixture()), means, starved)

    state.model.set_mixture(*_by_first(task.group, fresh))
    # The optimiser's memory of the old components would pull at the new ones.
    for parameter in state.model.mixture_parameters():
        state.optimiser.state.pop(parameter, None)
    return len(starved)


def _by_first(group: Group, work: Callable[[], Result]) -> Result:
    """What rank 0 makes, on every rank; what is wrong with it ends all of them alike."""
    made: tuple[Result | None, str] = (None, "")
    if group.is_first:
        try:
            made = work(), ""
        except InputError as error:
            made = None, str(error)
    result, problem = group.from_first(made)
    if problem:
        raise TrainingError(problem)
    return result


def sample_rows(task: Task, most: int) -> Rows:
    """A sample of at most this many training images, chosen by the seed: sorted row numbers."""
    rows = task.images.training_rows
    order = permutation(task.recipe.seed, Purpose.SAMPLE, 0, len(rows))
    return np.sort(rows[order[:most]])


@torch.no_grad()
def encode_rows(
    state: TrainingState, images: Images, rows: Rows
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and log variance (B, D) of q(z | x) of these rows, as they are stored."""
    state.model.eval()
    coded = [
        state.model.encode(as_images(part.pixels, state.device))
        for part in images.some(rows, ENCODE_BATCH)
    ]
    means, logvars = (torch.cat(column).cpu().numpy() for column in zip(*coded, strict=True))
    return means, logvars


def effective_number(occupancy: list[float]) -> float:
    """exp(entropy) of shares that sum to any positive number: 1 when one has all, K when equal."""
    share = np.asarray(occupancy, dtype=np.float64)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _assigned(
    latents: NDArray[np.float32], mixture: tuple[Floats, Floats, Floats]
) -> NDArray[np.int64]:
    """The likeliest component of each latent (N, D): (N,)."""
    weights, means, variances = (torch.from_numpy(part) for part in mixture)
    g = responsibilities(
        torch.from_numpy(latents).double(), GaussianMixture(weights.log(), means, variances)
    )
    return g.argmax(1).numpy()
