"""The loss of one global batch: the paper's terms, and those that ours adds.

Choices, stated once:
- z is one sample per image of q(z | x), redrawn every epoch. It is decoded. Responsibilities g are
  taken where the recipe says (mixture.responsibilities).
- The loss is a mean over the images of a global batch of sums over pixels, plus the KL term, plus
  L2 once. Every rank computes the gradient of its own images; the sum over ranks is exact.
- Terms that compare images with each other (contrast, agreement, scaled responsibilities) are over
  the whole global batch: every rank computes them whole, from its own images with gradient and
  the others' without, so that the sum over ranks is again the whole gradient.
- With contrast or agreement an image is seen as two views. The decoder rebuilds, from the first
  one's z, the image as it was before the view's affine map (flips included).

Legend: B images of this rank, V views (1 or 2), C bands, H W pixels, D latent dimensions,
K components.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avader.mixture.gaussian import (
    GaussianMixture,
    batch_scaled_responsibilities,
    closed_form_responsibilities,
    log_joint,
)
from avader.model import losses
from avader.model.schedule import Weights
from avader.model.vade import VaDE
from avader.recipe import Mixture, Recipe
from avader.training.group import Group
from avader.training.precision import precision_on

OF_AN_IMAGE = ("reconstruction", "unit_kl", "mixture_kl", "pseudo_labels")
OF_A_BATCH = ("l2", "contrast", "agreement")
TERMS = (*OF_AN_IMAGE, *OF_A_BATCH)
"""The loss terms, before their factors, in the order of the terms of a batch."""


@dataclass(frozen=True)
class Batch:
    """What a rank sees of a global batch.

    seen (V B, C, H, W): the views, first views first. target (B, C, H, W): what is rebuilt, with
    weight (B, 1, H, W) or 1. noise (B, D): standard normals. partition (B,): each image's part
    of the partition that began the mixture, -1 for none; or None. start, size: where the rows
    begin in the global batch, and its rows.
    """

    seen: Tensor
    target: Tensor
    weight: Tensor | None
    noise: Tensor
    partition: Tensor | None
    start: int
    size: int


@dataclass(frozen=True)
class Outcome:
    """loss: a scalar whose gradients add up over ranks. terms: the TERMS, sums over the images of
    this rank, and its responsibilities (K,), float64 without gradient."""

    loss: Tensor
    terms: Tensor


def needs_views(recipe: Recipe, weights: Weights) -> bool:
    """Whether an epoch sees two views of an image."""
    return contrast_weight(recipe, weights) > 0 or (weights.trains_mixture and recipe.agreement > 0)


def contrast_weight(recipe: Recipe, weights: Weights) -> float:
    """Factor on the contrast in an epoch."""
    over = weights.trains_mixture and recipe.contrast.fades
    return 0.0 if over else recipe.contrast.weight


def factors(recipe: Recipe, weights: Weights) -> dict[str, float]:
    """Factor on each of the TERMS in an epoch; 0 leaves a term out."""
    return {
        "reconstruction": 1.0,
        "unit_kl": weights.unit_kl,
        "mixture_kl": weights.mixture_kl,
        "pseudo_labels": weights.pseudo_labels,
        "l2": recipe.optimiser.l2,
        "contrast": contrast_weight(recipe, weights),
        "agreement": recipe.agreement if weights.trains_mixture else 0.0,
    }


def projection(recipe: Recipe) -> nn.Module:
    """What the contrast compares latents by: (B, D) -> (B, width), or the latents themselves."""
    width = recipe.contrast.projection
    if not (width and recipe.contrast.weight):
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(recipe.network.latent, width), nn.ReLU(), nn.Linear(width, width)
    )


class Objective:
    """Computes the loss of batches under one epoch's weights."""

    def __init__(
        self, recipe: Recipe, weights: Weights, model: VaDE, head: nn.Module, group: Group
    ) -> None:
        self.recipe, self.weights, self.model, self.head = recipe, weights, model, head
        self.group, self.factors = group, factors(recipe, weights)

    def __call__(self, batch: Batch) -> Outcome:
        """Loss and terms of a batch; every rank calls it, also with an empty share."""
        recipe, model = self.recipe, self.model
        rows = len(batch.target)
        device = batch.seen.device.type
        bfloat16 = precision_on(recipe, device) == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            means, logvars = (part.float() for part in model.encode(batch.seen))
            mean, logvar = means[:rows], logvars[:rows]
            z = mean + (0.5 * logvar).exp() * batch.noise
            x_hat = model.decode(z).float()
        error = losses.reconstruction(batch.target, x_hat, recipe.loss, batch.weight)
        found = {
            "reconstruction": error.sum(),
            "unit_kl": losses.unit_kl(mean, logvar).sum(),
            "l2": losses.l2(model) / self.group.world,
        }
        occupancy = z.new_zeros(model.components, dtype=torch.float64)
        if self.weights.trains_mixture:
            mixture = model.mixture()
            g = self._responsibilities(mean, logvar, z, mixture)
            occupancy = g.detach().sum(0)
            found["mixture_kl"] = losses.mixture_kl(mean, logvar, g, mixture).sum()
            if self.factors["pseudo_labels"] and batch.partition is not None:
                labels = losses.pseudo_labels(log_joint(z, mixture), batch.partition)
                found["pseudo_labels"] = labels.sum()
            if self.factors["agreement"]:
                found["agreement"] = self._agreement(means, mixture, batch)
        if self.factors["contrast"]:
            found["contrast"] = self._contrast(means, batch)
        return Outcome(self._loss(found, batch), self._terms(found, occupancy, batch))

    def _loss(self, found: dict[str, Tensor], batch: Batch) -> Tensor:
        """The terms by their factors; those of images are means over the global batch."""
        parts = {
            name: value.double() / (batch.size if name in OF_AN_IMAGE else 1)
            for name, value in found.items()
            if self.factors[name]
        }
        return torch.stack([self.factors[name] * value for name, value in parts.items()]).sum()

    def _terms(self, found: dict[str, Tensor], occupancy: Tensor, batch: Batch) -> Tensor:
        """All terms and the responsibilities (7 + K,), as this rank's part of sums over images.

        L2 is divided among the ranks already; the contrast and the agreement of the whole batch
        are the same on every rank.
        """
        images = dict.fromkeys(OF_AN_IMAGE, 1.0) | {"l2": float(batch.size)}
        shared = batch.size / self.group.world
        zero = occupancy.new_zeros(())
        scalars = [
            found[name].detach().double() * images.get(name, shared) if name in found else zero
            for name in TERMS
        ]
        return torch.cat([torch.stack(scalars), occupancy])

    def _responsibilities(
        self, mean: Tensor, logvar: Tensor, z: Tensor, mixture: GaussianMixture
    ) -> Tensor:
        """g (B, K) as the recipe's mixture says."""
        settings: Mixture = self.recipe.mixture
        if settings.responsibilities == "bound" and not settings.scaled:
            g = closed_form_responsibilities(mean, logvar, mixture)
        else:
            logs = log_joint(mean if settings.responsibilities == "mean" else z, mixture)
            g = logs.softmax(-1) if not settings.scaled else self._scaled(logs)
        return g if settings.responsibility_gradient else g.detach()

    def _scaled(self, logs: Tensor) -> Tensor:
        """s3VDC's g (B, K), by the least and greatest -log joint of all ranks' images."""
        least, greatest = self.group.extremes(-logs.detach())
        return batch_scaled_responsibilities(
            logs, least=least, greatest=greatest, scale=self.recipe.mixture.scaled
        )

    def _contrast(self, means: Tensor, batch: Batch) -> Tensor:
        """InfoNCE between the two views of all images of the global batch, a mean over them."""
        compared = self.head(means)
        first, second = (self._whole(part, batch) for part in compared.tensor_split(2))
        return losses.contrast(first, second, self.recipe.contrast.temperature)

    def _agreement(self, means: Tensor, mixture: GaussianMixture, batch: Batch) -> Tensor:
        """Minus the mutual information of the two views' components over the global batch."""
        first, second = log_joint(means, mixture).softmax(-1).tensor_split(2)
        own = first.T @ second / batch.size  # (K, K)
        total = own.detach().clone()
        self.group.add([total])
        return -losses.mutual_information(total - own.detach() + own)

    def _whole(self, own: Tensor, batch: Batch) -> Tensor:
        """All ranks' rows (size, P) in order; own rows with gradient, the others' without."""
        if self.group.world == 1:
            return own
        rows = slice(batch.start, batch.start + len(own))
        everyone = own.new_zeros((batch.size, own.shape[1]))
        everyone[rows] = own.detach()
        self.group.add([everyone])
        return torch.cat([everyone[: rows.start], own, everyone[rows.stop :]])
