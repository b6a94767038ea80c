"""Objects dealt to pixels and placed in them: counted, against fractions, and against the sky."""

from fractions import Fraction
from itertools import groupby, pairwise

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from mocpy import MOC
from scipy import stats

from avader.catalogue.pixels import Pixel, healpix_29
from avader.catalogue.tiles import overlapping
from avader.errors import InputError
from avader.mixture.random import Stream, words
from avader.synthetic.positions import Places, Share, deal, place, place_all
from avader.synthetic.region import CELLS, Region, centres, cone, read_region

SEED = 11
REGIONS = {
    "cone": cone(150, 2, 3600),
    "across RA 0": cone(0, 5, 7200),
    "north pole": cone(70, 90, 1800),
    "south pole": cone(0, -89.9, 3600),
    "small": cone(210.3, 54.2, 5),
    "sky": cone(0, 0, 180 * 3600),
    "map": Region(
        np.array([[0, 4**26], [4**26, 3 * 4**26], [5 * 4**27, 6 * 4**27]]), np.array([4, 1, 0.5])
    ),
}
# Nothing is so improbable that is right.
LEAST = 1e-4


@pytest.fixture(params=REGIONS)
def region(request) -> Region:
    return REGIONS[request.param]


def drawn(region: Region, count: int, *, per_unit: int = 2000, seed: int = SEED) -> Places:
    shares = deal(region, [count], seed, rows_per_unit=per_unit)
    return place_all(region, seed, np.arange(count), shares)


def belongs(region: Region, cells: np.ndarray) -> np.ndarray:
    """(N,) number of the range that each cell is in, -1 for none."""
    at = np.searchsorted(region.ranges[:, 0], cells, side="right") - 1
    return np.where((at >= 0) & (cells < region.ranges[at, 1]), at, -1)


class TestPlaces:
    @pytest.mark.parametrize("count", [1, 20_000])
    def test_every_object_is_in_the_region(self, region, count):
        found = drawn(region, count)
        assert (belongs(region, found.healpix_29) >= 0).all()
        assert len(found.ra) == len(found.dec) == len(found.healpix_29) == count
        assert ((found.ra >= 0) & (found.ra < 360) & (np.abs(found.dec) <= 90)).all()

    def test_positions_and_pixels_say_the_same(self, region):
        found = drawn(region, 20_000)
        np.testing.assert_array_equal(healpix_29(found.ra, found.dec), found.healpix_29)

    @pytest.mark.parametrize("name", ["cone", "across RA 0", "north pole", "south pole", "small"])
    def test_a_cone_holds_all(self, name):
        ra, dec, arcsec = {
            "cone": (150, 2, 3600),
            "across RA 0": (0, 5, 7200),
            "north pole": (70, 90, 1800),
            "south pole": (0, -89.9, 3600),
            "small": (210.3, 54.2, 5),
        }[name]
        found = drawn(REGIONS[name], 30_000)
        sky, centre = SkyCoord(found.ra, found.dec, unit="deg"), SkyCoord(ra, dec, unit="deg")
        apart = centre.separation(sky).arcsec
        assert apart.max() < arcsec
        # Evenly: area grows as (1 - cos), and every direction is as likely.
        share = (np.sin(np.radians(apart / 3600) / 2) / np.sin(np.radians(arcsec / 3600) / 2)) ** 2
        assert stats.kstest(share, "uniform").pvalue > LEAST
        angle = centre.position_angle(sky).deg / 360
        assert stats.kstest(angle, "uniform").pvalue > LEAST

    def test_a_moc_holds_all(self):
        moc = MOC.from_string("1/7 3/1-3 520 5/4000-4100 9000", "ascii")
        region = read_region(moc.to_string("json").encode(), "moc.json")
        found = drawn(region, 20_000)
        assert moc.contains_lonlat(found.ra * u.deg, found.dec * u.deg).all()
        areas = np.diff(moc.to_depth29_ranges.astype(float))[:, 0]
        counts = np.bincount(belongs(region, found.healpix_29), minlength=len(areas))
        assert stats.chisquare(counts, areas / areas.sum() * 20_000).pvalue > LEAST

    def test_they_are_as_dense_as_the_map(self):
        """By the pixels of order 6 that its ranges are made of."""
        region, count = REGIONS["map"], 400_000
        cells = drawn(region, count, per_unit=30_000).healpix_29
        wanted = np.zeros(12 * 4**6)
        for (start, stop), density in zip(region.ranges >> 46, region.densities, strict=True):
            wanted[start:stop] = density
        counts = np.bincount(cells >> 46, minlength=len(wanted))
        assert (counts[wanted == 0] == 0).all()
        wanted = wanted[wanted > 0] / wanted.sum() * count
        assert stats.chisquare(counts[counts > 0], wanted).pvalue > LEAST

    def test_a_million_all_over_the_sky(self):
        found = drawn(REGIONS["sky"], 10**6, per_unit=50_000)
        counts = np.bincount(found.healpix_29 >> 2 * 25, minlength=12 * 4**4)
        assert stats.chisquare(counts).pvalue > LEAST
        assert stats.kstest(np.sin(np.radians(found.dec)), "uniform", (-1, 2)).pvalue > LEAST
        assert stats.kstest(found.ra, "uniform", (0, 360)).pvalue > LEAST
        # Down to the last bits.
        low = np.bincount(found.healpix_29 & 255, minlength=256)
        assert stats.chisquare(low).pvalue > LEAST

    @pytest.mark.parametrize("pixel", [Pixel(0, 0), Pixel(2, 0), Pixel(4, 5), Pixel(3, 23)])
    def test_by_fractions(self, pixel):
        """Object by object, exactly, as the module's head has it."""
        region, indices = REGIONS["map"], np.arange(500, 700)
        found = place(region, SEED, indices, pixel).healpix_29
        assert found.tolist() == [by_fractions(region, int(at), pixel) for at in indices]
        assert len(set(belongs(region, found))) == {0: 3, 2: 2, 4: 1, 3: 1}[pixel.order]


def by_fractions(region: Region, index: int, pixel: Pixel) -> int:
    """The cell of an object."""
    first, second = (int(word) for word in words(SEED, Stream.POSITION, index, 1, 2)[0])
    pieces = []
    for (start, stop), density in zip(region.ranges.tolist(), region.densities, strict=True):
        low, high = max(start, pixel.span[0]), min(stop, pixel.span[1])
        if low < high:
            pieces.append((low, high, Fraction(float(density)) * (high - low)))
    left = (Fraction(first >> 11) + Fraction(1, 2)) / 2**53 * sum(piece[2] for piece in pieces)
    while left >= pieces[0][2]:
        left -= pieces.pop(0)[2]
    low, high, _ = pieces[0]
    return low + (second * (high - low) >> 64)


class TestAlone:
    def test_any_object_by_itself(self, region):
        everything = drawn(region, 3000, per_unit=100)
        shares = deal(region, [3000], SEED, rows_per_unit=100)
        wanted = np.random.default_rng(0).integers(0, 3000, 400)
        some = place_all(region, SEED, wanted, shares[::-1])
        for found, each in zip(some, everything, strict=True):
            np.testing.assert_array_equal(found, each[wanted])
        pixel, start, stop = shares[len(shares) // 2]
        backwards = place(region, SEED, np.arange(start, stop)[::-1], pixel)
        for found, each in zip(backwards, everything, strict=True):
            np.testing.assert_array_equal(found[::-1], each[start:stop])

    def test_another_seed_is_another_sky(self):
        one, two = (drawn(REGIONS["sky"], 1000, seed=seed).healpix_29 for seed in (1, 2))
        assert not set(one) & set(two)

    def test_no_objects(self):
        shares = deal(REGIONS["map"], [10], SEED, rows_per_unit=5)
        for found in (
            place_all(REGIONS["map"], SEED, np.arange(0), shares),
            place_all(REGIONS["map"], SEED, np.arange(0), []),
            place(REGIONS["map"], SEED, np.arange(0), Pixel(0, 0)),
        ):
            assert [len(each) for each in found] == [0, 0, 0]

    @pytest.mark.parametrize("stranger", [99, 150, 210, -1])
    def test_objects_that_were_not_dealt(self, stranger):
        shares = [Share(Pixel(2, 0), 200, 210), Share(Pixel(0, 0), 100, 150)]
        assert len(place_all(REGIONS["map"], SEED, np.array([100, 149, 200, 209]), shares).ra) == 4
        with pytest.raises(InputError, match=f"wanted objects that were dealt.*got {stranger}$"):
            place_all(REGIONS["map"], SEED, np.array([100, stranger]), shares)

    @pytest.mark.parametrize("pixel", [Pixel(1, 7), Pixel(2, 4), Pixel(29, CELLS - 1)])
    def test_pixels_beyond_the_region(self, pixel):
        with pytest.raises(InputError, match="wanted a pixel of the region, got one outside"):
            place(REGIONS["map"], SEED, np.arange(3), pixel)


def mass(region: Region, pixel: Pixel) -> float:
    """The pixel's share of the region's mass, range by range."""
    (starts, stops), (first, stop) = region.ranges.T, pixel.span
    inside = np.maximum(0, np.minimum(stops, stop) - np.maximum(starts, first))
    return inside @ region.densities / ((stops - starts) @ region.densities)


class TestDeal:
    @pytest.mark.parametrize(("count", "limit"), [(1, 10), (5000, 70), (10**6, 3000)])
    def test_every_object_is_dealt_once(self, region, count, limit):
        shares = deal(region, [count], SEED, start=7, rows_per_unit=limit)
        assert shares[0].start == 7
        assert shares[-1].stop == 7 + count
        assert all(one.stop == two.start for one, two in pairwise(shares))
        assert all(share.start < share.stop for share in shares)
        pixels = [share.pixel for share in shares]
        assert pixels == sorted(pixels, key=lambda pixel: pixel.span)
        assert overlapping(pixels) is None

    def test_pixels_are_the_coarsest_that_are_small_enough(self):
        region, count, limit = REGIONS["map"], 100_000, 900
        for pixel, start, stop in deal(region, [count], SEED, rows_per_unit=limit):
            expected = count * mass(region, pixel)
            assert expected <= limit
            assert count * mass(region, pixel.at(pixel.order - 1)) > limit
            assert abs(stop - start - expected) < 6 * np.sqrt(expected)

    def test_counts_are_drawn(self):
        """As of independent objects: chi-square of many seeds is distributed as it should be."""
        region, found = REGIONS["map"], []
        for seed in range(200):
            shares = deal(region, [4000], seed, rows_per_unit=400)
            wanted = [4000 * mass(region, share.pixel) for share in shares]
            counts = [share.stop - share.start for share in shares]
            assert sum(wanted) == pytest.approx(4000)
            found.append(stats.chisquare(counts, wanted).pvalue)
        assert stats.kstest(found, "uniform").pvalue > LEAST

    def test_runs_with_other_starts_are_dealt_by_other_numbers(self):
        one, two, again = (
            deal(REGIONS["sky"], [10**5], SEED, start=start, rows_per_unit=500)
            for start in (0, 10**5, 0)
        )
        assert one == again
        counts = [[share.stop - share.start for share in shares] for shares in (one, two)]
        assert [share.pixel for share in one] == [share.pixel for share in two]
        assert abs(np.corrcoef(counts)[0, 1]) < 0.3

    def test_every_group_is_all_over_the_region(self):
        """Each group as one that is dealt alone, and a pixel has some of each."""
        region, groups = REGIONS["cone"], [6000, 0, 3000, 1]
        shares = deal(region, groups, SEED, start=50, rows_per_unit=1500)
        pixels = [pixel for pixel, _ in groupby(shares, key=lambda share: share.pixel)]
        assert pixels == sorted(set(pixels), key=lambda pixel: pixel.span)
        ranges = sorted((share.start, share.stop) for share in shares)
        assert [ranges[0][0], ranges[-1][1]] == [50, 50 + sum(groups)]
        assert all(one[1] == two[0] for one, two in pairwise(ranges))
        start = 50
        for size in groups:
            own = [share for share in shares if start <= share.start < start + size]
            assert sum(share.stop - share.start for share in own) == size
            if size > 1:
                assert [share.pixel for share in own] == pixels
                wanted = [size * mass(region, pixel) for pixel in pixels]
                counts = [share.stop - share.start for share in own]
                assert stats.chisquare(counts, wanted).pvalue > LEAST
            start += size
        found = place_all(region, SEED, np.arange(50, start), shares)
        assert (belongs(region, found.healpix_29) >= 0).all()

    @pytest.mark.parametrize("more", [20, 500, pytest.param(100_000, marks=pytest.mark.long)])
    def test_increments_keep_to_the_pixels_of_before(self, more):
        """A pixel of before is never within a later one; what is too much for it is cut further."""
        region, given = REGIONS["cone"], set[Pixel]()
        for start, count in ((0, 3000), (3000, more), (3000 + more, 50)):
            shares = deal(region, [count], SEED, start=start, rows_per_unit=400, given=given)
            assert sum(share.stop - share.start for share in shares) == count
            pixels = {share.pixel for share in shares}
            assert overlapping(pixels) is None
            for pixel in pixels:
                assert count * mass(region, pixel) <= 400
                assert not any(
                    other.order > pixel.order and other.at(pixel.order) == pixel for other in given
                )
            given |= pixels
        assert (overlapping(given) is None) == (more < 1000)

    def test_no_pixel_is_finer_than_order_14(self):
        shares = deal(REGIONS["small"], [10**6], SEED, rows_per_unit=10)
        assert {share.pixel.order for share in shares} == {14}
        assert sum(share.stop - share.start for share in shares) == 10**6

    def test_a_region_smaller_than_its_pixel(self):
        (share,) = deal(REGIONS["small"], [30], SEED, rows_per_unit=50)
        assert share == Share(Pixel(0, share.pixel.number), 0, 30)
        ra, dec = centres(REGIONS["small"].ranges[:1, 0], 29)
        assert share.pixel.number == healpix_29(ra, dec)[0] >> 58

    @pytest.mark.parametrize("groups", [[], [0], [0, 0]])
    def test_nothing_to_deal(self, groups):
        assert deal(REGIONS["sky"], groups, SEED, rows_per_unit=10) == []

    def test_a_hundred_million(self):
        shares = deal(REGIONS["sky"], [10**8], SEED, rows_per_unit=10**6)
        assert len(shares) == 192
        assert shares[-1].stop == 10**8
