"""Who is at which unit, so that one whose worker was lost again and again is known.

Apart from stages.py, so that the actor's process has little to load.
"""

import time

from avader.pipelines.board import Lines
from avader.pipelines.metrics import count_lost_attempt, count_seconds
from avader.pipelines.progress import duration

TRIES = 3
"""Attempts at a stage of a unit before the unit is set aside."""


class Attempts(Lines):
    """The board of a run, which also knows what each worker is at."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[tuple[str, str], tuple[int, float]] = {}

    def begin(self, unit: str, stage: str, limit: float) -> int:
        """Number, from 1, of the attempt that begins; one still open was lost with its worker."""
        count, since = self.begun.get((unit, stage), (0, 0.0))
        now = time.monotonic()
        if count:
            stalled = now - since >= limit
            count_lost_attempt(stage, stalled=stalled)
            why = f"stalled for {duration(limit)}" if stalled else "lost its worker"
            self.write(f"  unit {unit} {why} in {stage}: attempt {count} of {TRIES}")
        self.begun[unit, stage] = count + 1, now
        return count + 1

    def end(self, unit: str, stage: str) -> None:
        """The attempt is over, whatever came of it."""
        _, since = self.begun.pop((unit, stage), (0, time.monotonic()))
        count_seconds(stage, time.monotonic() - since)
