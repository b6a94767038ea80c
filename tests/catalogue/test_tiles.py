"""Tiles: how parts are joined and what is left of the sky; against counts one by one."""

import itertools

import numpy as np
import pytest
from hats.io.paths import pixel_catalog_file
from hats.pixel_math import HealpixPixel

from avader.catalogue.pixels import FINEST, Pixel, adaptive_pixels
from avader.catalogue.tiles import (
    absent,
    dataset_path,
    grown,
    holding,
    in_order,
    joined,
    overlapping,
)


@pytest.fixture(scope="module")
def rows() -> dict[Pixel, int]:
    """Rows of the parts of a sky that is dense in one place; some parts have none."""
    generator = np.random.default_rng(0)
    patch = 5 * 4**FINEST + generator.exponential(3000, 3000).astype(int)
    places = np.concatenate([patch, generator.integers(0, 12 * 4**FINEST, 200)])
    counts = np.bincount(places, minlength=12 * 4**FINEST)
    pixels = adaptive_pixels(counts, limit=20)
    generator.shuffle(pixels)
    return {pixel: int(generator.integers(0, 20)) for pixel in pixels}


def tile_of(part: Pixel, rows: dict[Pixel, int], limit: int) -> Pixel:
    """The coarsest pixel around a part that holds at most so many rows; itself where none does."""
    for order in range(part.order):
        around = part.at(order)
        inside = (p for p in rows if p.order >= order and p.at(order) == around)
        if sum(rows[p] for p in inside) <= limit:
            return around
    return part


@pytest.mark.parametrize("limit", [1, 10, 50, 1000, 10**6])
def test_parts_are_joined_into_the_coarsest_tiles_that_fit(rows, limit):
    wanted: dict[Pixel, list[Pixel]] = {}
    for part in in_order(part for part in rows if rows[part]):
        wanted.setdefault(tile_of(part, rows, limit), []).append(part)

    found = joined(rows, limit=limit)

    assert found == wanted
    assert list(found) == in_order(found)
    assert all(inner == in_order(inner) for inner in found.values())


def test_a_part_that_is_too_large_is_a_tile_of_its_own():
    rows = {Pixel(3, 8): 100, Pixel(4, 36): 3, Pixel(4, 37): 4, Pixel(3, 10): 5}
    assert joined(rows, limit=12) == {
        Pixel(3, 8): [Pixel(3, 8)],
        Pixel(3, 9): [Pixel(4, 36), Pixel(4, 37)],
        Pixel(3, 10): [Pixel(3, 10)],
    }
    assert joined({Pixel(5, 77): 0}, limit=12) == {}


def test_no_tile_is_finer_than_order_10():
    parts = [Pixel(12, 16 * 77 + number) for number in (1, 2, 9)]
    rows = dict.fromkeys((*parts, Pixel(10, 76)), 100)
    assert joined(rows, limit=150) == {
        Pixel(10, 76): [Pixel(10, 76)],
        Pixel(10, 77): parts,
    }
    more = dict.fromkeys((Pixel(14, 16 * 16 * 77), Pixel(12, 16 * 78)), 100)
    assert grown([rows, more], limit=150)[1] == {
        Pixel(10, 77): [Pixel(14, 16 * 16 * 77)],
        Pixel(10, 78): [Pixel(12, 16 * 78)],
    }


@pytest.mark.parametrize("limit", [10, 50, 200])
def test_new_tiles_are_beside_those_of_before(limit):
    """Three increments, each denser elsewhere: tiles stay, and take what lies in them."""
    generator = np.random.default_rng(1)
    pixels: list[Pixel] = []
    increments = []
    for patch in (5, 5.01, 7):
        places = int(patch * 4**FINEST) + generator.exponential(30_000, 1000).astype(int)
        counts = np.bincount(places, minlength=12 * 4**FINEST)
        found = adaptive_pixels(counts, limit=8, given=in_order(pixels))
        increments.append({pixel: int(counts[pixel.finest].sum()) for pixel in found})
        pixels = list({*pixels, *found})
    given: set[Pixel] = set()
    for rows, cut in zip(increments, grown(increments, limit=limit), strict=True):
        assert cut == joined_one_by_one(rows, given, limit)
        assert list(cut) == in_order(cut)
        given |= cut.keys()
        assert overlapping(given) is None
    assert len(given) > 5


def joined_one_by_one(
    rows: dict[Pixel, int], given: set[Pixel], limit: int
) -> dict[Pixel, list[Pixel]]:
    """The tiles of an increment's parts, looked for from each part alone."""
    around = {at for tile in given for at in map(tile.at, range(tile.order))}
    parts = in_order(rows)
    owners = {p: p.at(k) for p in parts for k in range(p.order + 1) if p.at(k) in given}
    left = {part: rows[part] for part in parts if part not in owners}
    for part in left:
        for order in range(part.order + 1):
            tile = part.at(order)
            inside = [p for p in left if p.order >= order and p.at(order) == tile]
            few = sum(left[p] for p in inside) <= limit
            if tile == part or (few and tile not in around):
                owners[part] = tile
                break
    wanted: dict[Pixel, list[Pixel]] = {}
    for part in parts:
        wanted.setdefault(owners[part], []).append(part)
    return wanted


def test_what_is_left_of_the_sky_is_in_the_coarsest_pixels(rows):
    held = list(joined(rows, limit=3))
    found = absent(held)
    whole = in_order([*held, *found])
    assert [0, *(p.span[1] for p in whole)] == [*(p.span[0] for p in whole), 12 * 4**29]
    around = {p.at(order) for p in held for order in range(p.order + 1)}
    assert len(found) > 15
    assert all(pixel.order == 0 or pixel.at(pixel.order - 1) in around for pixel in found)
    assert absent([]) == [Pixel(0, number) for number in range(12)]


def test_pixels_that_overlap():
    apart = [Pixel(3, 8), Pixel(3, 9), Pixel(4, 40)]
    assert overlapping(apart) is None
    assert overlapping([Pixel(6, 9 * 4**3), *apart]) == (Pixel(3, 9), Pixel(6, 9 * 4**3))
    for pair in itertools.permutations([Pixel(3, 9), Pixel(4, 36)]):
        assert overlapping([*pair, Pixel(0, 5)]) == (Pixel(3, 9), Pixel(4, 36))


def test_pixels_that_hold_an_earlier_one():
    """Against every pair, of pixels of few orders; those alike and finer ones may come later."""
    earlier = [Pixel(3, 8), Pixel(3, 9), Pixel(5, 16 * 9 + 15), Pixel(4, 40)]
    for order in range(7):
        for number in range(12 * 4**order // 20, 12 * 4**order // 12):
            later = Pixel(order, number)
            inner = [one for one in earlier if one.order > order and one.at(order) == later]
            found = holding([Pixel(2, 1), later], earlier)
            assert (found is not None) == bool(inner)
            assert found is None or (found[0] in inner and found[1] == later)
    assert holding([Pixel(1, 0)], []) is None


@pytest.mark.parametrize(
    "pixel", [Pixel(0, 3), Pixel(8, 123_456), Pixel(7, 9_999), Pixel(7, 10_000)]
)
def test_paths_are_those_of_hats(pixel):
    theirs = pixel_catalog_file("/sky/avader", HealpixPixel(pixel.order, pixel.number))
    assert f"/sky/{dataset_path('avader/', pixel.name)}" == theirs.path
    folder = pixel_catalog_file(
        "/sky/avader", HealpixPixel(pixel.order, pixel.number), npix_suffix="/"
    )
    file = dataset_path("avader/", pixel.name, suffix="/000001.parquet")
    assert f"/sky/{file}" == f"{folder.path}/000001.parquet"
