"""A catalogue's pixels joined into the larger ones that HATS cuts the sky into, its tiles.

The rows of a tile are those of the parts that lie in it, one part after another: in nested order.
Parts may be finer than order 10, tiles are not: margins are of pixels finer than their tiles.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from avader.catalogue.pixels import FINEST, Pixel, named_pixel

BASE = tuple(Pixel(0, number) for number in range(12))
"""The pixels that make the whole sky."""
NUMBERS_PER_FOLDER = 10_000
Tiles = dict[Pixel, list[Pixel]]
"""Tiles, and the parts in each."""


def dataset_path(folder: str, unit: str, *, suffix: str = ".parquet") -> str:
    """Where HATS has the rows of the pixel that a unit is named after.

    folder: of the HATS catalogue, with the slash, such as "sky/"; empty for the folder itself.
    suffix: such as "/000001.parquet" where a pixel is a folder of files.
    """
    pixel = named_pixel(unit)
    assert pixel is not None, unit
    group = pixel.number // NUMBERS_PER_FOLDER * NUMBERS_PER_FOLDER
    return f"{folder}dataset/Norder={pixel.order}/Dir={group}/Npix={pixel.number}{suffix}"


def in_order(pixels: Iterable[Pixel]) -> list[Pixel]:
    """Pixels in nested order, one that lies in another after it."""
    return sorted(pixels, key=lambda pixel: (pixel.span[0], pixel.order))


def overlapping(pixels: Iterable[Pixel]) -> tuple[Pixel, Pixel] | None:
    """Two of these pixels one of which lies in the other; None where none does."""
    ordered = in_order(pixels)
    return next((pair for pair in pairwise(ordered) if pair[0].span[1] > pair[1].span[0]), None)


def holding(pixels: Iterable[Pixel], earlier: Iterable[Pixel]) -> tuple[Pixel, Pixel] | None:
    """One of the earlier pixels and another that it lies in, and is not; None where none does."""
    ordered = in_order(earlier)
    starts = [pixel.span[0] for pixel in ordered]
    for pixel in in_order(pixels):
        first, stop = (bisect_left(starts, edge) for edge in pixel.span)
        inner = next((each for each in ordered[first:stop] if each.order > pixel.order), None)
        if inner is not None:
            return inner, pixel
    return None


def grown(increments: Iterable[Mapping[Pixel, int]], *, limit: int) -> list[Tiles]:
    """The tiles of each increment, as `joined` has them, given those of the increments before.

    increments: rows of each part, by its pixel; those of one do not overlap, and none holds an
    earlier one without being it.
    """
    found: list[Tiles] = []
    for rows in increments:
        given = {tile for cut in found for tile in cut}
        found.append(joined(rows, limit=limit, given=given))
    return found


def joined(rows: Mapping[Pixel, int], *, limit: int, given: Iterable[Pixel] = ()) -> Tiles:
    """The coarsest tiles with at most `limit` rows each, and the parts in them; in nested order.

    rows: of each part, by its pixel; no two overlap. A part with more rows is a tile of its own,
    and so is a pixel of order 10; a part without rows is in none. given: tiles of before, which
    stay: parts in them are theirs, whatever they hold then, and no new tile reaches into one.
    """
    taken = in_order(given)
    starts = [tile.span[0] for tile in taken]
    found: Tiles = {}
    left = []
    for part in in_order(pixel for pixel, count in rows.items() if count):
        at = bisect_right(starts, part.span[0]) - 1
        if at >= 0 and part.span[1] <= taken[at].span[1]:
            found.setdefault(taken[at], []).append(part)
        else:
            left.append(part)
    found |= _joined({part: rows[part] for part in left}, limit, starts)
    return {tile: found[tile] for tile in in_order(found)}


def _joined(rows: Mapping[Pixel, int], limit: int, taken: Sequence[int]) -> Tiles:
    """The coarsest tiles of parts in nested order; none holds a place that is taken."""
    parts = list(rows)
    before = list(accumulate(rows.values(), initial=0))

    def ends(tile: Pixel, first: int, stop: int) -> bool:
        if first == stop or parts[first] == tile or tile.order == FINEST:
            return True
        free = len({bisect_left(taken, edge) for edge in tile.span}) == 1
        return free and before[stop] - before[first] <= limit

    cut = _cut(parts, ends)
    return {tile: parts[first:stop] for tile, first, stop in cut if first < stop}


def absent(pixels: Iterable[Pixel]) -> list[Pixel]:
    """The coarsest pixels that make the sky outside of these, in nested order."""
    held = in_order(pixels)
    cut = _cut(held, lambda pixel, first, stop: first == stop or held[first] == pixel)
    return [pixel for pixel, first, stop in cut if first == stop]


def _cut(
    parts: Sequence[Pixel], ends: Callable[[Pixel, int, int], bool]
) -> Iterator[tuple[Pixel, int, int]]:
    """The sky cut into pixels, each with the range of the parts in it, first and stop.

    ends: whether such a pixel is not cut further.
    """
    starts = [part.span[0] for part in parts]

    def walk(pixel: Pixel) -> Iterator[tuple[Pixel, int, int]]:
        first, stop = (bisect_left(starts, edge) for edge in pixel.span)
        if ends(pixel, first, stop):
            yield pixel, first, stop
            return
        for child in range(4):
            yield from walk(Pixel(pixel.order + 1, 4 * pixel.number + child))

    for base in BASE:
        yield from walk(base)
