"""A region of the sky that objects are drawn over: ranges of HEALPix cells, each with a density.

A cell is a HEALPix pixel of order 29, nested, 0.4 mas across, ICRS. Read from MOCs (IVOA MOC 2.0),
HEALPix maps and multi-order maps.

Legend: R ranges, N cells or pixels, B places.
"""

import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avader.catalogue.pixels import SPATIAL_ORDER
from avader.errors import InputError

if TYPE_CHECKING:
    from astropy.io.fits import Header

Cells = NDArray[np.int64]
Doubles = NDArray[np.float64]
Parts = tuple[Cells, Doubles]
"""Ranges (N, 2) of cells in any order, and their densities (N,)."""

CELLS = 12 << 2 * SPATIAL_ORDER
"""Cells of the whole sky."""
MOST_RANGES = 2**24
"""Each worker reads the ranges: 120 bytes each for a moment, 40 later."""
# No part of a pixel of order k is farther from its centre than FARTHEST / 2^k rad: 1.0690 at most,
# of the vertex towards a pole of a pixel whose centre is at |sin(dec)| = 2/3.
FARTHEST = 1.07
# A cone lacks 2 FARTHEST / (2^k radius) of its area at most, where k is its finest order.
FINENESS = 2200
LEAST_RADIUS, MOST_RADIUS = 1.0, 180 * 3600.0
UNSEEN = -1.6375e30
"""What HEALPix maps have where there is no value."""
FRAMES = ("C", "Q", "CELESTIAL", "EQUATORIAL", "ICRS")
GZIP_START, NPY_START, FITS_START = b"\x1f\x8b", b"\x93NUMPY", b"SIMPLE  ="
NPY_HEAD = 128
STORED = np.dtype([("start", "<i8"), ("stop", "<i8"), ("density", "<f8")])
FAULTS = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
FAULTS_OF_FILES = (OSError, EOFError, zlib.error)


@dataclass(frozen=True, eq=False)
class Region:
    """Ranges (R, 2) of cells, [start, stop), in order and apart; densities (R,), above 0.

    Only the ratios of densities count.
    """

    ranges: Cells
    densities: Doubles

    @property
    def square_degrees(self) -> float:
        """Area, whatever the densities."""
        cells = int((self.ranges[:, 1] - self.ranges[:, 0]).sum())
        return cells / CELLS * 4 * np.pi * np.degrees(1) ** 2

    @property
    def nbytes(self) -> int:
        """Bytes that it takes at most: while it is read, of each range."""
        return 120 * len(self.ranges)

    @cached_property
    def masses(self) -> Doubles:
        """(R + 1,) density times cells, of the ranges before each and of all."""
        cells = self.ranges[:, 1] - self.ranges[:, 0]
        return np.concatenate([[0.0], np.cumsum(cells * self._relative)])

    def mass_before(self, places: Cells) -> Doubles:
        """Density times cells (B,) of what lies before each of these cells (B,)."""
        at = np.maximum(np.searchsorted(self.ranges[:, 0], places, side="right") - 1, 0)
        starts, stops = self.ranges[at].T
        return self.masses[at] + np.clip(places - starts, 0, stops - starts) * self._relative[at]

    def write(self) -> bytes:
        """The region as a file of numpy's format, which read_region takes; the same bytes always.

        One record for each range: start and stop as int64, density as float64.
        """
        records = np.empty(len(self.ranges), STORED)
        records["start"], records["stop"] = self.ranges.T
        records["density"] = self.densities
        return _npy_head(len(records)) + records.tobytes()

    @cached_property
    def _relative(self) -> Doubles:
        """Densities (R,) of which the greatest is 1, so that no sum overflows."""
        return self.densities / self.densities.max()


def cone(ra: float, dec: float, radius: float) -> Region:
    """What lies within so many arcsec of a position in degrees, ICRS.

    No cell of it is farther away, and less than a thousandth of the cone's area is left out.
    Raises InputError for a position or a radius out of range.
    """
    if not (-360 <= ra <= 360 and -90 <= dec <= 90 and LEAST_RADIUS <= radius <= MOST_RADIUS):
        raise InputError(
            "wanted a cone of RA in -360..360 and Dec in -90..90 degrees and a radius of "
            f"{LEAST_RADIUS:g} to {MOST_RADIUS:g} arcsec, got {ra:g}, {dec:g}, {radius:g}"
        )
    from astropy.coordinates import angular_separation

    reach = np.radians(radius / 3600)
    finest = min(SPATIAL_ORDER, int(np.ceil(np.log2(FARTHEST * FINENESS / reach))))
    here, found = np.arange(12, dtype=np.int64), []
    for order in range(finest + 1):
        longitude, latitude = (np.radians(axis) for axis in centres(here, order))
        apart = angular_separation(longitude, latitude, np.radians(ra), np.radians(dec))
        farthest = FARTHEST / 2**order
        inside = np.minimum(apart + farthest, np.pi) <= reach
        found.append(_ranges(np.full(inside.sum(), order), here[inside], here[inside] + 1))
        near = here[~inside & (apart - farthest < reach)]
        here = (4 * near[:, None] + np.arange(4)).ravel()
    ranges = np.concatenate(found)
    return _region(ranges, np.ones(len(ranges)))


def centres(pixels: Cells, order: int) -> tuple[Doubles, Doubles]:
    """RA in [0, 360) and Dec, degrees, of the centres of nested pixels (N,) of an order."""
    if len(pixels) == 0:
        return np.zeros(0), np.zeros(0)
    from cdshealpix.nested import healpix_to_lonlat

    longitude, latitude = healpix_to_lonlat(pixels.astype(np.uint64), order, num_threads=1)
    return longitude.to_value("deg"), latitude.to_value("deg")


def read_region(data: bytes, name: str) -> Region:
    """The region in the bytes of a file, plain or gzipped; name: of the file, for messages.

    A MOC (FITS, JSON or ASCII), of density 1; or a HEALPix map in FITS (full or partial, RING or
    NESTED) or a multi-order one, whose first column of values is the density, where NaN and UNSEEN
    are 0; or what Region.write gave. Raises InputError for other files, other frames than ICRS,
    and regions without any density.
    """
    try:
        plain = gzip.decompress(data) if data.startswith(GZIP_START) else data
        if plain.startswith(FITS_START):
            return _region(*_read_fits(plain))
        return _region(*(_read_npy(plain) if plain.startswith(NPY_START) else _read_text(plain)))
    except (*FAULTS, *FAULTS_OF_FILES) as error:
        raise InputError(
            "wanted a region of the sky in ICRS: a MOC (FITS, JSON or ASCII) or a HEALPix map in "
            f"FITS, got {name}: {error or type(error).__name__}"
        ) from error


def _region(ranges: Cells, densities: Doubles) -> Region:
    """The region of ranges (R, 2) in any order. Raises ValueError where they make none.

    Those of no density are left out, those of the same density that touch are joined.
    """
    if not (np.isfinite(densities).all() and (densities >= 0).all()):
        least, most = densities.min(), densities.max()
        raise ValueError(f"densities from {least:g} to {most:g}, not finite numbers from 0")
    order = np.argsort(ranges[:, 0], kind="stable")
    order = order[densities[order] > 0]
    starts, stops = ranges[order].T
    densities, stops = densities[order], np.maximum.accumulate(stops)
    if not len(order):
        raise ValueError("no area, or no density anywhere")
    other = densities[1:] != densities[:-1]
    if (other & (starts[1:] < stops[:-1])).any():
        raise ValueError("pixels that overlap, with other densities")
    begins = np.concatenate([[True], other | (starts[1:] > stops[:-1])])
    if begins.sum() > MOST_RANGES:
        raise ValueError(f"{begins.sum():,} ranges of pixels, above {MOST_RANGES:,}; degrade it")
    ends = np.concatenate([begins[1:], [True]])
    # Column by column, which searches want.
    return Region(np.stack([starts[begins], stops[ends]]).T, densities[begins])


def _ranges(orders: Cells, first: Cells, stop: Cells) -> Cells:
    """Ranges of cells (N, 2) of the pixels from first to before stop, of their orders (N,).

    Raises ValueError for pixels that there are not.
    """
    if not ((orders >= 0) & (orders <= SPATIAL_ORDER)).all():
        raise ValueError(f"orders of {orders.min()} to {orders.max()}, not 0 to {SPATIAL_ORDER}")
    if not ((first >= 0) & (first < stop) & (stop <= 12 << 2 * orders)).all():
        raise ValueError("pixels that their order doesn't have")
    return np.stack([first, stop], axis=1) << 2 * (SPATIAL_ORDER - orders)[:, None]


def _read_text(data: bytes) -> Parts:
    """Ranges and densities of a MOC as text: {"3": [1, 2, 3]} or 3/1-3."""
    text = data.decode("ascii").strip()
    found = list(_json_pixels(text) if text.startswith("{") else _ascii_pixels(text))
    orders, first, last = np.array(found, np.int64).reshape(-1, 3).T
    return _ranges(orders, first, last + 1), np.ones(len(found))


def _json_pixels(text: str) -> Iterable[tuple[int, int, int]]:
    """Order, first and last pixel of each run."""
    for order, pixels in json.loads(text).items():
        yield from ((int(order), int(pixel), int(pixel)) for pixel in pixels)


def _ascii_pixels(text: str) -> Iterable[tuple[int, int, int]]:
    order = None
    for word in filter(None, re.split(r"[\s,]+|(?<=/)", text)):
        run = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if head := re.fullmatch(r"s?(\d+)/", word):
            order = int(head[1])
        elif order is None or run is None:
            raise ValueError(f"{word[:40]!r} where a MOC has orders and pixels, as in 3/1-3 5")
        else:
            yield order, int(run[1]), int(run[2] or run[1])


def _read_npy(data: bytes) -> Parts:
    """Ranges and densities as Region.write gave them."""
    records = np.frombuffer(data[NPY_HEAD:], STORED)
    if not data.startswith(_npy_head(len(records))):
        raise ValueError("an array that is no region's")
    cells = np.full(len(records), SPATIAL_ORDER)
    ranges = _ranges(cells, records["start"].astype(np.int64), records["stop"].astype(np.int64))
    return ranges, records["density"].astype(np.float64)


def _npy_head(count: int) -> bytes:
    """What a file of numpy's format 1.0 begins with, of so many records. Its bytes are our own:
    how numpy pads them has changed."""
    told = f"{{'descr': {STORED.descr}, 'fortran_order': False, 'shape': ({count},), }}"
    size = NPY_HEAD - len(NPY_START) - 4
    start = NPY_START + b"\x01\x00" + size.to_bytes(2, "little")
    return start + told.encode().ljust(size - 1) + b"\n"


def _read_fits(data: bytes) -> Parts:
    """Ranges and densities of the first table of a FITS file."""
    from astropy.io import fits

    try:
        # astropy warns of files that are odd but readable.
        with (
            warnings.catch_warnings(action="ignore"),
            fits.open(io.BytesIO(data), memmap=False) as hdus,
        ):
            table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
            if table is None:
                raise ValueError("FITS without a table")
            count = min(len(table.columns), 2)
            columns = [np.asarray(table.data.field(at)).ravel() for at in range(count)]
        return _of_table(table.header, columns)
    except fits.VerifyError as error:
        raise ValueError(str(error)) from error


def _of_table(header: "Header", columns: list[NDArray[Any]]) -> Parts:
    """Ranges and densities of a table's header and its first columns, at most two."""
    ordering = str(header.get("ORDERING", "")).strip().upper()
    # A MOC is in ICRS by its standard; a map may be in any frame.
    is_moc = ordering == "RANGE" or (ordering == "NUNIQ" and len(columns) == 1)
    frame = str(header.get("COORDSYS", "C" if is_moc else "none")).strip().upper()
    if frame not in FRAMES:
        raise ValueError(f"the frame COORDSYS = {frame}; turn it to ICRS, COORDSYS = C")
    if header.get("MOCDIM", "SPACE").strip() != "SPACE":
        raise ValueError(f"a MOC of {header['MOCDIM']}")
    if ordering == "RANGE":
        first, stop = columns[0].astype(np.int64).reshape(-1, 2).T
        return _ranges(np.full(len(first), SPATIAL_ORDER), first, stop), np.ones(len(first))
    if ordering == "NUNIQ":
        orders, pixels = _of_uniq(columns[0].astype(np.int64))
        densities = np.ones(len(pixels)) if is_moc else _densities(columns[1])
        return _ranges(orders, pixels, pixels + 1), densities
    return _of_map(header, ordering, columns)


def _of_map(header: "Header", ordering: str, columns: list[NDArray[Any]]) -> Parts:
    """Ranges and densities of a map whose pixels are all of one order."""
    side = header.get("NSIDE", 0)
    order = int(side).bit_length() - 1
    if ordering not in ("NESTED", "RING") or side != 2**order or order > SPATIAL_ORDER:
        raise ValueError(
            f"ORDERING = {ordering or 'none'} and NSIDE = {side}; make it NESTED or RING, and of a "
            "power of 2"
        )
    explicit = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() == "EXPLICIT"
    values = columns[1 if explicit else 0]
    pixels = columns[0].astype(np.int64) if explicit else np.arange(len(values))
    if len(values) != (len(pixels) if explicit else 12 * side**2):
        raise ValueError(f"{len(values):,} values, not one for each pixel")
    if not ((pixels >= 0) & (pixels < 12 * side**2)).all():
        raise ValueError(f"pixels that NSIDE = {side} doesn't have")
    if ordering == "RING":
        from cdshealpix import from_ring

        pixels = from_ring(pixels.astype(np.uint64), order, num_threads=1).astype(np.int64)
    return _ranges(np.full(len(pixels), order), pixels, pixels + 1), _densities(values)


def _of_uniq(numbers: Cells) -> tuple[Cells, Cells]:
    """Orders and pixels of the numbers 4^(order + 1) + pixel, all (N,)."""
    bases = 4 << 2 * np.arange(SPATIAL_ORDER + 1)
    orders = np.searchsorted(bases, numbers, side="right") - 1
    if not len(numbers) or orders.min() < 0:
        raise ValueError("no pixels, or numbers that are none of NUNIQ's")
    return orders, numbers - bases[orders]


def _densities(values: NDArray[Any]) -> Doubles:
    """A map's values, 0 where it has none."""
    numbers = values.astype(np.float64)
    absent = np.isnan(numbers) | np.isclose(numbers, UNSEEN, rtol=1e-6, atol=0)
    return np.where(absent, 0.0, numbers)
