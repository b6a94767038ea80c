"""What lies just outside of a tile: the rows of its margin, which cross-matches need at its edges.

As HATS has it: the pixels of one fine order that touch the tile, an order at which they are wider
than the margin. So the margin holds every row within so many arcsec of the tile, and some beyond.

Legend: N rows, M pixels of the margin, P parts.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from cdshealpix.nested import external_neighbours
from numpy.typing import NDArray

from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.catalogue.selection import ARCSEC, Mask, Ranges

# A pixel's side over the least distance between two pixels with another between them: 1.48 is the
# most at any place of the sky, 1.6 what the hats library takes.
SIDE = 1.6
FINEST_MARGIN = 16
"""Highest order of a margin's pixels, 3.2 arcsec wide; finer ones would be very many."""


def margin_order(arcsec: float) -> int:
    """The highest order, FINEST_MARGIN at most, whose pixels are wider than so many arcsec."""
    side = np.radians(SIDE * arcsec / ARCSEC)
    return min(FINEST_MARGIN, int(np.log2(np.sqrt(np.pi / 3) / side)))


@dataclass(frozen=True)
class Margin:
    """The rows around a tile, by their `_healpix_29`.

    arcsec: at least so far from the tile's edge; its pixels are finer than the tile.
    """

    tile: Pixel
    arcsec: float

    columns = ("_healpix_29",)

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """(M,) first `_healpix_29` of each pixel of the margin, in order."""
        order = margin_order(self.arcsec)
        assert order > self.tile.order, "a margin wider than its tile"
        found = external_neighbours(
            self.tile.number, self.tile.order, order - self.tile.order, num_threads=1
        )
        numbers = np.concatenate([np.asarray(some).ravel() for some in found]).astype(np.int64)
        return np.sort(numbers[numbers >= 0]) << self._shift

    @property
    def _shift(self) -> int:
        return 2 * (SPATIAL_ORDER - margin_order(self.arcsec))

    def mask(self, table: pa.Table) -> Mask:
        """(N,) whether each row is of the margin."""
        first = table["_healpix_29"].to_numpy() >> self._shift << self._shift
        return np.isin(first, self.pixels)

    def may_hold(self, ranges: Ranges) -> bool:
        """Whether rows within these ranges may be of the margin."""
        if "_healpix_29" not in ranges:
            return True
        low, high = (int(value) for value in ranges["_healpix_29"])  # type: ignore[call-overload]
        before = np.searchsorted(self.pixels, high, side="right")
        return bool(before) and int(self.pixels[before - 1]) + (1 << self._shift) > low

    def among(self, spans: NDArray[np.int64]) -> NDArray[np.intp]:
        """Which parts the margin reaches into.

        spans: (P, 2) of the parts, in order; none overlaps. Gives their places in it, in order.
        """
        starts, stops = spans.T
        owners = np.searchsorted(starts, self.pixels, side="right") - 1
        around = owners[(owners >= 0) & (self.pixels < stops[owners])]
        # Parts that are finer than the margin's pixels begin within these.
        edges = np.searchsorted(starts, [self.pixels, self.pixels + (1 << self._shift)])
        begun = np.bincount(edges[0], minlength=len(spans) + 1)
        ended = np.bincount(edges[1], minlength=len(spans) + 1)
        within = np.flatnonzero(np.cumsum(begun - ended)[: len(spans)])
        return np.union1d(around, within)
