"""A catalogue's pixels joined into the larger ones that HATS cuts the sky into, its tiles.

The rows of a tile are those of the parts that lie in it, one part after another: in nested order.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from avader.catalogue.pixels import Pixel, named_pixel

BASE = tuple(Pixel(0, number) for number in range(12))
"""The pixels that make the whole sky."""
NUMBERS_PER_FOLDER = 10_000


def dataset_path(folder: str, unit: str) -> str:
    """Where HATS has the rows of the pixel that a unit is named after.

    folder: of the HATS catalogue, with the slash, such as "sky/"; empty for the folder itself.
    """
    pixel = named_pixel(unit)
    assert pixel is not None, unit
    group = pixel.number // NUMBERS_PER_FOLDER * NUMBERS_PER_FOLDER
    return f"{folder}dataset/Norder={pixel.order}/Dir={group}/Npix={pixel.number}.parquet"


def in_order(pixels: Iterable[Pixel]) -> list[Pixel]:
    """Pixels in nested order, one that lies in another after it."""
    return sorted(pixels, key=lambda pixel: (pixel.span[0], pixel.order))


def overlapping(pixels: Iterable[Pixel]) -> tuple[Pixel, Pixel] | None:
    """Two of these pixels one of which lies in the other; None where none does."""
    ordered = in_order(pixels)
    return next((pair for pair in pairwise(ordered) if pair[0].span[1] > pair[1].span[0]), None)


def joined(rows: Mapping[Pixel, int], *, limit: int) -> dict[Pixel, list[Pixel]]:
    """The coarsest tiles with at most `limit` rows each, and the parts in them; in nested order.

    rows: of each part, by its pixel; no two overlap. A part with more rows is a tile of its own;
    one without rows is in none.
    """
    parts = in_order(pixel for pixel, count in rows.items() if count)
    before = list(accumulate((rows[part] for part in parts), initial=0))

    def fits(tile: Pixel, first: int, stop: int) -> bool:
        return before[stop] - before[first] <= limit or parts[first] == tile

    cut = _cut(parts, fits)
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
