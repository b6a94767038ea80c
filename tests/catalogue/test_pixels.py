"""Pixels: names, spans, and how a sky is cut into them; against a recursive count."""

import numpy as np
import pytest

from avader.catalogue.pixels import (
    FINEST,
    UNPLACED,
    Pixel,
    adaptive_pixels,
    healpix_29,
    named_pixel,
    placed_pixels,
    position_problem,
)
from tests.healpix import pixel_of

ALL = 12 * 4**FINEST


def counted(numbers: list[int]) -> np.ndarray:
    return np.bincount(numbers, minlength=ALL)


def recursive(counts: np.ndarray, limit: int) -> list[Pixel]:
    """The same pixels, split one by one."""

    def split(pixel: Pixel) -> list[Pixel]:
        width = 4 ** (FINEST - pixel.order)
        held = counts[pixel.number * width : (pixel.number + 1) * width].sum()
        if held == 0:
            return []
        if held <= limit or pixel.order == FINEST:
            return [pixel]
        children = (Pixel(pixel.order + 1, 4 * pixel.number + child) for child in range(4))
        return [found for child in children for found in split(child)]

    return [found for base in range(12) for found in split(Pixel(0, base))]


@pytest.mark.parametrize("limit", [1, 7, 100, 10_000])
def test_pixels_are_those_of_splitting_one_by_one(limit: int):
    generator = np.random.default_rng(limit)
    # A patch of the sky, dense in its middle, and a few objects all over.
    patch = (5 * 4**FINEST + generator.exponential(3000, 2000).astype(int)).tolist()
    counts = counted([*patch, *generator.integers(0, ALL, 300).tolist()])

    found = adaptive_pixels(counts, limit=limit)

    assert found == recursive(counts, limit)


def test_a_pixel_of_the_highest_order_is_not_split():
    assert adaptive_pixels(counted([77] * 50), limit=3) == [Pixel(FINEST, 77)]


def test_no_objects_no_pixels():
    assert adaptive_pixels(counted([]), limit=3) == []


def test_spans_hold_the_positions_within():
    ra, dec = np.array([10.0, 210.8, 359.9]), np.array([-40.0, 54.35, 89.9])
    for value in healpix_29(ra, dec):
        pixel = Pixel(FINEST, int(value) >> 2 * (29 - FINEST))
        for order in range(FINEST + 1):
            first, stop = pixel.at(order).span
            assert first <= value < stop
            assert stop - first == 4 ** (29 - order)


def test_names_go_there_and_back():
    for pixel in (Pixel(0, 11), Pixel(10, 12 * 4**10 - 1)):
        assert named_pixel(pixel.name) == pixel
    assert named_pixel("00000042") is None


def test_pixels_by_the_book():
    generator = np.random.default_rng(3)
    ra = generator.uniform(-360, 360, 500)
    dec = np.degrees(np.arcsin(generator.uniform(-1, 1, 500)))
    found = placed_pixels(ra, dec)
    for order in (0, 4, 10):
        wanted = [pixel_of(*position, order) for position in zip(ra, dec, strict=True)]
        np.testing.assert_array_equal(found >> 2 * (29 - order), wanted)


def test_what_is_no_position_has_no_pixel():
    edges = [-np.inf, -360.1, -360, -90.1, -90, 0, 90, 90.1, 359.9, 360, 360.1, np.inf, np.nan]
    ra, dec = (axis.ravel() for axis in np.meshgrid(edges, edges))
    problems = [position_problem(*position) for position in zip(ra, dec, strict=True)]
    found = placed_pixels(ra, dec)
    np.testing.assert_array_equal(found == UNPLACED, [problem is not None for problem in problems])
    assert found.max() < 12 * 4**29
    assert len(placed_pixels(ra[:0], dec[:0])) == 0
