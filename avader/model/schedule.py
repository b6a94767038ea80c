"""The schedule of a training: which phase an epoch is in, its weights and its learning rate.

Pure functions of the recipe; epochs count from 0. A training is a gamma phase (reconstruction +
gamma x unit KL, the mixture frozen), then the first mixture is made, then periods of annealing
and static epochs under the mixture KL (Cao et al. 2020; the paper's sections 3.3 and 4.1).
"""

import math
from dataclasses import dataclass
from typing import Literal

from avader.recipe import Optimiser, Schedule

Kind = Literal["gamma", "annealing", "static"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A run of epochs under one rule.

    kind: the rule; period: number of the annealing period from 1, 0 for gamma.
    start: first epoch, from 0; epochs: how many.
    """

    kind: Kind
    period: int
    start: int
    epochs: int

    @property
    def stop(self) -> int:
        """The first epoch after the phase."""
        return self.start + self.epochs

    @property
    def name(self) -> str:
        """For people: "gamma", "annealing 2", "static 2"."""
        return f"{self.kind} {self.period}" if self.period else self.kind


@dataclass(frozen=True, slots=True)
class Weights:
    """Factors on the loss terms in one epoch; the reconstruction's is always 1.

    pseudo_labels: on the cross-entropy towards the partition that began the mixture.
    """

    phase: Phase
    unit_kl: float
    mixture_kl: float
    trains_mixture: bool
    pseudo_labels: float = 0.0


def phases(schedule: Schedule) -> tuple[Phase, ...]:
    """All phases in order, without gaps; a static phase of 0 epochs is left out."""
    found = [Phase("gamma", 0, 0, schedule.gamma_epochs)]
    rules: tuple[tuple[Kind, int], ...] = (
        ("annealing", schedule.annealing_epochs),
        ("static", schedule.static_epochs),
    )
    for period in range(1, schedule.periods + 1):
        for kind, epochs in rules:
            if epochs:
                found.append(Phase(kind, period, found[-1].stop, epochs))
    return tuple(found)


def total_epochs(schedule: Schedule) -> int:
    """Epochs of the whole training."""
    return phases(schedule)[-1].stop


def at(schedule: Schedule, epoch: int) -> Weights:
    """Phase and loss weights of an epoch from 0; ValueError outside the schedule."""
    phase = next((phase for phase in phases(schedule) if phase.start <= epoch < phase.stop), None)
    if phase is None or epoch < 0:
        raise ValueError(f"epoch: wanted 0 to {total_epochs(schedule) - 1}, got {epoch}")
    if phase.kind == "gamma":
        return Weights(phase, schedule.gamma, 0.0, False)
    labelled = epoch < schedule.gamma_epochs + schedule.pseudo_label_epochs
    return Weights(
        phase,
        unit_kl=0.0,
        mixture_kl=_annealing(schedule, phase, epoch) * schedule.kl_weight,
        trains_mixture=True,
        pseudo_labels=schedule.pseudo_labels if labelled else 0.0,
    )


def learning_rate(optimiser: Optimiser, epoch: int, total: int) -> float:
    """Learning rate of an epoch: equal factors every `decay_every` epochs, the last one final.

    first x (final / first)^(step / last step), where step = epoch // decay_every; a training of
    one step keeps the first rate.
    """
    last = math.ceil(total / optimiser.decay_every) - 1
    ratio = optimiser.final_learning_rate / optimiser.learning_rate
    step = epoch // optimiser.decay_every
    return optimiser.learning_rate * ratio ** (step / last if last else 0.0)


def _annealing(schedule: Schedule, phase: Phase, epoch: int) -> float:
    """min(1, gamma + (e / E)^power), e = 1..E within an annealing phase; 1 when static."""
    if phase.kind == "static":
        return 1.0
    fraction = (epoch - phase.start + 1) / phase.epochs
    return min(1.0, schedule.gamma + fraction**schedule.annealing_power)
