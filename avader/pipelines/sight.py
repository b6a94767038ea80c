"""What a training shows while it runs, by rank 0: lines, and the table of metrics."""

import csv
import io
import time

from avader.io import storage
from avader.model.schedule import at, total_epochs
from avader.pipelines.board import Notices
from avader.pipelines.progress import duration
from avader.recipe import Recipe
from avader.training.state import TrainingState

QUIET = 10.0
"""Seconds between lines within a long epoch."""


class Teller:
    """Rank 0's lines and its table of metrics; rows: images, out: the model's folder URI."""

    def __init__(self, recipe: Recipe, rows: int, out: str, notices: Notices) -> None:
        self.recipe, self.rows, self.out, self.notices = recipe, rows, out, notices
        self.total = total_epochs(recipe.schedule)
        self.began = self.said = time.monotonic()
        self.first_epoch = 0

    def begin(self, state: TrainingState, images: str) -> None:
        """Say where the images are (a line) and where the training goes on."""
        self.notices.write(f"  {images}")
        if state.epoch or state.progress is not None:
            within = f", batch {state.progress.batches}" if state.progress is not None else ""
            self.notices.write(f"  going on after epoch {state.epoch} of {self.total}{within}")
        self.first_epoch, self.began = state.epoch, time.monotonic()

    def batch(self, state: TrainingState) -> None:
        """Say how far a long epoch is."""
        if time.monotonic() - self.said < QUIET or state.progress is None:
            return
        self.said = time.monotonic()
        name = at(self.recipe.schedule, state.epoch).phase.name
        of = f"{name}, epoch {state.epoch + 1} of {self.total}"
        self.notices.write(f"  {of}: {state.progress.images:,} of {self.rows:,} images")

    def epoch(self, state: TrainingState) -> None:
        """Say an epoch's figures, and write the table anew."""
        self.said = time.monotonic()
        self.notices.write("  " + self.line(state))
        table = storage.join(self.out, "training", "metrics.csv")
        storage.write_bytes(table, metrics_csv(state))

    def line(self, state: TrainingState) -> str:
        """An epoch's figures as one line."""
        row = state.history[-1]
        mixture = at(self.recipe.schedule, state.epoch - 1).trains_mixture
        kl = f"mixture KL {row['mixture_kl']:.2f}" if mixture else f"unit KL {row['unit_kl']:.2f}"
        spent = time.monotonic() - self.began
        left = spent / (state.epoch - self.first_epoch) * (self.total - state.epoch)
        parts = [
            f"{row['phase']}, epoch {state.epoch} of {self.total}: loss {row['loss']:.3f}",
            f"reconstruction {row['reconstruction']:.3f}",
            kl,
            *([f"{row['effective_components']:.1f} components"] if mixture else []),
            f"{row['images_per_second']:,.0f} images/s",
        ]
        return ", ".join(parts) + (f", {duration(left)} left" if state.epoch < self.total else "")


def metrics_csv(state: TrainingState) -> bytes:
    """The history as CSV text, a row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(state.history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(state.history)
    return text.getvalue().encode()
