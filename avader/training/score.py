"""What a search compares trainings by: a bound on held-out images, with collapse penalised.

No label is ever seen. Notable choices:
- A training minimises R + w KL per image (R the reconstruction error, w the weight of the KL).
  That is w times minus a bound on log p(x), R / w + KL: for the squared error, that of a Gaussian
  of variance w / 2 a pixel, up to a constant that all trainings share; for the cross-entropy at
  w = 1 the plain bound. See Higgins et al. 2017 (beta-VAE) and Kingma & Welling 2014.
- w is the one of the recipe whose ranges are searched, never a trial's own: a trial cannot win by
  scaling its terms. Annealing, L2, contrast and agreement are left out.
- So a range over kl_weight or gamma is of little use: bounds are taken at the recipe's own.
- Before the mixture trains w is the recipe's gamma, under which that phase trains, and KL is to the
  unit Gaussian. All is divided by kl_weight there too, so both are in the same nats; but the two
  are compared with each other nowhere: trials are compared at the same epoch.
"""

import math

from avader.model.schedule import at
from avader.recipe import Recipe
from avader.training.state import Metrics

WORST = -1e9
"""Score of a training that failed: finite, so that it can be ranked."""


def bound(row: Metrics, recipe: Recipe) -> float:
    """The bound on log p(x) of held-out images after an epoch, nats an image.

    row: the epoch's metrics; recipe: the one whose ranges are searched.
    """
    schedule = recipe.schedule
    trains_mixture = at(schedule, int(row["epoch"]) - 1).trains_mixture
    weight = schedule.kl_weight if trains_mixture else schedule.gamma
    loss = float(row["held_out_reconstruction"]) + weight * float(row["held_out_kl"])
    return -loss / schedule.kl_weight


def collapse(effective: float, components: int, penalty: float) -> float:
    """What is taken off for collapse, nats: penalty x log(K / 2 / effective), at least 0.

    effective: exp(entropy) of the mean responsibilities, 1 to K; 0 before the mixture trains,
    for which nothing is taken off.
    """
    if effective <= 0:
        return 0.0
    return penalty * max(0.0, math.log(components / 2 / effective))


def score(row: Metrics, recipe: Recipe, *, components: int, penalty: float) -> float:
    """The bound less the collapse of an epoch's training; WORST where it is not finite."""
    effective = float(row["effective_components"])
    value = bound(row, recipe) - collapse(effective, components, penalty)
    return value if math.isfinite(value) else WORST
