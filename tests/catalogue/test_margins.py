"""Margins: against hats, and against distances on the sky."""

import astropy.units as u
import cdshealpix.nested as nested
import hats.pixel_math.healpix_shim as hp
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from hats.pixel_math import get_margin

from avader.catalogue.margins import FINEST_MARGIN, Margin, margin_order
from avader.catalogue.pixels import Pixel, healpix_29

TILES = [Pixel(0, 4), Pixel(0, 0), Pixel(3, 255), Pixel(5, 4096), Pixel(10, 12 * 4**10 - 1)]
"""At the equator, at both poles, and where three base pixels meet."""


@pytest.mark.parametrize("arcsec", [2, 5, 10, 13.7, 30, 60])
def test_the_order_is_that_of_hats(arcsec):
    assert margin_order(arcsec) == hp.margin2order(arcsec / 60)
    assert 60 * hp.order2mindist(margin_order(arcsec)) >= arcsec


def test_a_very_thin_margin_is_a_little_wider():
    assert margin_order(0.001) == FINEST_MARGIN < hp.margin2order(0.001 / 60)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("arcsec", [5, 60])
def test_the_pixels_are_those_of_hats(tile, arcsec):
    order = margin_order(arcsec)
    theirs = get_margin(tile.order, tile.number, order - tile.order)
    assert (Margin(tile, arcsec).pixels >> 2 * (29 - order)).tolist() == theirs


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("arcsec", [2, 10, 60])
def test_every_place_near_the_edge_is_of_the_margin(tile, arcsec):
    """Places around the edge within the margin's width: in the tile, or of its margin."""
    generator = np.random.default_rng(0)
    steps = 2**9
    longitudes, latitudes = nested.vertices(np.array([tile.number]), tile.order, step=steps)
    edge = SkyCoord(longitudes.ravel(), latitudes.ravel(), frame="icrs")
    turn = generator.uniform(0, 360, len(edge)) * u.deg
    near = edge.directional_offset_by(turn, generator.uniform(0, arcsec, len(edge)) * u.arcsec)
    places = healpix_29(near.ra.deg, near.dec.deg)
    inside = (places >= tile.span[0]) & (places < tile.span[1])
    found = Margin(tile, arcsec).mask(pa.table({"_healpix_29": places}))
    assert 0.2 < inside.mean() < 0.8
    assert (found == ~inside).all()
    centre = np.array([sum(tile.span) // 2])
    assert not Margin(tile, arcsec).mask(pa.table({"_healpix_29": centre})).any()


def test_parts_and_row_groups_that_the_margin_reaches_into():
    """Against the margin's pixels one by one."""
    margin = Margin(Pixel(4, 1000), 20)
    width = 4 ** (29 - margin_order(20))
    around = {int(first) >> 2 * (29 - 6) for first in margin.pixels}
    some = sorted(around)[::2]
    parts = [Pixel(6, number) for number in sorted({*some, 5, 16_000, 16_001, 40_000})]
    found = margin.among(np.array([part.span for part in parts]))
    assert [parts[at] for at in found] == [Pixel(6, number) for number in some]
    assert margin.among(np.array([Pixel(6, 5).span])).tolist() == []
    generator = np.random.default_rng(1)
    spans = np.sort(
        generator.choice(margin.pixels, (200, 1))
        + generator.integers(-3 * width, 3 * width, (200, 2))
    )
    wanted = [
        bool(((margin.pixels <= high) & (margin.pixels + width > low)).any()) for low, high in spans
    ]
    assert 20 < sum(wanted) < 180
    found = [margin.may_hold({"_healpix_29": (int(low), int(high))}) for low, high in spans]
    assert found == wanted
    assert margin.may_hold({})


def test_parts_of_any_size():
    """Coarser than the tile to finer than the margin's pixels, apart, and not all of the sky."""
    margin = Margin(Pixel(4, 1000), 20)
    generator = np.random.default_rng(2)
    width = 4 ** (29 - margin_order(20))
    assert margin_order(20) == 12

    def reached(pixel: Pixel) -> bool:
        first, stop = pixel.span
        return bool(((margin.pixels < stop) & (margin.pixels + width > first)).any())

    left, parts = [Pixel(0, number) for number in range(12)], []
    while left:
        pixel = left.pop()
        chance = 0.97 if pixel.order < 12 else 0.5 if pixel.order < 14 else 0
        if reached(pixel) and generator.uniform() < chance:
            left += [Pixel(pixel.order + 1, 4 * pixel.number + child) for child in range(4)]
        elif generator.uniform() < 0.7:
            parts.append(pixel)
    parts.sort(key=lambda pixel: pixel.span)
    wanted = [at for at, part in enumerate(parts) if reached(part)]
    assert {parts[at].order for at in wanted} >= {11, 12, 13, 14}
    assert 300 < len(wanted) < len(parts) - 300
    assert margin.among(np.array([part.span for part in parts])).tolist() == wanted
