"""A table's objects cut into units by the sky: each holds one HEALPix pixel of adaptive order.

Positions alone are read, twice, some rows at a time: to count the objects of every pixel of order
10, which decides the units' pixels, and to find which row groups hold objects of which unit. Rows
whose position is none go to units of their own, so that each of them is refused by name.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from avader.catalogue.pixels import FINEST, SPATIAL_ORDER, UNPLACED, Pixel, adaptive_pixels
from avader.plan import Unit
from avader.survey.reading import Numbers, read_positions
from avader.survey.sources import Source

# Rows whose positions are held at a time, and threads that each hold so many.
ROWS, READERS = 500_000, 4


def sky_units(source: Source, *, limit: int, given: Sequence[Pixel] = ()) -> tuple[Unit, ...]:
    """Units of at most `limit` objects in nested order, then those without a position.

    A pixel of order 10 is not cut, whatever it holds, nor is one of those given. Units without a
    position hold at most so many objects, and those of one row group. Every object is in one unit.
    given: pixels of the increments before, which stay as they are.
    """
    ranges = source.units(ROWS)
    with ThreadPoolExecutor(READERS) as pool:
        counts = np.zeros(12 * 4**FINEST, np.int32)
        for numbers, held in pool.map(_count, ranges):
            counts[numbers] += held
        cut = _Cut(source, adaptive_pixels(counts, limit=limit, given=given), limit)
        del counts
        units = tuple(cut.units(list(pool.map(cut.holders, ranges))))
    assert sum(unit.inputs["count"] for unit in units) == source.objects
    return units


def times_read(source: Source, units: Sequence[Unit]) -> float:
    """How often the units together read a row of the source, to find those that they hold."""
    read = sum(rows for unit in units for _, _, _, rows, _ in unit.inputs["pieces"])
    return read / sum(source.rows)


def _count(part: Unit) -> tuple[Numbers, Numbers]:
    """The pixels of order 10 that have objects of a part of the source, and how many."""
    pixels = read_positions(part)[1]
    finest = pixels[pixels != UNPLACED] >> 2 * (SPATIAL_ORDER - FINEST)
    return np.unique(finest, return_counts=True)


@dataclass(frozen=True)
class _Cut:
    """A source, the pixels that it is cut into, in nested order, and the most objects of a unit.

    Row groups count from 0 over all tables, and pixels from 1: 0 stands for no position. What
    every unit needs is made once, since there may be 10^5 of them.
    """

    source: Source
    pixels: Sequence[Pixel]
    limit: int

    @cached_property
    def firsts(self) -> Numbers:
        """The source's number of each row group's first row, and the number of all rows."""
        rows = (rows for groups in self.source.groups for rows in groups)
        return np.array(list(accumulate(rows, initial=0)))

    @cached_property
    def tables(self) -> Numbers:
        """Which table each row group is of."""
        return np.repeat(np.arange(len(self.source.files)), list(map(len, self.source.groups)))

    @cached_property
    def paths(self) -> list[str]:
        """The tables below the source's root."""
        return self.source.paths

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the inputs of all units say alike."""
        return self.source.shared_inputs

    @cached_property
    def spans(self) -> Numbers:
        """The first `_healpix_29` of each pixel."""
        return np.array([pixel.span[0] for pixel in self.pixels], np.int64)

    def holders(self, part: Unit) -> tuple[Numbers, Numbers]:
        """Which pixels have objects in which row groups, of a part of the source, and how many.

        As pixel x number of row groups + row group.
        """
        numbers, pixels = read_positions(part)
        owners = np.searchsorted(self.spans, pixels, side="right")
        groups = np.searchsorted(self.firsts, numbers, side="right") - 1
        return np.unique(owners * len(self.tables) + groups, return_counts=True)

    def units(self, held: Sequence[tuple[Numbers, Numbers]]) -> Iterator[Unit]:
        """The units, from the holders of all parts; a row group may be in two of these."""
        codes, places = np.unique(np.concatenate([c for c, _ in held]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([n for _, n in held])).astype(np.int64)
        owners, groups = np.divmod(codes, len(self.tables))
        edges = np.searchsorted(owners, np.arange(len(self.pixels) + 2))
        for pixel, first, stop in zip(self.pixels, edges[1:-1], edges[2:], strict=True):
            yield self._unit(pixel.name, pixel.span, groups[first:stop], counts[first:stop])
        yield from self._unplaced(groups[: edges[1]], counts[: edges[1]])

    def _unplaced(self, groups: Numbers, counts: Numbers) -> Iterator[Unit]:
        turns = (np.cumsum(counts) - 1) // self.limit
        for number, turn in enumerate(np.unique(turns)):
            here = turns == turn
            span = (UNPLACED, UNPLACED + 1)
            yield self._unit(f"unplaced-{number:08d}", span, groups[here], counts[here])

    def _unit(self, name: str, span: tuple[int, int], groups: Numbers, counts: Numbers) -> Unit:
        inputs = {"span": list(span), "count": int(counts.sum()), "pieces": self._pieces(groups)}
        return Unit(name, self.shared | inputs)

    def _pieces(self, groups: Numbers) -> list[list[Any]]:
        """Row groups, in order, as units list them; neighbours of one table as one piece."""
        apart = (np.diff(groups) > 1) | (np.diff(self.tables[groups]) > 0)
        runs = np.split(groups, np.flatnonzero(apart) + 1)
        return [self._piece(int(run[0]), int(run[-1])) for run in runs]

    def _piece(self, first: int, last: int) -> list[Any]:
        """Row groups first to last of one table: path, size, first row, rows, number of it."""
        table = int(self.tables[first])
        start, stop = int(self.firsts[first]), int(self.firsts[last + 1])
        before = int(self.firsts[np.searchsorted(self.tables, table)])
        size = self.source.sizes[table]
        return [self.paths[table], size, start - before, stop - start, start]
