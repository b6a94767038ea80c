"""What a training shows while it runs, by rank 0: lines, and files below training/.

    metrics.csv                  a row an epoch
    curves.png                   its curves, drawn at the end, and before as far as it is cheap
    phases/NN-name.png           reconstructions and samples at the end of phase NN
    tensorboard/                 event files

Every file is a function of the history and, at a phase's end, the model: a training that goes
back to a checkpoint writes the same files again.
"""

import math
import time

from avader.io import storage
from avader.model.schedule import at, phases
from avader.pipelines.board import Notices
from avader.pipelines.training import tensorboard
from avader.pipelines.training.line import Pace, batch_line, epoch_line
from avader.recipe import Recipe
from avader.report.history import to_csv
from avader.report.phase import phase_png
from avader.report.training import curves_png
from avader.training.data import Pixels
from avader.training.loop import means
from avader.training.pictures import Pictures, examples, pictures
from avader.training.precision import precision_on
from avader.training.state import TrainingState
from avader.training.task import Task

QUIET = 10.0
"""Seconds between lines within a long epoch."""
SPARE = 50.0
"""Curves are drawn again after so many times what the last drawing took: 2 % of the time."""


class Teller:
    """Rank 0's lines and files; rows: images of an epoch, out: the model's folder URI."""

    def __init__(self, recipe: Recipe, rows: int, out: str, notices: Notices) -> None:
        self.recipe, self.rows, self.out, self.notices = recipe, rows, out, notices
        self.pace = Pace(recipe.schedule)
        self.ends = {phase.stop: n for n, phase in enumerate(phases(recipe.schedule), start=1)}
        self.said = time.monotonic()
        self.next_curves = -math.inf
        self.examples: Pixels | None = None

    def begin(self, state: TrainingState, task: Task) -> None:
        """Say who trains, where the images are, how it computes and where it goes on."""
        precision = precision_on(task.recipe, state.device.type)
        self.notices.write(f"  {task.group.world} worker(s); {task.images.line}; {precision}")
        if state.epoch or state.progress is not None:
            within = f", batch {state.progress.batches}" if state.progress is not None else ""
            total = self.pace.total
            self.notices.write(f"  going on after epoch {state.epoch} of {total}{within}")
        self.examples = examples(task.images)
        self.pace.begin(state.history)

    def batch(self, state: TrainingState) -> None:
        """Say how far a long epoch is, with its means so far."""
        if state.progress is None or not state.progress.images:
            return
        self.pace.batch(state.progress.images)
        if time.monotonic() - self.said < QUIET or state.progress.images >= self.rows:
            return
        self.said = time.monotonic()
        row = means(state.progress, self.recipe, at(self.recipe.schedule, state.epoch))
        line = batch_line(row, self.pace, epoch=state.epoch, images=self.rows)
        self.notices.write("  " + line)

    def epoch(self, state: TrainingState) -> None:
        """Say an epoch's figures, and write its files."""
        self.pace.epoch(state.epoch - 1)
        self.said = time.monotonic()
        self.notices.write("  " + epoch_line(state.history[-1], self.pace))
        self._write("metrics.csv", to_csv(state.history))
        number = self.ends.get(state.epoch)
        picture = None
        if number is not None and self.examples is not None:
            picture = phase_picture(state, pictures(state, self.examples), total=self.pace.total)
            self._write(f"phases/{phase_file(number, state)}", picture)
        name = tensorboard.file_name(state.epoch)
        self._write(f"tensorboard/{name}", tensorboard.events(state.history, picture))
        if state.epoch == self.pace.total or time.monotonic() >= self.next_curves:
            began = time.monotonic()
            self._write("curves.png", curves_png(state.history))
            took = time.monotonic() - began
            self.next_curves = time.monotonic() + SPARE * took

    def _write(self, name: str, data: bytes) -> None:
        storage.write_bytes(storage.join(self.out, "training", name), data)


def phase_file(number: int, state: TrainingState) -> str:
    """File name of the phase, by its number from 1, that the last epoch ended: "01-gamma.png"."""
    return f"{number:02d}-{str(state.history[-1]['phase']).replace(' ', '-')}.png"


def phase_picture(state: TrainingState, made: Pictures, *, total: int) -> bytes:
    """The pictures of a phase's end as PNG; total: epochs of the training."""
    count = state.model.components
    if not made.components:
        title, names = "samples of the unit Gaussian: there is no mixture yet", [""]
    else:
        few = f" (the heaviest {len(made.components)} of {count})"
        title = "samples of each component, with its weight"
        title += few if len(made.components) < count else ""
        pairs = zip(made.components, made.weights, strict=True)
        names = [f"{component} · {100 * weight:.1f} %" for component, weight in pairs]
    return phase_png(
        made.images,
        made.reconstructions,
        made.samples,
        title=f"after {state.history[-1]['phase']}, epoch {state.epoch} of {total}",
        samples_title=title,
        names=names,
    )
