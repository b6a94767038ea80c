"""What is done to one unit after another in worker processes, and what becomes of failures.

A unit travels as one block of one row: its name and inputs, what the stage before made of it, and
what went wrong, if anything did. Failures are data: an exception would lose its type on the way,
and end everybody's work.
"""

import faulthandler
import json
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from avader.errors import HaltError, InputError
from avader.io import shards
from avader.pipelines.attempts import TRIES
from avader.plan import Plan, Receipt, Unit

STDERR = 2
ALIGNED = 64
"""Bytes that Arrow aligns buffers to."""

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


def write_stage(out: str, plan: Plan) -> Stage:
    """The last stage: a unit's rows become its two objects in a folder, and a receipt."""
    # Not the plan itself, which may hold very many units and would go to every worker.
    writer = plan.settings.get("writer", shards.WRITER)
    how = {"place": plan.place, "root": plan.root, "writer": writer}
    return Stage("write", partial(partial, _write, out, how))


def _write(out: str, how: Mapping[str, Any], unit: Unit, made: UnitRows) -> Receipt:
    try:
        return shards.write_unit(
            out, unit, rows_in=made.rows_in, table=made.table, rejects=made.rejects, **how
        )
    except InputError as error:  # the folder refuses: no permission, no room, no bucket
        raise HaltError(str(error)) from error


@dataclass
class Worker:
    """Does some stages of one unit after another; made ready by its first unit.

    attempts: handle of the actor. limit: seconds after which an attempt counts as stalled; its
    process then ends, and Ray tries again in another.
    """

    stages: Sequence[Stage]
    attempts: Any
    limit: float
    ready: dict[str, Do] = field(default_factory=dict)

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block with what the last stage made of its unit, or with what went wrong."""
        if block["problem"][0].as_py():
            return block
        unit, value = _opened(block)
        try:
            for stage in self.stages:
                value = self._do(stage, unit, value)
        except _ProblemError as problem:
            return block_of(unit, None, problem=json.dumps(problem.args))
        return block_of(unit, value)

    def _do(self, stage: Stage, unit: Unit, before: Any) -> Any:
        """What a stage makes of a unit. Raises _ProblemError with the fields of an Outcome."""
        begun = self.attempts.begin.remote(unit.name, stage.name, self.limit)
        problem = f"its worker was lost {TRIES} times in {stage.name}"
        try:
            for _ in range(ray.get(begun), TRIES + 1):
                try:
                    with _watched(self.limit):
                        if stage.name not in self.ready:
                            self.ready[stage.name] = stage.make()
                        return self.ready[stage.name](unit, before)
                except InputError as error:
                    raise _ProblemError(str(error), True, isinstance(error, HaltError)) from error
                except Exception as error:  # noqa: BLE001  # whatever it is, others go on
                    text = traceback.format_exception_only(error)[-1].strip()
                    problem = f"{text} (in {stage.name}, {TRIES} times)"
            raise _ProblemError(problem)
        finally:
            self.attempts.end.remote(unit.name, stage.name)


class _ProblemError(Exception):
    """What sets a unit aside: problem, unusable and halts of its Outcome."""


def block_of(unit: Unit, made: Any, problem: str = "") -> pa.Table:
    """A unit on its way. What was made of it is copied once, as a pickle and its large buffers."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    return pa.table(
        {
            "unit": [json.dumps(asdict(unit))],
            "problem": [problem],
            "sizes": [[len(part) for part in parts]],
            "value": _joined(parts),
        }
    )


def _joined(parts: Sequence[memoryview]) -> pa.Array:
    """One value of all parts, each from a multiple of ALIGNED bytes on."""
    starts = _starts([len(part) for part in parts])
    data = np.empty(starts[-1], np.uint8)
    for (start, stop), part in zip(pairwise(starts), parts, strict=True):
        data[start : start + len(part)] = np.frombuffer(part, np.uint8)
        data[start + len(part) : stop] = 0
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(data)])


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where parts of these sizes begin, and where the last one ends with what fills it up."""
    return [0, *accumulate(-(-size // ALIGNED) * ALIGNED for size in sizes)]


def _opened(block: pa.Table) -> tuple[Unit, Any]:
    """The unit, and what was made of it, whose buffers are the block's own."""
    unit = Unit(**json.loads(block["unit"][0].as_py()))
    value, sizes = _bytes_of(block["value"].chunk(0)), block["sizes"][0].as_py()
    parts = [
        value[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=False)
    ]
    return unit, pickle.loads(parts[0], buffers=parts[1:])


def _bytes_of(values: pa.Array) -> memoryview:
    """The first of some binary values. Not by a scalar, which would be a copy."""
    values = values.cast(pa.large_binary())
    _, ends, data = values.buffers()
    first, last = np.frombuffer(ends, np.int64)[values.offset : values.offset + 2]
    return memoryview(data)[first:last]


def outcome_of(block: pa.Table) -> Outcome:
    """What became of a unit that left the last stage."""
    unit, receipt = _opened(block)
    problem = block["problem"][0].as_py()
    if not problem:
        return Outcome(unit.name, receipt)
    return Outcome(unit.name, None, *json.loads(problem))


class _Watch:
    """What ends this process where a stage of a unit lasts longer than a limit, seconds.

    By a thread of C, since what hangs may hold Python's lock. The stack goes to the worker's log.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.limit: float | None = None

    def set(self, limit: float | None) -> None:
        """Begin to watch, or with None end it."""
        with self.lock:
            self.limit = limit
            self._start()

    def begin_anew(self, besides: float) -> None:
        """Give what is watched, if anything is, its whole time again, and so many seconds."""
        with self.lock:
            if self.limit is not None:
                self._start(besides)

    def _start(self, besides: float = 0.0) -> None:
        if self.limit is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(self.limit + besides, exit=True, file=STDERR)


_WATCH = _Watch()


@contextmanager
def _watched(limit: float) -> Iterator[None]:
    """End this process if the block lasts longer, and does not say meanwhile that it gets on."""
    _WATCH.set(limit)
    try:
        yield
    finally:
        _WATCH.set(None)


def gets_on(besides: float = 0.0) -> None:
    """Say, from any thread, that the unit under way has not stalled: its time begins anew.

    besides: seconds that it is going to wait before.
    """
    _WATCH.begin_anew(besides)
