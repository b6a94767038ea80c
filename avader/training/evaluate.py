"""What is measured on held-out images: the loss without flips, views and gradient."""

import torch

from avader.mixture.gaussian import closed_form_responsibilities
from avader.model import losses
from avader.model.schedule import at
from avader.training.data import as_images, near_equal
from avader.training.noise import normals
from avader.training.state import Metrics, TrainingState
from avader.training.task import Task

BATCH = 256


@torch.no_grad()
def held_out(state: TrainingState, task: Task) -> Metrics:
    """Means over the held-out images after an epoch; empty where none are held out.

    held_out_reconstruction: over all pixels alike, also where the recipe weighs those outside of
    the source less. held_out_kl: the unit KL in the gamma phase, then the mixture KL at the g that
    makes the bound greatest. held_out_bound: minus their sum, weights left aside. Every rank
    measures its part.
    """
    recipe, images, group = task.recipe, task.images, task.group
    rows = images.held_out_rows
    if not len(rows):
        return {}
    trains_mixture = at(recipe.schedule, state.epoch).trains_mixture
    model = state.model.eval()
    start, stop = near_equal(len(rows), group.world)[group.rank]
    # On the device, since GPUs that train together add up nothing else.
    totals = torch.zeros(2, dtype=torch.float64, device=state.device)
    for part in images.some(rows[start:stop], BATCH):
        x = as_images(part.pixels, state.device)
        noise = normals(recipe.seed, 0, part.share.rows, recipe.network.latent)
        mean, logvar, _, x_hat = model(x, noise.to(state.device))
        kl = losses.unit_kl(mean, logvar).double()
        if trains_mixture:
            mixture = model.mixture()
            g = closed_form_responsibilities(mean, logvar, mixture)
            kl = losses.mixture_kl(mean, logvar, g, mixture)
        error = losses.reconstruction(x, x_hat, recipe.loss).double()
        totals += torch.stack([error.sum(), kl.sum()])
    group.add([totals])
    reconstruction, kl_mean = (totals / len(rows)).tolist()
    return {
        "held_out_reconstruction": reconstruction,
        "held_out_kl": kl_mean,
        "held_out_bound": -(reconstruction + kl_mean),
    }
