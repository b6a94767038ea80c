"""Ids that occur twice, found before packing: the first in source order is kept.

Workers send 16-byte digests of ids, never rows; one task compares them, so the result is the same
for any number of workers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from avader.errors import InputError
from avader.plan import Unit
from avader.survey.sources import describe_row, read_ids, row_number

Digests = NDArray[np.uint64]
# Few enough that their results travel by Ray's object store, not inside one task's description.
MOST_TASKS = 200


@dataclass(frozen=True)
class Duplicates:
    """Rows to refuse, by their number in the whole source: which row was kept instead."""

    by_number: Mapping[int, str]

    def of(self, numbers: NDArray[np.int64]) -> Mapping[int, str]:
        """Those among rows with these numbers (N,), by their place there."""
        told = ((row, self.by_number.get(number)) for row, number in enumerate(numbers.tolist()))
        return {row: text for row, text in told if text is not None}


def find_duplicates(units: Sequence[Unit]) -> Duplicates:
    """Compare the ids of all units, in source order, on the cluster."""
    step = max(1, -(-len(units) // MOST_TASKS))
    groups = [units[start : start + step] for start in range(0, len(units), step)]
    try:
        repeats = ray.get(_repeats.remote(*[_digests.remote(group) for group in groups]))
    except InputError as error:  # ids that cannot be read, wrapped in Ray's words
        raise _cause(error) from error
    starts = np.cumsum([0, *repeats["counts"]])
    by_number: dict[int, str] = {}
    for repeated, kept in zip(repeats["repeated"], repeats["kept"], strict=True):
        unit, row = _locate(units, starts, repeated)
        kept_unit, kept_row = _locate(units, starts, kept)
        by_number[row_number(unit, row)] = (
            f"the same id came first in {describe_row(kept_unit, kept_row)}"
        )
    return Duplicates(by_number)


def _cause(error: Exception) -> Exception:
    """What a task raised, whichever tasks it came through."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def _locate(units: Sequence[Unit], starts: NDArray[np.int64], row: int) -> tuple[Unit, int]:
    number = int(np.searchsorted(starts, row, side="right")) - 1
    return units[number], int(row - starts[number])


@ray.remote(num_cpus=1)
def _digests(units: Sequence[Unit]) -> tuple[Digests, NDArray[np.int64]]:
    """(N, 2) words of each id's digest, (0, 0) for a row without an id; and each unit's rows."""
    ids = [read_ids(unit) for unit in units]
    raw = b"".join(
        hashlib.blake2b(name.encode(), digest_size=16).digest() if name else bytes(16)
        for names in ids
        for name in names
    )
    counts = np.array([len(names) for names in ids], np.int64)
    return np.frombuffer(raw, np.uint64).reshape(-1, 2), counts


@ray.remote(num_cpus=1)
def _repeats(*groups: tuple[Digests, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Global rows that repeat an earlier one, and that earlier one; and the rows of each unit."""
    digests = [np.zeros((0, 2), np.uint64), *(digests for digests, _ in groups)]
    repeated, kept = repeated_rows(np.concatenate(digests))
    counts = [np.zeros(0, np.int64), *(counts for _, counts in groups)]
    return {"repeated": repeated, "kept": kept, "counts": np.concatenate(counts)}


def repeated_rows(digests: Digests) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (in order) whose digest occurred before, and the first row that has it.

    digests: (N, 2); rows of zeros are no ids and never repeat.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in row order
    ordered = digests[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    again = ~first & ordered.any(axis=1)
    rows = np.argsort(order[again], kind="stable")
    return order[again][rows], kept[again][rows]
