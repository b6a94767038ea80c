"""What a run would take: units, bytes, time and cost, from a small piece of its own work."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from avader.config import Machine, UnitSettings
from avader.errors import InputError
from avader.io import manifest, shards, storage
from avader.pipelines.cores import cores
from avader.pipelines.memory import Need, helpers_with_room
from avader.pipelines.progress import duration, say, size
from avader.pipelines.stages import UnitRows
from avader.plan import Plan

TRIAL_ROWS = 64
"""Objects of the piece of work that is timed, at least."""
OVERLAPPED = 4
"""Tiles of a call on a GPU, so that copies hide behind arithmetic."""
RAYS = 0.7
"""Of a machine's memory, what Ray gives to workers; the rest is its object store."""


class Step(NamedTuple):
    """A step of a piece of work: of what the step before made, None at first, what this makes.

    pooled: whether a worker does it; on GPUs other processes do the rest.
    """

    do: Callable[[Any], Any]
    pooled: bool = True


Work = Sequence[Step]
"""The steps of a piece of work, the last of which makes its UnitRows."""


@dataclass(frozen=True)
class Trial:
    """A piece of a run's work in this process.

    rows: objects of the whole run. size: bytes that it reads, 0 for none. start: called once, gives
    the piece's steps; None where pace says it all: objects a second of all workers together.
    """

    rows: int
    size: int
    start: Callable[[], Work] | None = None
    pace: float = 0.0


def trial_rows(tile: int, device: str) -> int:
    """Objects that fill tiles of so many; for a GPU several, whose copies it overlaps."""
    fewest = TRIAL_ROWS if device == "cpu" else OVERLAPPED * tile
    return tile * -(-fewest // tile)


def dry_run(plan: Plan, settings: UnitSettings, trial: Trial, need: Need) -> None:
    """Say what the run would take on this machine; nothing is written, no Ray is started.

    need: memory of a worker. Raises InputError where the folder is another plan's.
    """
    out = storage.absolute(settings.out)
    manifest.check_plan(out, plan)
    done = shards.done_units(out)
    left = len(plan.remaining(done))
    rows = trial.rows * left // max(1, len(plan.units))
    before = f", {len(plan.units) - left:,} of them done before" if done else ""
    say(f"dry run: nothing is written to {settings.out}")
    say(f"  {len(plan.units):,} units{before}; {rows:,} objects to do")
    if not rows:
        return
    if trial.start is None:
        took = duration(rows / trial.pace)
        say(f"  takes at least {took}, at {trial.pace:g} objects a second of all workers together")
    else:
        work, writer = trial.start(), plan.settings.get("writer", shards.WRITER)
        _done(work, writer)  # the first one also loads what is needed
        need = _here(need)
        share, workers = left / max(1, len(plan.units)), _workers(settings.workers, need)
        _say_measured(trial, _done(work, writer), rows, need, share=share, workers=workers)
    say(f"  each worker takes {need}")
    for machine in settings.machines:
        say(f"  {cost_line(machine, rows)}")


def _workers(asked: int, need: Need) -> int:
    """Processes that would work on this machine: as many as asked for, else one a GPU or one a
    core; no more than it has memory for, and one at least."""
    return max(1, min(asked or _slots(need.device), int(_memory() // need.total)))


def _memory() -> float:
    """Bytes that Ray would give to workers."""
    return RAYS * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _slots(device: str) -> int:
    if device == "cpu":
        return cores()
    import torch  # the trial, on a GPU, has loaded it

    return torch.cuda.device_count()


def _here(need: Need) -> Need:
    """The same, on GPUs with as many processes that write as this machine has cores for."""
    if need.device == "cpu":
        return need
    slots = {"CPU": cores(), "GPU": _slots("gpu"), "memory": _memory()}
    with suppress(InputError):  # no memory for one: on another machine, perhaps
        return replace(need, helpers=helpers_with_room([slots], need))
    return need


@dataclass(frozen=True)
class Piece:
    """A piece of a run's work that was done.

    rows: objects that it took. size: bytes of their file. pooled, others: seconds of the steps that
    a worker does, and of the others and the file.
    """

    rows: int
    size: int
    pooled: float
    others: float

    def rate(self, need: Need) -> float:
        """Objects a second of one worker; for a GPU's, others do the rest meanwhile."""
        if need.device == "cpu":
            return self.rows / (self.pooled + self.others)
        return self.rows / max(self.pooled, self.others / need.helpers)


def _done(work: Work, writer: Mapping[str, Any]) -> Piece:
    """The piece of work, and its rows as a file."""
    made: Any = None
    took = {True: 0.0, False: 0.0}
    for do, pooled in [*work, Step(partial(_as_file, writer), pooled=False)]:
        began = time.perf_counter()
        made = do(made)
        took[pooled] += time.perf_counter() - began
    rows, written = made
    return Piece(rows, written, pooled=took[True], others=took[False])


def _as_file(writer: Mapping[str, Any], made: UnitRows) -> tuple[int, int]:
    """Objects that were taken, and bytes of the file."""
    return made.rows_in, len(shards.parquet_bytes(made.table, writer))


def _say_measured(
    trial: Trial, piece: Piece, rows: int, need: Need, *, share: float, workers: int
) -> None:
    """Bytes and time of so many rows, a share of all, from a piece of the work."""
    if not piece.rows:
        say("  bytes and time are not known: nothing is selected of the rows that were tried")
        return
    rate = piece.rate(need)
    reads = f"reads {size(round(trial.size * share))}, " if trial.size else ""
    say(f"  {reads}writes about {size(piece.size * rows // piece.rows)}")
    say(
        f"  takes about {duration(rows / (rate * workers))} besides Ray's start: {workers} "
        f"worker(s) of {rate:,.1f} objects a second each, as {piece.rows} were done here"
    )


def cost_line(machine: Machine, rows: int) -> str:
    """Time and cost of so many objects on one machine of a type."""
    seconds = rows / machine.rate
    return (
        f"on {machine.name}: about {duration(seconds)}, cost {machine.price * seconds / 3600:,.2f} "
        f"at {machine.price:g} an hour and {machine.rate:,g} objects a second"
    )
