"""Galaxy Zoo 2 as the paper takes it (section 2): by votes, in three parts.

Of objects with more than 36 votes on the first question, 159,600 train, 5,000 validate and 41,100
test. The paper drew at random and lists none of them: here an object's part follows from its id,
so that it is the same in any order of rows, and none but those at the cuts change part when
objects come or go. A table of another size is cut in proportion.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
SIZES: dict[Part, int] = {"train": 159_600, "validation": 5_000, "test": 41_100}

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Selection:
    """Which rows of a table are taken.

    votes_column, min_votes: those with so many votes; None takes any. first, last: keys, both
    ends included.
    """

    votes_column: str | None
    min_votes: int
    first: int = 0
    last: int = 2**64 - 1

    @property
    def by_key(self) -> bool:
        """Whether keys matter."""
        return (self.first, self.last) != (0, 2**64 - 1)

    def mask(
        self, ids: Sequence[str], votes: npt.NDArray[np.float64] | None
    ) -> npt.NDArray[np.bool_]:
        """Which rows are taken, (N,). votes: NaN where there are none; they are never enough."""
        taken = np.ones(len(ids), bool) if votes is None else votes >= self.min_votes
        if self.by_key:
            keys = keys_of(ids)
            taken &= (keys >= np.uint64(self.first)) & (keys <= np.uint64(self.last))
        return taken


def keys_of(ids: Sequence[str]) -> Keys:
    """A number for each id, (N,), that depends on its text alone and is as good as drawn."""
    raw = b"".join(
        hashlib.blake2b(name.encode(), digest_size=8, person=b"avader split").digest()
        for name in ids
    )
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def part_sizes(total: int) -> dict[Part, int]:
    """Objects of each part, by largest remainder; they add up to the total."""
    whole = sum(SIZES.values())
    sizes = {part: total * size // whole for part, size in SIZES.items()}
    left = total - sum(sizes.values())
    # The earlier part, where remainders are equal.
    ranked = sorted(PARTS, key=lambda part: -(total * SIZES[part] % whole))
    return {part: size + (part in ranked[:left]) for part, size in sizes.items()}


def key_range(keys: Keys, part: Part) -> tuple[int, int]:
    """The first and the last key of a part; keys: of all objects, those that repeat count once.

    The first object in order of keys trains, the last one tests. A part without objects has a
    first key above its last.
    """
    ordered = np.unique(keys)
    sizes = part_sizes(len(ordered))
    before = PARTS.index(part)
    start = sum(sizes[earlier] for earlier in PARTS[:before])
    stop = start + sizes[part]
    if start == stop:
        return 1, 0
    first = 0 if start == 0 else int(ordered[start])
    last = 2**64 - 1 if stop == len(ordered) else int(ordered[stop]) - 1
    return first, last
