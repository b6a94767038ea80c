"""The live line of a training: phase, epoch, loss terms, components, images/s, time left."""

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Sequence

from avader.model.schedule import at, total_epochs
from avader.pipelines.progress import duration
from avader.recipe import Schedule
from avader.report.history import COMPONENTS, HELD_OUT, WEIGHT, Row, counts, terms, words

LAST = 5
"""Epochs of a kind whose median time is taken for the next ones."""
STARVING = "starving"
SILENT = {"l2", STARVING}
"""Columns that have no part of their own in the line."""


class Pace:
    """How long epochs take, by kind of phase, and so how much time is left.

    An epoch's time is all that passes between two ends, with checkpoints and pictures. Kinds that
    this process has not seen have the times that the history holds of them.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.total = schedule, total_epochs(schedule)
        self.seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LAST))
        self.before: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LAST))
        self.end = time.monotonic()
        self.start: tuple[float, int] | None = None
        self.images = 0

    def begin(self, history: Sequence[Row]) -> None:
        """Begin now, after the epochs of a history."""
        for epoch, row in enumerate(history):
            self.before[self._kind(epoch)].append(float(row["seconds"]))
        self.end = time.monotonic()

    def batch(self, images: int) -> None:
        """Note that so many images of the epoch are done."""
        if self.start is None:
            self.start = (time.monotonic(), images)
        self.images = images

    def epoch(self, epoch: int) -> None:
        """Note that an epoch, from 0, is done."""
        now = time.monotonic()
        self.seconds[self._kind(epoch)].append(now - self.end)
        self.end, self.start = now, None

    @property
    def rate(self) -> float:
        """Images per second since the epoch's first batch; 0 before there is a second one."""
        if self.start is None or self.images == self.start[1]:
            return 0.0
        return (self.images - self.start[1]) / max(time.monotonic() - self.start[0], 1e-9)

    def left(self, epoch: int, images: int = 0) -> str:
        """Time left in words, with these images and then all epochs after `epoch` (done) to go.

        "at this rate" where some kind of phase has not been timed: it then counts as the last.
        """
        if images and not self.rate:
            return ""
        seconds, sure = (images / self.rate if images else 0.0), True
        for ahead in range(epoch, self.total):
            known = self._typical(self._kind(ahead))
            sure = sure and known is not None
            seconds += known if known is not None else self._latest(epoch, images)
        if not seconds:
            return ""
        return f"{duration(seconds)} left" + ("" if sure else " at this rate")

    def _kind(self, epoch: int) -> str:
        return at(self.schedule, epoch).phase.kind

    def _typical(self, kind: str) -> float | None:
        times = self.seconds.get(kind) or self.before.get(kind)
        return statistics.median(times) if times else None

    def _latest(self, epoch: int, images: int) -> float:
        """Seconds of an epoch like the one that is under way, or like the last."""
        if images:
            return (self.images + images) / self.rate
        return self._typical(self._kind(max(epoch - 1, 0))) or 0.0


def figures(row: Row) -> str:
    """An epoch's loss terms, components and counts: "loss 12.345, reconstruction 11.200, ..."."""
    parts = [f"{words(name)} {number(row[name])}" for name in _shown(row)]
    effective = row.get(COMPONENTS, 0)
    if isinstance(effective, float) and effective > 0:
        starving = f" ({row[STARVING]} {STARVING})" if row.get(STARVING) else ""
        parts.append(f"{effective:.1f} components{starving}")
    parts += [f"{words(name)} {row[name]}" for name in counts([row]) if name not in SILENT]
    return ", ".join(parts)


def _shown(row: Row) -> list[str]:
    """Loss terms with a part in the loss, each with its held-out value after it."""
    used = [name for name in terms([row]) if name not in SILENT and row.get(WEIGHT + name) != 0]
    pairs = [(name, HELD_OUT + name) for name in used]
    return [name for pair in pairs for name in pair if name in row]


def number(value: float | int | str) -> str:
    """A loss term as text: three decimals, two digits where it is small."""
    if isinstance(value, str):
        return value
    return f"{value:,.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def epoch_line(row: Row, pace: Pace) -> str:
    """The line of an epoch that is done."""
    epoch = int(row["epoch"])
    parts = [
        f"{row['phase']}, epoch {epoch} of {pace.total}: {figures(row)}",
        f"{row['images_per_second']:,.0f} images/s",
        *([pace.left(epoch)] if epoch < pace.total else []),
    ]
    return ", ".join(parts)


def batch_line(row: Row, pace: Pace, *, epoch: int, images: int) -> str:
    """The line within an epoch, from 0, of `images` in all; row: means so far."""
    name = at(pace.schedule, epoch).phase.name
    parts = [
        f"{name}, epoch {epoch + 1} of {pace.total}, {pace.images:,} of {images:,} images: "
        f"{figures(row)}",
        f"{pace.rate:,.0f} images/s" if pace.rate else "",
        pace.left(epoch + 1, images - pace.images),
    ]
    return ", ".join(part for part in parts if part)
