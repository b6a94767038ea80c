"""Histories as a training leaves them, of any length, with curves that are easy to check."""

from avader.model.schedule import at, total_epochs
from avader.recipe import Schedule

PAPER = Schedule()
DEMO = Schedule(gamma_epochs=20, periods=2, annealing_epochs=5, static_epochs=7, kl_weight=0.1)


def history(schedule: Schedule, epochs: int | None = None, **extra) -> list[dict]:
    """Rows of the first epochs of a schedule; extra: values, or functions of the epoch from 1."""
    rows = []
    for epoch in range(epochs or total_epochs(schedule)):
        weights = at(schedule, epoch)
        row = {
            "epoch": epoch + 1,
            "phase": weights.phase.name,
            "learning_rate": 1e-3 * 0.99**epoch,
            "weight_unit_kl": weights.unit_kl,
            "weight_mixture_kl": weights.mixture_kl,
            "loss": 120.0 / (1 + epoch),
            "reconstruction": 100.0 / (1 + epoch),
            "unit_kl": 20.0 + epoch,
            "mixture_kl": 30.0 if weights.trains_mixture else 0.0,
            "l2": 0.5,
            "effective_components": 7.5 if weights.trains_mixture else 0.0,
            "starving": 0,
            "images": 200,
            "seconds": 2.0 if weights.trains_mixture else 1.0,
            "images_per_second": 100.0,
        }
        given = {name: v(epoch + 1) if callable(v) else v for name, v in extra.items()}
        rows.append(row | given)
    return rows
