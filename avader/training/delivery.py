"""Images that come block by block, made into shares in the order wanted.

Every row is wanted once. A block's rows wait in a pool from when their block is read until their
share is due, and their place is free for others then; how large the pool must be follows from the
order, before anything is read.

Legend: n rows in all shares, S blocks, C bands, H W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avader.training.data import Masks, Part, Pixels, Share
from avader.training.noise import Rows

Content = tuple[Pixels, Masks | None]


@dataclass(frozen=True, slots=True)
class Errand:
    """What is wanted of a block: rows (B,), sorted, counted from the block's first."""

    block: int
    rows: Rows


Read = Callable[[list[Errand]], Iterator[Content]]
"""Gives each errand's pixels (B, C, H, W) and masks (B, H W / 8), in order."""


class Delivery:
    """Shares that are filled from blocks. edges (S + 1,): first row of each block, and the end."""

    def __init__(self, shares: Sequence[Share], edges: Rows) -> None:
        self.shares = shares
        rows = np.concatenate([share.rows for share in shares]) if shares else np.zeros(0, np.int64)
        self.by_row = np.argsort(rows, kind="stable")  # positions (n,) in order of row
        ordered = rows[self.by_row]
        inner = np.searchsorted(ordered, edges)
        used = np.flatnonzero(np.diff(inner))
        first = [int(self.by_row[inner[block] : inner[block + 1]].min()) for block in used]
        turn = np.argsort(np.asarray(first, np.int64), kind="stable")
        self.first_use = np.asarray(first, np.int64)[turn]
        self.ranges = [(int(inner[b]), int(inner[b + 1])) for b in used[turn]]
        self.errands = [
            Errand(int(block), ordered[start:stop] - edges[block])
            for block, (start, stop) in zip(used[turn], self.ranges, strict=True)
        ]

    @property
    def most(self) -> int:
        """Rows that wait in the pool at once, at most."""
        held = most = done = position = 0
        for share in self.shares:
            position += len(share.rows)
            while done < len(self.errands) and self.first_use[done] < position:
                held += len(self.errands[done].rows)
                done += 1
            most = max(most, held)
            held -= len(share.rows)
        return most

    def parts(self, read: Read, none: Content) -> Iterator[Part]:
        """The shares with their images; blocks are asked for in the order of their first use.

        none: what `read` would give for no rows, which tells types and sizes.
        """
        pool = _Pool(self.most, none)
        place = np.zeros(len(self.by_row), np.int64)
        contents = read(self.errands) if self.errands else iter(())
        position = done = 0
        for share in self.shares:
            stop = position + len(share.rows)
            while done < len(self.errands) and self.first_use[done] < stop:
                start, end = self.ranges[done]
                place[self.by_row[start:end]] = pool.put(next(contents))
                done += 1
            yield Part(share, *pool.take(place[position:stop]))
            position = stop


class _Pool:
    """Images of scattered rows, each in a place that is free again once they are taken."""

    def __init__(self, size: int, none: Content) -> None:
        pixels, masks = none
        self.free: NDArray[np.int64] = np.arange(size, dtype=np.int64)
        self.count = size
        self.pixels: Pixels = np.empty((size, *pixels.shape[1:]), pixels.dtype)
        self.masks = None if masks is None else np.empty((size, *masks.shape[1:]), masks.dtype)

    def put(self, content: Content) -> NDArray[np.int64]:
        """Keep images; where they are."""
        pixels, masks = content
        assert len(pixels) <= self.count
        self.count -= len(pixels)
        places = self.free[self.count : self.count + len(pixels)].copy()
        self.pixels[places] = pixels
        if self.masks is not None and masks is not None:
            self.masks[places] = masks
        return places

    def take(self, places: NDArray[np.int64]) -> Content:
        """The images in these places, which are free from now on."""
        self.free[self.count : self.count + len(places)] = places
        self.count += len(places)
        return self.pixels[places], None if self.masks is None else self.masks[places]
