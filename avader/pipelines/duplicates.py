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
from avader.errors import InputError, StorageError
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.io.spool import IdSpool
from avader.plan import Unit
from avader.survey.sources import describe_row, read_ids, row_numbers

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
    with IdSpool() as spool:
        while waiting:
            try:
                digests, rows = ray.get(waiting.popleft())
            except (
                InputError,
                StorageError,
            ) as error:  # ids that cannot be read, wrapped in Ray's words
                raise _cause(error) from error
            spool.add(digests)
            counts.append(rows)
        pairs = np.array(list(spool.repeats()), np.int64).reshape(-1, 2)
    starts = np.cumsum(np.concatenate(counts))
    refused = _located(holders, starts, pairs[:, 0])
    kept = _located(holders, starts, pairs[:, 1])
    return Duplicates(
        {
            number: f"the same id came first in {_described(holder, first)}"
            for (_, number), (holder, first) in zip(refused, kept, strict=True)
        }
    )


def _parts(held: Manifest) -> list[Unit]:
    """The parts of an increment, as what holds ids."""
    return [
        Unit(part["path"], {"kind": PART, "uri": held.uri, "path": part["path"]})
        for part in held.parts
        if part["rows"]
    ]


def _described(holder: Unit, number: int) -> str:
    if holder.inputs["kind"] != PART:
        return describe_row(holder, number)
    uri, path = holder.inputs["uri"], holder.inputs["path"]
    return f"{storage.public_uri(storage.join(uri, path))}, which the data set has already"


def _cause(error: Exception) -> Exception:
    """What a task raised, whichever tasks it came through."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def _located(
    holders: Sequence[Unit], starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[tuple[Unit, int]]:
    """What holds each of some rows of all, and the row's number in the whole source.

    Of a selection the numbers are read again: once for all rows of a holder.
    """
    owners = np.searchsorted(starts, rows, side="right") - 1
    numbers = rows - starts[owners]
    order = np.argsort(owners, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        if len(mine) and (holder := holders[owners[mine[0]]]).inputs["kind"] != PART:
            numbers[mine] = row_numbers(holder)[numbers[mine]]
    return [
        (holders[owner], number)
        for owner, number in zip(owners.tolist(), numbers.tolist(), strict=True)
    ]


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
