"""Positions on the sky as HEALPix pixels, and the pixels that a catalogue is cut into.

Nested order: the pixels of order k + 1 within pixel n of order k are 4n to 4n + 3, so rows sorted
by `_healpix_29` lie pixel by pixel at every order.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPATIAL_ORDER = 29
FINEST = 10
"""Highest order of a pixel that makes a unit: 3.4 arcmin across."""
UNPLACED = -1
"""In place of a pixel, where an object's position is none."""
_NAME = re.compile(r"o(\d\d)-(\d{10})")


@dataclass(frozen=True, slots=True)
class Pixel:
    """A HEALPix pixel, nested. order: 0 to 14; number: from 0."""

    order: int
    number: int

    @property
    def name(self) -> str:
        """Name of the unit that holds the pixel's objects ("o05-0000000123")."""
        return f"o{self.order:02d}-{self.number:010d}"

    @property
    def span(self) -> tuple[int, int]:
        """The values of `_healpix_29` within it, [first, stop)."""
        shift = 2 * (SPATIAL_ORDER - self.order)
        return self.number << shift, (self.number + 1) << shift

    @property
    def finest(self) -> slice:
        """The pixels of order 10 within it; of an order up to 10."""
        shift = 2 * (FINEST - self.order)
        return slice(self.number << shift, (self.number + 1) << shift)

    def at(self, order: int) -> "Pixel":
        """The pixel of a lower order that it lies in; itself at its own order."""
        return Pixel(order, self.number >> 2 * (self.order - order))


def named_pixel(unit: str) -> Pixel | None:
    """The pixel whose objects a unit holds; None for a unit that is not one of the sky."""
    found = _NAME.fullmatch(unit)
    return None if found is None else Pixel(int(found[1]), int(found[2]))


def adaptive_pixels(
    counts: NDArray[np.integer], *, limit: int, given: Sequence[Pixel] = ()
) -> list[Pixel]:
    """The coarsest pixels with at most `limit` objects each, in nested order; they hold all.

    counts: (12 * 4**10,) objects of every pixel of order 10. One of these is not split, whatever
    it holds. Pixels without an object are left out. given: pixels, none within another, that a
    data set was cut into before; those stay as they are, and others are cut beside them.
    """
    taken = np.zeros(len(counts), bool)
    for pixel in given:
        taken[pixel.finest] = True
    kept = [pixel for pixel in given if counts[pixel.finest].any()]
    cut = _cut(np.where(taken, 0, counts), taken, limit)
    return sorted([*kept, *cut], key=lambda pixel: pixel.span)


def _cut(counts: NDArray[np.integer], taken: NDArray[np.bool_], limit: int) -> Iterator[Pixel]:
    """The coarsest pixels with at most so many objects, and nothing in them that is taken."""
    levels = [(counts, taken)]  # from order 10 down to 0
    for _ in range(FINEST):
        held, full = levels[-1]
        levels.append(
            (held.reshape(-1, 4).sum(axis=1), np.logical_or.reduce(full.reshape(-1, 4), axis=1))
        )
    here = np.arange(12)
    for order, (held, full) in enumerate(reversed(levels)):
        here = here[held[here] > 0]
        fits = ((held[here] <= limit) & ~full[here]) | (order == FINEST)
        yield from (Pixel(order, int(number)) for number in here[fits])
        here = (4 * here[~fits, None] + np.arange(4)).ravel()


def healpix_29(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """HEALPix pixel of order 29, nested, of each position.

    ra, dec: (N,) float64, degrees ICRS, finite, dec within -90..90. Returns (N,) int64.
    """
    if len(ra) == 0:
        return np.zeros(0, np.int64)
    # Loaded here: they take most of a second, of every worker, and few rows need them.
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    longitude, latitude = Longitude(ra, unit="deg"), Latitude(dec, unit="deg")
    return np.asarray(lonlat_to_healpix(longitude, latitude, SPATIAL_ORDER)).astype(np.int64)


def placed_pixels(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """As healpix_29, (N,), of any positions: UNPLACED where `position_problem` finds something."""
    good = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)  # not of NaN either
    pixels = np.full(len(ra), UNPLACED, np.int64)
    pixels[good] = healpix_29(ra[good], dec[good])
    return pixels


def position_problem(ra: float | None, dec: float | None) -> str | None:
    """What is wrong with a position, or None."""
    if ra is None or dec is None or not (np.isfinite(ra) and np.isfinite(dec)):
        return f"wanted finite ra and dec in degrees, got {ra} and {dec}"
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        return f"wanted ra in -360..360 and dec in -90..90 degrees, got {ra} and {dec}"
    return None
