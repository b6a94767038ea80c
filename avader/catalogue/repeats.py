"""Ids that occur twice: a digest of each, and the rows that repeat an earlier one."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
"""(N, 2) words of 128-bit digests; zeros stand for no id. Equal by chance: 10^-23 at 10^8 ids."""
Rows = NDArray[np.int64]


def id_digests(names: Iterable[str | None]) -> Digests:
    """A digest of each id; zeros for a row without one."""
    raw = b"".join(
        hashlib.blake2b(name.encode(), digest_size=16).digest() if name else bytes(16)
        for name in names
    )
    return np.frombuffer(raw, np.uint64).reshape(-1, 2)


def repeated_rows(digests: Digests) -> tuple[Rows, Rows]:
    """Rows (in order) whose digest occurred before, and the first row that has it.

    Rows of zeros are no ids and never repeat. Memory: about 100 bytes a row.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in row order
    ordered = digests[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    again = ~first & ordered.any(axis=1)
    rows = np.argsort(order[again], kind="stable")
    return order[again][rows], kept[again][rows]
