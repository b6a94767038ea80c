"""The training itself: epochs of gamma, annealing and static phases, and the first mixture.

Choices, stated once:
- z is one sample per image of q(z | x), redrawn every epoch. It is decoded, and the
  responsibilities g are the exact posterior p(c | z) at it, as VaDE does (Jiang et al. 2016);
  gradients flow through g.
- The loss is a mean over the images of a global batch of sums over pixels, plus the KL term, plus
  L2 once. Every rank adds its images' gradients, divided by the global batch: the sum is exact.
- Gradient values are clipped once the mixture trains.

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.errors import TrainingError
from avader.mixture.gaussian import responsibilities
from avader.mixture.initial import Floats, initial_mixture, widened
from avader.model import losses
from avader.model.schedule import Weights, at, learning_rate, total_epochs
from avader.recipe import Recipe
from avader.training.data import Pixels, Share, as_images, augmented, shares
from avader.training.group import Group
from avader.training.noise import Purpose, Rows, normals, permutation
from avader.training.state import Metrics, TrainingState

ENCODE_BATCH = 256


@dataclass(frozen=True)
class Task:
    """What is trained on, and by whom. pixels: all images (N, C, H, W), in every rank."""

    recipe: Recipe
    pixels: Pixels
    group: Group = field(default_factory=Group)


@dataclass(frozen=True)
class Watch:
    """Whom to tell. epoch: after every epoch; batch: images done in this epoch, every batch."""

    epoch: Callable[[TrainingState], None] = lambda state: None
    batch: Callable[[TrainingState, int], None] = lambda state, images: None


def train(state: TrainingState, task: Task, watch: Watch) -> None:
    """Train from where the state is to the end of the schedule; every rank calls it."""
    schedule = task.recipe.schedule
    while state.epoch < total_epochs(schedule):
        weights = at(schedule, state.epoch)
        if weights.trains_mixture and not state.mixture_ready:
            start_mixture(state, task)
        state.history.append(train_epoch(state, task, watch))
        state.epoch += 1
        watch.epoch(state)


def train_epoch(state: TrainingState, task: Task, watch: Watch) -> Metrics:
    """One epoch over all images; returns its metrics, means over the images."""
    recipe, group, epoch = task.recipe, task.group, state.epoch
    weights = at(recipe.schedule, epoch)
    rate = learning_rate(recipe.optimiser, epoch, total_epochs(recipe.schedule))
    _prepare(state, weights, rate)
    totals: Tensor | None = None
    images, began = 0, time.monotonic()
    for share in shares(
        len(task.pixels),
        batch=recipe.optimiser.batch,
        seed=recipe.seed,
        epoch=epoch,
        rank=group.rank,
        world=group.world,
    ):
        terms = _step(state, task, weights, share)
        totals = terms if totals is None else totals + terms
        images += share.batch
        watch.batch(state, images)
    if totals is None:
        raise TrainingError("wanted at least one image to train on, got none")
    seconds = time.monotonic() - began
    return {
        "epoch": epoch + 1,
        "phase": weights.phase.name,
        "learning_rate": rate,
        "weight_unit_kl": weights.unit_kl,
        "weight_mixture_kl": weights.mixture_kl,
        **_means(totals / images, weights, recipe.optimiser.l2),
        "images": images,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / max(seconds, 1e-9), 1),
    }


def _prepare(state: TrainingState, weights: Weights, rate: float) -> None:
    """Set an epoch's learning rate, and whether the mixture trains."""
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    for name, parameter in state.model.named_parameters():
        if name.startswith(losses.MIXTURE_PREFIX):
            parameter.requires_grad_(weights.trains_mixture)
    state.model.train()


def _step(state: TrainingState, task: Task, weights: Weights, share: Share) -> Tensor:
    """One global batch: returns its terms (4 + K,), float64, sums over its images, all ranks."""
    recipe, model = task.recipe, state.model
    x, noise = _inputs(state, task, share.rows)
    with torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        mean, logvar, z, x_hat = (output.float() for output in model(x, noise))
    reconstruction = losses.reconstruction(x, x_hat, recipe.loss).sum().double()
    unit_kl = losses.unit_kl(mean, logvar).sum().double()
    l2 = losses.l2(model).double()
    mixture_kl, occupancy = unit_kl.new_zeros(()), unit_kl.new_zeros(model.components)
    if weights.trains_mixture:
        g = responsibilities(z, model.mixture())
        mixture_kl = losses.mixture_kl(mean, logvar, g, model.mixture()).sum()
        occupancy = g.detach().sum(0)
    own = reconstruction + weights.mixture_kl * mixture_kl
    own = own + weights.unit_kl * unit_kl if weights.unit_kl else own
    loss = own / share.batch + recipe.optimiser.l2 * l2 / task.group.world
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    scalars = torch.stack(
        [reconstruction, unit_kl, mixture_kl, l2 * share.batch / task.group.world]
    ).detach()
    terms = torch.cat([scalars, occupancy])
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    task.group.add([*gradients, terms])
    _check_finite(state, weights, terms, gradients)
    if weights.trains_mixture:
        torch.nn.utils.clip_grad_value_(model.parameters(), recipe.optimiser.clip)
    state.optimiser.step()
    return terms


def _inputs(state: TrainingState, task: Task, rows: Rows) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W), flipped where the recipe says so, and normals (B, D) of these rows."""
    seed, epoch = task.recipe.seed, state.epoch
    x = as_images(task.pixels[rows], state.device)
    if task.recipe.flips:
        x = augmented(x, seed=seed, epoch=epoch, rows=rows)
    noise = normals(seed, epoch, rows, task.recipe.network.latent)
    return x, noise.to(state.device)


def _check_finite(
    state: TrainingState, weights: Weights, terms: Tensor, gradients: list[Tensor]
) -> None:
    """Stop where a batch's loss or gradient is not finite; all ranks see the same sums."""
    norms = torch.stack([gradient.double().abs().sum() for gradient in gradients])
    if bool(torch.isfinite(terms.sum() + norms.sum())):
        return
    values = dict(
        zip(("reconstruction", "unit KL", "mixture KL", "L2"), terms.tolist(), strict=False)
    )
    raise TrainingError(
        f"wanted a finite loss, got {values} in epoch {state.epoch + 1} ({weights.phase.name}). "
        "Lower --optimiser.learning-rate or raise --mixture.variance-floor, with another --out."
    )


def _means(terms: Tensor, weights: Weights, l2_factor: float) -> Metrics:
    """Named means over images from terms (4 + K,), with the loss that they make."""
    reconstruction, unit_kl, mixture_kl, l2, *occupancy = terms.tolist()
    loss = reconstruction + weights.unit_kl * unit_kl + weights.mixture_kl * mixture_kl
    return {
        "loss": loss + l2_factor * l2,
        "reconstruction": reconstruction,
        "unit_kl": unit_kl,
        "mixture_kl": mixture_kl,
        "l2": l2_factor * l2,
        "effective_components": effective_number(occupancy) if weights.trains_mixture else 0.0,
    }


def effective_number(occupancy: list[float]) -> float:
    """exp(entropy) of shares that sum to any positive number: 1 when one has all, K when equal."""
    share = np.asarray(occupancy, dtype=np.float64)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def start_mixture(state: TrainingState, task: Task) -> None:
    """Make the first mixture from a sample of the images, encoded at their mean; same on all ranks.

    Rank 0 fits it and hands it round, so that no difference in arithmetic can part the ranks.
    """
    fitted = _first_mixture(state, task) if task.group.is_first else None
    state.model.set_mixture(*task.group.from_first(fitted))
    state.mixture_ready = True


def _first_mixture(state: TrainingState, task: Task) -> tuple[Floats, Floats, Floats]:
    """Weights (K,), means (K, D), variances (K, D), float64, fitted to a sample of the images."""
    settings, seed = task.recipe.mixture, task.recipe.seed
    order = permutation(seed, Purpose.SAMPLE, 0, len(task.pixels))
    means, logvars = encode_rows(state, task.pixels, np.sort(order[: settings.initial_rows]))
    fitted = initial_mixture(
        means,
        components=settings.components,
        starts=settings.initial_starts,
        seed=seed,
        variance_floor=settings.variance_floor,
    )
    return widened(fitted, means, logvars) if settings.initial_spread else fitted


@torch.no_grad()
def encode_rows(
    state: TrainingState, pixels: Pixels, rows: Rows
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and log variance (B, D) of q(z | x) of these rows, unflipped."""
    state.model.eval()
    parts = np.array_split(rows, max(1, -(-len(rows) // ENCODE_BATCH)))
    coded = [state.model.encode(as_images(pixels[part], state.device)) for part in parts]
    means, logvars = (torch.cat(column).cpu().numpy() for column in zip(*coded, strict=True))
    return means, logvars
