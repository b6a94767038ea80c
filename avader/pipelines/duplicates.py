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

from avader.catalogue.repeats import Digests, id_digests
from avader.io.spool import IdSpool
from avader.plan import Unit
from avader.survey.sources import describe_row, read_ids

# Few, since small results of tasks, of up to 100 kB, stay in the driver's memory.
MOST_TASKS = 200


@dataclass(frozen=True)
class Duplicates:
    """Rows to refuse: by unit name, then by row of the unit, which row was kept instead."""

    by_unit: Mapping[str, Mapping[int, str]]

    def of(self, unit: str) -> Mapping[int, str]:
        """The rows of one unit."""
        return self.by_unit.get(unit, {})


def find_duplicates(units: Sequence[Unit]) -> Duplicates:
    """Compare the ids of all units on the cluster.

    Memory of the driver is IdSpool's, besides the rows to refuse; digests that wait for it are in
    Ray's object store, which moves them to disk where there are too many.
    """
    step = max(1, -(-len(units) // MOST_TASKS))
    waiting = deque(
        _digests.remote(units[start : start + step]) for start in range(0, len(units), step)
    )
    counts = [np.zeros(1, np.int64)]
    by_unit: dict[str, dict[int, str]] = {}
    with IdSpool() as spool:
        while waiting:
            digests, rows = ray.get(waiting.popleft())
            spool.add(digests)
            counts.append(rows)
        starts = np.cumsum(np.concatenate(counts))
        for repeated, kept in spool.repeats():
            unit, row = _locate(units, starts, repeated)
            by_unit.setdefault(unit.name, {})[row] = (
                f"the same id came first in {describe_row(*_locate(units, starts, kept))}"
            )
    return Duplicates(by_unit)


def _locate(units: Sequence[Unit], starts: NDArray[np.int64], row: int) -> tuple[Unit, int]:
    number = int(np.searchsorted(starts, row, side="right")) - 1
    return units[number], int(row - starts[number])


@ray.remote(num_cpus=1)
def _digests(units: Sequence[Unit]) -> tuple[Digests, NDArray[np.int64]]:
    """(N, 2) words of the digests of the units' ids; and the number of rows of each unit."""
    found = [id_digests(read_ids(unit)) for unit in units]
    return np.concatenate(found), np.array([len(digests) for digests in found], np.int64)
