"""The training itself: epochs of gamma, annealing and static phases, and the first mixture.

The loss and its choices are objective.py's. Gradients are summed over ranks, checked, clipped by
value once the mixture trains, and taken by Adam; a batch whose loss or gradient is not finite is
skipped and counted.

Legend: N rows, B images, C bands, H W pixels, D latent dimensions, K components.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avader.errors import TrainingError
from avader.mixture.starving import starving
from avader.model.schedule import Weights, at, learning_rate, total_epochs
from avader.recipe import Recipe
from avader.training.augment import flipped, viewed
from avader.training.data import Part, Sequence, as_images, as_masks
from avader.training.evaluate import held_out
from avader.training.mixture import effective_number, reseed, start_mixture
from avader.training.noise import flips, normals, view_numbers
from avader.training.objective import TERMS, Batch, Objective, factors, needs_views
from avader.training.state import Metrics, Progress, TrainingState
from avader.training.task import Task

SOMETIMES = ("contrast", "agreement", "pseudo_labels")
"""Terms that are computed in the epochs that have them alone."""
STARVES = 0.1
"""Fraction of an equal share of the images below which a component is said to starve."""


@dataclass(frozen=True)
class Watch:
    """Whom to tell: after every epoch, after every batch within one, and what there is to say."""

    epoch: Callable[[TrainingState], None] = lambda state: None
    batch: Callable[[TrainingState], None] = lambda state: None
    say: Callable[[str], None] = lambda line: None


def train(state: TrainingState, task: Task, watch: Watch) -> None:
    """Train from where the state is to the end of the schedule; every rank calls it."""
    schedule = task.recipe.schedule
    while state.epoch < total_epochs(schedule):
        weights = at(schedule, state.epoch)
        if weights.trains_mixture and not state.mixture_ready:
            watch.say(start_mixture(state, task))
        state.history.append(train_epoch(state, task, watch))
        state.epoch += 1
        watch.epoch(state)


def train_epoch(state: TrainingState, task: Task, watch: Watch) -> Metrics:
    """One epoch over all images, or what is left of it; returns its metrics."""
    recipe, group, epoch = task.recipe, task.group, state.epoch
    weights = at(recipe.schedule, epoch)
    total = total_epochs(recipe.schedule)
    rate = learning_rate(recipe.optimiser, epoch, total)
    _prepare(state, weights, rate)
    objective = Objective(recipe, weights, state.model, state.head, group)
    if state.progress is None:
        state.progress = state.fresh_progress()
    progress, began = state.progress, time.monotonic() - state.progress.seconds
    order = Sequence(
        recipe.seed,
        epoch,
        recipe.optimiser.batch,
        group.rank,
        group.world,
        skip=progress.batches,
        window=recipe.window,
    )
    for part in task.images.parts(order):
        _step(state, task, objective, part)
        progress.seconds = time.monotonic() - began
        watch.batch(state)
    if not progress.images:
        raise TrainingError(
            "wanted at least one image to train on in an epoch, got none"
            + (f"; {progress.skipped} batches were not finite" if progress.skipped else "")
        )
    metrics: Metrics = {
        "epoch": epoch + 1,
        "phase": weights.phase.name,
        "learning_rate": rate,
        "weight_unit_kl": weights.unit_kl,
        "weight_mixture_kl": weights.mixture_kl,
        **means(progress, recipe, weights),
        "skipped": progress.skipped,
        # Not after the last epoch: nothing would train what is made anew.
        "reseeded": reseed(state, task) if weights.trains_mixture and epoch + 1 < total else 0,
        **held_out(state, task),
        "images": progress.images,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 1),
    }
    state.progress = None
    return metrics


def _prepare(state: TrainingState, weights: Weights, rate: float) -> None:
    """Set an epoch's learning rate, and whether the mixture trains."""
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    for parameter in state.model.mixture_parameters():
        parameter.requires_grad_(weights.trains_mixture)
    state.model.train()


def _step(state: TrainingState, task: Task, objective: Objective, part: Part) -> None:
    """One global batch: a step of the optimiser, its terms added to the epoch's progress."""
    recipe, weights = task.recipe, objective.weights
    batch = batch_of(state, recipe, part, views=2 if needs_views(recipe, weights) else 1)
    outcome = objective(batch)
    state.optimiser.zero_grad(set_to_none=True)
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in state.parameters() if p.grad is not None]
    task.group.add([*gradients, outcome.terms])
    assert state.progress is not None
    state.progress.batches += 1
    if not _finite(outcome.terms, gradients):
        _skip(state, recipe, weights, outcome.terms)
        return
    if weights.trains_mixture:
        torch.nn.utils.clip_grad_value_(state.parameters(), recipe.optimiser.clip)
    state.optimiser.step()
    state.progress.totals += outcome.terms.cpu()
    state.progress.images += part.share.batch


def batch_of(state: TrainingState, recipe: Recipe, part: Part, *, views: int) -> Batch:
    """What a rank sees of a batch: its images, flipped and moved as (seed, epoch, row) say."""
    seed, epoch, rows, device = recipe.seed, state.epoch, part.share.rows, state.device
    x = as_images(part.pixels, device)
    weight = None
    if part.masks is not None and recipe.outside_weight < 1:
        inside = as_masks(part.masks, (x.shape[-2], x.shape[-1]), device).float()
        weight = recipe.outside_weight + (1 - recipe.outside_weight) * inside
    seen = []
    target, target_weight = x, weight
    for view in range(views):
        image = x
        if recipe.flips:
            which = flips(seed, epoch, rows, view)
            image = flipped(x, which)
            if view == 0:
                target_weight = None if weight is None else flipped(weight, which)
        if view == 0:
            target = image
        if views > 1:
            numbers = view_numbers(seed, epoch, rows, view)
            image = viewed(image, numbers, recipe.contrast.views)
        seen.append(image)
    return Batch(
        seen=torch.cat(seen),
        target=target,
        weight=target_weight,
        noise=normals(seed, epoch, rows, recipe.network.latent).to(device),
        partition=None if state.partition is None else state.partition[rows].to(device),
        start=part.share.start,
        size=part.share.batch,
    )


def _finite(terms: Tensor, gradients: list[Tensor]) -> bool:
    """Whether a batch's terms and gradient are finite; all ranks see the same sums."""
    norms = torch.stack([gradient.double().abs().sum() for gradient in gradients])
    return bool(torch.isfinite(terms.sum() + norms.sum()))


def _skip(state: TrainingState, recipe: Recipe, weights: Weights, terms: Tensor) -> None:
    """Count a batch that is not finite; TrainingError where an epoch has too many."""
    assert state.progress is not None
    state.progress.skipped += 1
    most = recipe.optimiser.max_skipped
    if state.progress.skipped <= most:
        return
    values = ", ".join(
        f"{name} {value:g}" for name, value in zip(TERMS, terms.tolist(), strict=False) if value
    )
    raise TrainingError(
        f"wanted at most {most} batches of an epoch without a finite loss and gradient, got "
        f"{most + 1} by batch {state.progress.batches} of epoch {state.epoch + 1} "
        f"({weights.phase.name}); the last one's terms, summed: {values}. Lower "
        "--optimiser.learning-rate or raise --mixture.variance-floor, with another --out."
    )


def means(progress: Progress, recipe: Recipe, weights: Weights) -> Metrics:
    """An epoch's terms as means over its images, with the loss that they make.

    Terms that the recipe, or this epoch, does not have are left out.
    """
    values = (progress.totals / progress.images).tolist()
    terms, occupancy = dict(zip(TERMS, values, strict=False)), values[len(TERMS) :]
    terms["l2"] *= recipe.optimiser.l2
    by = factors(recipe, weights) | {"l2": 1.0}
    return {
        "loss": sum(by[name] * value for name, value in terms.items()),
        **{name: value for name, value in terms.items() if by[name] or name not in SOMETIMES},
        "effective_components": effective_number(occupancy) if weights.trains_mixture else 0.0,
        "starving": _starving(occupancy, recipe) if weights.trains_mixture else 0,
    }


def _starving(occupancy: list[float], recipe: Recipe) -> int:
    """How many components starve, by the recipe's share or, where it never reseeds, by STARVES."""
    shares = np.asarray(occupancy) / sum(occupancy)
    least = (recipe.mixture.least_share or STARVES) / len(shares)
    return len(starving(shares, least=least))
