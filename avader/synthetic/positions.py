"""Where the objects of a synthetic sky lie: drawn over a region, and laid out pixel by pixel.

Objects are independent of each other, as dense as the region has it. How many lie in which pixel is
drawn for all of them at once, when they are planned (`deal`): a pixel then holds ranges of indices,
and no row is ever moved. What was dealt is part of the plan. Within its pixel an object is placed
by words of its own (`place`), so anyone can place it again, alone.

Object i uses 2 words of the position stream: word 0 gives the range of cells by the inverse
cumulative mass (density times cells), word 1 the cell within the range, (word times cells) >> 64.
Its position is the centre of that cell, so that `_healpix_29` and ra, dec say the same. All but the
centre is integers and sums in float64, in one order: the same bits everywhere. Whoever changes
`place` raises LAYOUT_VERSION.

Legend: B objects, R ranges of the region, G groups, U pixels.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avader.catalogue.pixels import SPATIAL_ORDER, Pixel
from avader.errors import InputError
from avader.mixture.random import Stream, uniforms, words_at
from avader.synthetic.region import Cells, Doubles, Region, centres

FINEST = 14
"""Highest order of a pixel that objects are dealt to: 13 arcsec across."""
# In the counter's last word, where objects have 0: a deal shares no number with them.
DEAL = 1


class Share(NamedTuple):
    """Objects start to stop - 1 lie in the pixel."""

    pixel: Pixel
    start: int
    stop: int


class Places(NamedTuple):
    """ra in [0, 360) and dec, degrees ICRS, and healpix_29 of objects, (B,) each."""

    ra: Doubles
    dec: Doubles
    healpix_29: Cells


def deal(
    region: Region,
    groups: Sequence[int],
    seed: int,
    *,
    start: int = 0,
    rows_per_unit: int,
    given: Iterable[Pixel] = (),
) -> list[Share]:
    """What each pixel gets of sum(groups) objects from index `start` on.

    groups: sizes of consecutive runs of objects, each of which is spread over the whole region by
    itself, as components want that are not drawn but counted; one run for all others. start: of an
    increment, its first index; two with the same start and seed are dealt by the same numbers.
    rows_per_unit: most objects expected in a pixel, but for those of order 14. given: pixels of
    increments before, none of which a pixel holds without being it: it may lie within one.

    Shares are in nested order of the pixels, then in order of their objects; without any object
    there is none.
    """
    pixels, masses = _pixels(region, sum(groups) / rows_per_unit, list(given))
    key = np.array([seed, int(Stream.POSITION)], np.uint64)
    counter = np.array([0, start, 0, DEAL], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    counts = generator.multinomial(np.array(groups, np.int64), masses / masses.sum())  # (G, U)
    stops = start + np.cumsum(counts).reshape(counts.shape)
    return [
        Share(pixels[at], int(stops[group, at] - counts[group, at]), int(stops[group, at]))
        for at, group in np.argwhere(counts.T).tolist()
    ]


def place(region: Region, seed: int, indices: Cells, pixel: Pixel) -> Places:
    """The places of objects (B,), in any order, that lie in this pixel."""
    return _placed(region, seed, indices, [pixel], np.zeros(len(indices), np.intp))


def place_all(region: Region, seed: int, indices: Cells, shares: Sequence[Share]) -> Places:
    """The places of objects (B,), in any order, by the shares of all.

    Raises InputError for an object that no share has.
    """
    ordered = sorted(shares, key=lambda share: share.start)
    starts, stops = (np.array([share[at] for share in ordered], np.int64) for at in (1, 2))
    owners = np.searchsorted(starts, indices, side="right") - 1
    strangers = indices[(owners < 0) | (indices >= np.append(stops, 0)[owners])]
    if len(strangers):
        raise InputError(f"wanted objects that were dealt to a pixel, got {strangers[0]}")
    return _placed(region, seed, indices, [share.pixel for share in ordered], owners)


def _placed(
    region: Region,
    seed: int,
    indices: Cells,
    pixels: Sequence[Pixel],
    owners: NDArray[np.intp],
) -> Places:
    """The places of objects (B,); owners: which of the pixels (U,) each lies in, (B,).

    Raises InputError where the region has nothing in a pixel.
    """
    first, stop = np.array([pixel.span for pixel in pixels], np.int64).reshape(-1, 2).T
    starts, stops = region.ranges.T
    lowest = np.searchsorted(stops, first, side="right")
    highest = np.searchsorted(starts, stop, side="left") - 1
    if (highest < lowest).any():
        raise InputError("wanted a pixel of the region, got one outside; take the region as dealt")
    before = region.mass_before(first)
    within = region.mass_before(stop) - before
    raw = words_at(seed, Stream.POSITION, indices, 2)
    mass = before[owners] + uniforms(raw[:, 0]) * within[owners]
    at = np.searchsorted(region.masses, mass, side="right") - 1
    at = np.clip(at, lowest[owners], highest[owners])
    low, high = np.maximum(starts[at], first[owners]), np.minimum(stops[at], stop[owners])
    cells = low + _scaled(raw[:, 1], (high - low).astype(np.uint64)).astype(np.int64)
    return Places(*centres(cells, SPATIAL_ORDER), cells)


def _scaled(raw: NDArray[np.uint64], below: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(word times below) >> 64, an integer from 0 to below - 1, of words (B,)."""
    half, low = np.uint64(32), np.uint64(2**32 - 1)
    left = (raw >> half) * (below & low) + ((raw & low) * (below & low) >> half)
    right = (raw & low) * (below >> half) + (left & low)
    return (raw >> half) * (below >> half) + (left >> half) + (right >> half)


def _pixels(region: Region, parts: float, given: Sequence[Pixel]) -> tuple[list[Pixel], Doubles]:
    """The coarsest pixels (U,) with at most one of so many parts of the mass, and their masses.

    In nested order. Pixels that hold one of those given are cut further, whatever their mass.
    """
    limit = region.masses[-1] / parts if parts else np.inf
    here = np.arange(12, dtype=np.int64)
    found: list[tuple[Pixel, float]] = []
    for order in range(FINEST + 1):
        shift = 2 * (SPATIAL_ORDER - order)
        masses = region.mass_before((here + 1) << shift) - region.mass_before(here << shift)
        here, masses = here[masses > 0], masses[masses > 0]
        finer = {pixel.at(order).number for pixel in given if pixel.order > order}
        fits = (masses <= limit) & ~np.isin(here, np.array(list(finer), np.int64))
        fits |= order == FINEST
        numbers, held = here[fits].tolist(), masses[fits].tolist()
        found += [(Pixel(order, n), mass) for n, mass in zip(numbers, held, strict=True)]
        here = (4 * here[~fits, None] + np.arange(4)).ravel()
    found.sort(key=lambda each: each[0].span)
    return [pixel for pixel, _ in found], np.array([mass for _, mass in found])
