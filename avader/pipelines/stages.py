"""What is done to one unit after another in worker processes, and what becomes of failures.

A unit travels as one block of one row: its name and inputs, what the stage before made of it, and
what went wrong, if anything did. Failures are data: an exception would lose its type on the way,
and end everybody's work.
"""

import faulthandler
import json
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from avader.errors import HaltError, InputError
from avader.io import shards
from avader.pipelines.board import Lines
from avader.pipelines.progress import duration
from avader.plan import Receipt, Unit

STDERR = 2
TRIES = 3
"""Attempts at a stage of a unit before the unit is set aside."""

Do = Callable[[Unit, Any], Any]
"""Of a unit and what the stage before made of it: what this stage makes."""


@dataclass(frozen=True)
class Stage:
    """One step of the way of every unit.

    make: called once in a worker process, gives the function that does the step. pooled: done by
    a pool of workers that keep what `make` loaded, on GPUs where there are some; else by tasks,
    which mostly wait for storage.
    """

    name: str
    make: Callable[[], Do]
    pooled: bool = False


@dataclass(frozen=True)
class UnitRows:
    """What is written of a unit: its rows, its rejects, and how many objects it took."""

    rows_in: int
    table: pa.Table
    rejects: pa.Table


@dataclass(frozen=True)
class Outcome:
    """A unit that left the last stage, with a receipt or a problem.

    unusable: whether the problem lies in what was read, so that trying again does not help. halts:
    whether every unit would meet it.
    """

    unit: str
    receipt: Receipt | None
    problem: str = ""
    unusable: bool = False
    halts: bool = False


def write_stage(out: str) -> Stage:
    """The last stage: a unit's rows become its two objects in a folder, and a receipt."""
    return Stage("write", partial(partial, _write, out))


def _write(out: str, unit: Unit, made: UnitRows) -> Receipt:
    try:
        return shards.write_unit(
            out, unit, rows_in=made.rows_in, table=made.table, rejects=made.rejects
        )
    except InputError as error:  # the folder refuses: no permission, no room, no bucket
        raise HaltError(str(error)) from error


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
            took = now - since
            why = f"stalled for {duration(limit)}" if took >= limit else "lost its worker"
            self.write(f"  unit {unit} {why} in {stage}: attempt {count} of {TRIES}")
        self.begun[unit, stage] = count + 1, now
        return count + 1

    def end(self, unit: str, stage: str) -> None:
        """The attempt is over, whatever came of it."""
        self.begun.pop((unit, stage), None)


class Worker:
    """Does a stage of one unit after another; made ready by its first unit.

    attempts: handle of the actor. limit: seconds after which an attempt counts as stalled; its
    process then ends, and Ray tries again in another.
    """

    def __init__(self, stage: Stage, attempts: Any, limit: float) -> None:
        self.stage, self.attempts, self.limit = stage, attempts, limit
        self.do: Do | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block with what this stage made of its unit, or with what went wrong."""
        if block["problem"][0].as_py():
            return block
        unit, before = _opened(block)
        problem = f"its worker was lost {TRIES} times in {self.stage.name}"
        for _ in range(self._begin(unit), TRIES + 1):
            try:
                with _watched(self.limit):
                    self.do = self.do or self.stage.make()
                    made = self.do(unit, before)
            except InputError as error:
                return self._failed(unit, str(error), error)
            except Exception as error:  # noqa: BLE001  # whatever it is, others go on
                text = traceback.format_exception_only(error)[-1].strip()
                problem = f"{text} (in {self.stage.name}, {TRIES} times)"
            else:
                self._end(unit)
                return block_of(unit, made)
        return self._failed(unit, problem)

    def _begin(self, unit: Unit) -> int:
        attempt = self.attempts.begin.remote(unit.name, self.stage.name, self.limit)
        return int(ray.get(attempt))

    def _end(self, unit: Unit) -> None:
        self.attempts.end.remote(unit.name, self.stage.name)

    def _failed(self, unit: Unit, problem: str, error: InputError | None = None) -> pa.Table:
        self._end(unit)
        told = [problem, error is not None, isinstance(error, HaltError)]
        return block_of(unit, None, problem=json.dumps(told))


def block_of(unit: Unit, made: Any, problem: str = "") -> pa.Table:
    """A unit on its way."""
    value = pa.array([pickle.dumps(made)], pa.large_binary())
    return pa.table({"unit": [json.dumps(asdict(unit))], "problem": [problem], "value": value})


def _opened(block: pa.Table) -> tuple[Unit, Any]:
    unit = Unit(**json.loads(block["unit"][0].as_py()))
    return unit, pickle.loads(block["value"][0].as_buffer())


def outcome_of(block: pa.Table) -> Outcome:
    """What became of a unit that left the last stage."""
    unit, receipt = _opened(block)
    problem = block["problem"][0].as_py()
    if not problem:
        return Outcome(unit.name, receipt)
    return Outcome(unit.name, None, *json.loads(problem))


@contextmanager
def _watched(limit: float) -> Iterator[None]:
    """End this process if the block lasts longer, with its stack in the worker's log.

    By a thread of C, since what hangs may hold Python's lock.
    """
    faulthandler.dump_traceback_later(limit, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
