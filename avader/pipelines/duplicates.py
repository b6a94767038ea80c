"""Ids that occur twice, found before packing: the first in source order is kept.

Workers send 16-byte digests of ids, never rows; the driver compares them in source order, so the
result is the same for any number of workers.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from avader.catalogue.repeats import Digests, id_digests
from avader.errors import InputError
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.io.spool import IdSpool
from avader.plan import Unit
from avader.survey.sources import describe_row, read_ids, row_number

# Few, since small results of tasks, of up to 100 kB, stay in the driver's memory.
MOST_TASKS = 200
PART = "part"
"""Kind of what holds ids beside the kinds of a source's units: a part of an earlier increment."""


@dataclass(frozen=True)
class Duplicates:
    """Rows to refuse, by their number in the whole source: which row was kept instead."""

    by_number: Mapping[int, str]

    def of(self, numbers: NDArray[np.int64]) -> Mapping[int, str]:
        """Those among rows with these numbers (N,), by their place there."""
        told = ((row, self.by_number.get(number)) for row, number in enumerate(numbers.tolist()))
        return {row: text for row, text in told if text is not None}


def find_duplicates(units: Sequence[Unit], earlier: Sequence[Manifest] = ()) -> Duplicates:
    """Compare the ids of all units, in source order, on the cluster.

    earlier: increments that a data set has already; their ids count as first. Memory of the driver
    is IdSpool's, besides the rows to refuse; digests that wait for it are in Ray's object store,
    which moves them to disk where there are too many.
    """
    holders = [*(part for held in earlier for part in _parts(held)), *units]
    step = max(1, -(-len(holders) // MOST_TASKS))
    waiting = deque(
        _digests.remote(holders[start : start + step]) for start in range(0, len(holders), step)
    )
    counts = [np.zeros(1, np.int64)]
    by_number: dict[int, str] = {}
    with IdSpool() as spool:
        while waiting:
            try:
                digests, rows = ray.get(waiting.popleft())
            except InputError as error:  # ids that cannot be read, wrapped in Ray's words
                raise _cause(error) from error
            spool.add(digests)
            counts.append(rows)
        starts = np.cumsum(np.concatenate(counts))
        for repeated, kept in spool.repeats():
            holder, row = _locate(holders, starts, repeated)
            where = _described(*_locate(holders, starts, kept))
            by_number[row_number(holder, row)] = f"the same id came first in {where}"
    return Duplicates(by_number)


def _parts(held: Manifest) -> list[Unit]:
    """The parts of an increment, as what holds ids."""
    return [
        Unit(part["path"], {"kind": PART, "uri": held.uri, "path": part["path"]})
        for part in held.parts
        if part["rows"]
    ]


def _described(holder: Unit, row: int) -> str:
    if holder.inputs["kind"] != PART:
        return describe_row(holder, row)
    uri, path = holder.inputs["uri"], holder.inputs["path"]
    return f"{storage.public_uri(storage.join(uri, path))}, which the data set has already"


def _cause(error: Exception) -> Exception:
    """What a task raised, whichever tasks it came through."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def _locate(units: Sequence[Unit], starts: NDArray[np.int64], row: int) -> tuple[Unit, int]:
    number = int(np.searchsorted(starts, row, side="right")) - 1
    return units[number], int(row - starts[number])


@ray.remote(num_cpus=1)
def _digests(holders: Sequence[Unit]) -> tuple[Digests, NDArray[np.int64]]:
    """(N, 2) words of the digests of the units' ids; and the number of rows of each unit."""
    found = [id_digests(_ids(holder)) for holder in holders]
    return np.concatenate(found), np.array([len(digests) for digests in found], np.int64)


def _ids(holder: Unit) -> list[str]:
    if holder.inputs["kind"] != PART:
        return read_ids(holder)
    table = shards.read_part(holder.inputs["uri"], holder.inputs["path"], ["object_id"])
    ids: list[str] = table["object_id"].to_pylist()
    return ids
