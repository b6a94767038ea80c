"""Regions against astropy's separations, mocpy, cdshealpix's rings and HEALPix by the book."""

import gzip
import io
import json

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.io import fits
from cdshealpix import nested, ring
from hats.io import file_io
from mocpy import MOC

from avader.catalogue.pixels import healpix_29
from avader.errors import InputError
from avader.synthetic import region as regions
from avader.synthetic.region import CELLS, Region, centres, cone, read_region
from tests.healpix import pixel_of

SKY = 4 * np.pi * (180 / np.pi) ** 2
CONES = [
    (10.0, 20.0, 60.0),
    (359.9, -0.1, 36_000.0),
    (123.0, 90.0, 5_000.0),
    (-20.0, -89.5, 7_200.0),
    (45.0, 41.8, 1.0),
    (200.0, 35.0, 89 * 3600.0),
    (10.0, 20.0, 170 * 3600.0),
]


def holds(region: Region, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(N,) whether positions are in the region, range by range."""
    cells = healpix_29(ra, dec)
    return np.array([((region.ranges[:, 0] <= c) & (c < region.ranges[:, 1])).any() for c in cells])


def around(ra: float, dec: float, radius: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over a cone, most of them near its edge; and arcsec from its centre (N,)."""
    generator = np.random.default_rng(0)
    apart = radius * (1 + generator.normal(scale=0.003, size=count))
    apart[::3] = radius * np.sqrt(generator.uniform(size=len(apart[::3])))
    apart = np.minimum(apart, 180 * 3600)
    angle = generator.uniform(0, 360, count)
    centre = SkyCoord(ra, dec, unit="deg")
    found = centre.directional_offset_by(angle * u.deg, apart * u.arcsec)
    return np.stack([found.ra.deg, found.dec.deg]), centre.separation(found).arcsec


class TestCone:
    @pytest.mark.parametrize("asked", CONES)
    def test_it_holds_what_is_near(self, asked):
        found = cone(*asked)
        (ra, dec), apart = around(*asked, 2000)
        inside = holds(found, ra, dec)
        assert not inside[apart > asked[2]].any()
        assert inside[apart < 0.998 * asked[2]].all()
        assert inside.sum() > 500

    @pytest.mark.parametrize("asked", CONES)
    def test_its_area_is_less_than_a_thousandth_too_small(self, asked):
        wanted = SKY * np.sin(np.radians(asked[2] / 3600) / 2) ** 2
        assert 0.999 < cone(*asked).square_degrees / wanted < 1
        assert (cone(*asked).densities == 1).all()

    def test_all_of_the_sky(self):
        found = cone(77, -3, 180 * 3600)
        assert found.ranges.tolist() == [[0, CELLS]]
        assert found.square_degrees == pytest.approx(SKY)

    @pytest.mark.parametrize(
        "wrong", [(0, 0, 0.9), (0, 0, 648_001), (0, 91, 5), (361, 0, 5), (0, np.nan, 5), (0, 0, -1)]
    )
    def test_what_is_no_cone(self, wrong):
        with pytest.raises(InputError, match="wanted a cone of RA in"):
            cone(*wrong)

    @pytest.mark.parametrize("order", range(7))
    def test_no_part_of_a_pixel_is_farther_than_said(self, order):
        pixels = np.arange(12 * 4**order)
        ra, dec = centres(pixels, order)
        edges = nested.vertices(pixels, order, step=4)
        around = SkyCoord(*edges, frame="icrs")
        apart = SkyCoord(ra[:, None], dec[:, None], unit="deg").separation(around).rad
        assert regions.FARTHEST * 0.75 < apart.max() * 2**order < regions.FARTHEST


class TestMoc:
    """Against mocpy: what it writes is read, as the ranges that it has itself."""

    @pytest.fixture(
        params=["cone", "complement", "coarse", "all"],
    )
    def moc(self, request) -> MOC:
        lon, lat = Longitude(10, u.deg), Latitude(89, u.deg)
        if request.param == "all":
            return MOC.from_string("0/0-11", "ascii")
        if request.param == "coarse":
            return MOC.from_string("1/3 2/1 5 3/700-767 29/4-6 12345678901234", "ascii")
        found = MOC.from_cone(lon, lat, radius=2 * u.deg, max_depth=9)
        return found.complement() if request.param == "complement" else found

    @pytest.mark.parametrize("kind", ["json", "ascii", "range", "nuniq", "gzip"])
    def test_every_kind_of_file(self, moc, kind, tmp_path):
        if kind in ("json", "ascii"):
            data = moc.to_string(kind).encode()
        else:
            moc.save(tmp_path / "moc.fits", "fits", v1_compatible=kind == "nuniq")
            data = (tmp_path / "moc.fits").read_bytes()
            assert fits.getheader(tmp_path / "moc.fits", 1)["ORDERING"] == (
                "NUNIQ" if kind == "nuniq" else "RANGE"
            )
        found = read_region(gzip.compress(data) if kind == "gzip" else data, "moc")
        np.testing.assert_array_equal(found.ranges, moc.to_depth29_ranges.astype(np.int64))
        assert (found.densities == 1).all()
        assert found.square_degrees == pytest.approx(SKY * moc.sky_fraction)

    def test_a_position_is_in_it_or_not(self, moc):
        found = read_region(moc.to_string("json").encode(), "moc.json")
        generator = np.random.default_rng(1)
        ra, dec = (
            generator.uniform(0, 360, 3000),
            np.degrees(np.arcsin(generator.uniform(-1, 1, 3000))),
        )
        dec[::2] = 90 - generator.uniform(0, 4, 1500)
        wanted = moc.contains_lonlat(ra * u.deg, dec * u.deg)
        np.testing.assert_array_equal(holds(found, ra, dec), wanted)

    def test_pixels_in_any_order_and_twice(self):
        text = b"s3/7,5-6\n 4  5/\t2/1 3/4 5 29/"
        assert (
            read_region(text, "x").ranges.tolist() == read_region(b'{"2":[1]}', "x").ranges.tolist()
        )


def table(*columns: fits.Column, **header) -> bytes:
    made = fits.BinTableHDU.from_columns(columns)
    for name, value in header.items():
        made.header[name] = value
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), made]).writeto(sink)
    return sink.getvalue()


def column(name: str, values: np.ndarray, letter: str = "D") -> fits.Column:
    values = np.asarray(values)
    return fits.Column(name, f"{values[0].size}{letter}", array=values)


MAP = {"PIXTYPE": "HEALPIX", "NSIDE": 8, "COORDSYS": "C"}


def densities(region: Region, order: int = 3) -> np.ndarray:
    """(12 * 4**order,) the density at the centre of every pixel of an order, 0 outside."""
    shift = 2 * (29 - order)
    middles = (np.arange(12 * 4**order) << shift) + (1 << shift - 1)
    at = np.searchsorted(region.ranges[:, 0], middles, side="right") - 1
    inside = (at >= 0) & (middles < region.ranges[at, 1])
    return np.where(inside, region.densities[at], 0)


class TestMap:
    @pytest.fixture
    def values(self) -> np.ndarray:
        """By ring, some the same, some 0."""
        return np.random.default_rng(0).integers(0, 5, 768).astype(float)

    def nested(self, values: np.ndarray) -> np.ndarray:
        """Values by ring as values by nested pixel, by the positions of their centres."""
        lon, lat = ring.healpix_to_lonlat(np.arange(768), 8)
        pixels = [pixel_of(*place, 3) for place in zip(lon.deg, lat.deg, strict=True)]
        found = np.empty(768)
        found[pixels] = values
        return found

    @pytest.mark.parametrize("zipped", [False, True])
    def test_of_rings_as_healpy_writes_it(self, values, zipped):
        other = column("Q", np.ones((3, 256)), "E")
        data = table(column("T", values.reshape(3, 256), "E"), other, **MAP, ORDERING="RING")
        found = read_region(gzip.compress(data) if zipped else data, "map.fits")
        np.testing.assert_array_equal(densities(found), self.nested(values))
        # Neighbours of one density are one range, and nothing is kept of what has none.
        assert len(found.ranges) < 600
        touching = found.ranges[1:, 0] == found.ranges[:-1, 1]
        assert (found.densities[1:][touching] != found.densities[:-1][touching]).all()

    def test_of_nested_pixels(self, values):
        data = table(column("T", values), **MAP, ORDERING="NESTED", INDXSCHM="IMPLICIT")
        np.testing.assert_array_equal(densities(read_region(data, "x")), values)

    @pytest.mark.parametrize("ordering", ["NESTED", "RING"])
    def test_of_some_pixels(self, values, ordering):
        chosen = np.random.default_rng(1).permutation(768)[:300]
        wanted = np.zeros(768)
        wanted[chosen] = values[chosen]
        data = table(
            column("PIXEL", chosen, "J"),
            column("T", values[chosen]),
            column("N", np.ones(300)),
            **MAP,
            ORDERING=ordering,
            INDXSCHM="EXPLICIT",
        )
        wanted = self.nested(wanted) if ordering == "RING" else wanted
        np.testing.assert_array_equal(densities(read_region(data, "x")), wanted)

    @pytest.mark.parametrize("letter", ["E", "D"])
    def test_what_has_no_value_is_0(self, values, letter):
        absent = values.copy()
        absent[::3], absent[1::3] = np.nan, -1.6375e30
        data = table(column("T", absent, letter), **MAP, ORDERING="NESTED")
        wanted = np.where(np.arange(768) % 3 == 2, values, 0)
        np.testing.assert_array_equal(densities(read_region(data, "x")), wanted)

    @pytest.mark.parametrize("some", [768, 20])
    def test_the_sky_map_of_a_hats_catalogue(self, values, some, tmp_path):
        counts = np.where(np.arange(768) < some, values, 0).astype(int)
        file_io.write_fits_image(counts, tmp_path / "skymap.fits")
        found = read_region((tmp_path / "skymap.fits").read_bytes(), "skymap.fits")
        np.testing.assert_array_equal(densities(found), counts)

    def test_of_several_orders(self):
        uniq = np.array([4 * 4**3 + 700, 4 * 4**1 + 3, 4 * 4**29 + 5])
        data = table(
            column("UNIQ", uniq, "K"),
            column("PROBDENSITY", [0.5, 2, 7]),
            column("DISTMU", [1, 1, 1]),
            ORDERING="NUNIQ",
            COORDSYS="C",
        )
        found = read_region(data, "x")
        assert found.densities.tolist() == [7, 2, 0.5]
        first = [5, 3 * 4**28, 700 * 4**26]
        assert found.ranges.tolist() == [
            [start, start + size] for start, size in zip(first, [1, 4**28, 4**26], strict=True)
        ]


EVEN = column("T", np.ones(768))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no area, or no density anywhere"),
        (b"3/", "no area"),
        (b'{"3": []}', "no area"),
        (b"3/1-", "'1-' where a MOC has orders and pixels"),
        (b"1 2 3", "'1' where a MOC has orders"),
        (b"t61/1 3/2", "'t61/' where a MOC has orders"),
        (b"3/768", "pixels that their order doesn't have"),
        (b"3/5-4", "pixels that their order doesn't have"),
        (b"30/1", "orders of 30 to 30, not 0 to 29"),
        (b"29/99999999999999999999", "too large|too big"),
        (b'{"3": 5}', "not iterable"),
        (b'{"3": [1, ', "Expecting value"),
        (b"\x89PNG\r\n", "can't decode byte"),
        (table(EVEN, **MAP | {"COORDSYS": "G"}, ORDERING="RING"), "the frame COORDSYS = G; turn"),
        (table(EVEN, NSIDE=8, ORDERING="RING"), "the frame COORDSYS = NONE; turn it to ICRS"),
        (table(EVEN, **MAP), "ORDERING = none and NSIDE = 8"),
        (table(EVEN, **MAP | {"NSIDE": 7}, ORDERING="RING"), "NSIDE = 7; make it"),
        (table(EVEN, **MAP | {"NSIDE": 2**20}, ORDERING="RING"), "768 values, not one for each"),
        (table(column("T", -np.ones(768)), **MAP, ORDERING="RING"), "densities from -1 to -1"),
        (table(column("T", np.full(768, np.inf)), **MAP, ORDERING="RING"), "not finite numbers"),
        (table(column("T", np.zeros(768)), **MAP, ORDERING="RING"), "no density anywhere"),
        (
            table(column("P", [0, 768], "J"), column("T", [1, 1]), **MAP, ORDERING="RING",
                  INDXSCHM="EXPLICIT"),
            "pixels that NSIDE = 8 doesn't have",
        ),
        (
            table(column("P", [7, 7], "J"), column("T", [1, 2]), **MAP, ORDERING="NESTED",
                  INDXSCHM="EXPLICIT"),
            "pixels that overlap, with other densities",
        ),
        (table(column("UNIQ", [3], "K"), ORDERING="NUNIQ"), "none of NUNIQ's"),
        (table(column("RANGE", [1, 2, 3], "K"), ORDERING="RANGE"), "cannot reshape"),
        (table(column("RANGE", [1, 2], "K"), ORDERING="RANGE", MOCDIM="TIME"), "a MOC of TIME"),
        (table(EVEN, **MAP, ORDERING="RING")[:5000], "."),
        (fits.PrimaryHDU(np.ones((2, 2))), "FITS without a table"),
        (cone(1, 2, 3600).write()[:-1], "."),
        (cone(1, 2, 3600).write()[:-24], "an array that is no region's"),
    ],
)  # fmt: skip
def test_what_is_refused(data, message):
    if isinstance(data, fits.PrimaryHDU):
        sink = io.BytesIO()
        data.writeto(sink)
        data = sink.getvalue()
    with pytest.raises(InputError, match=message) as raised:
        read_region(data, "s3://bucket/region")
    assert "wanted a region of the sky in ICRS: a MOC" in str(raised.value)
    assert "got s3://bucket/region: " in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        table(column("T", np.arange(48.0)), **MAP | {"NSIDE": 2}, ORDERING="RING"),
        table(column("UNIQ", np.arange(20) + 16, "K"), ORDERING="NUNIQ"),
        gzip.compress(table(column("RANGE", np.arange(20), "K"), ORDERING="RANGE")),
        read_region(b"3/1 3 7/1", "x").write(),
        b'{"3":[1,2,3],"5":[]}',
    ],
    ids=["map", "nuniq", "range", "stored", "json"],
)
def test_broken_files_are_refused_or_read(data):
    """Cut and changed anywhere: nothing but InputError comes of it."""
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for at in generator.integers(0, len(data), 8):
            broken[at] = generator.choice(list(b" 0123456789=',-EKD/\xff"))
        for some in (broken, data[: generator.integers(len(data))]):
            try:
                read_region(bytes(some), "x")
            except InputError:
                refused += 1
    assert refused > 100


def test_too_many_ranges(monkeypatch):
    monkeypatch.setattr(regions, "MOST_RANGES", 2)
    assert len(read_region(b"3/1 3", "x").ranges) == 2
    with pytest.raises(InputError, match="3 ranges of pixels, above 2; degrade it"):
        read_region(b"3/1 3 5", "x")


class TestWrite:
    @pytest.fixture
    def uneven(self) -> Region:
        data = table(column("T", np.arange(768.0) % 7), **MAP, ORDERING="NESTED")
        return read_region(data, "x")

    def test_and_back(self, uneven):
        for region in (uneven, cone(10, 89, 5000)):
            found = read_region(region.write(), "region.npy")
            np.testing.assert_array_equal(found.ranges, region.ranges)
            np.testing.assert_array_equal(found.densities, region.densities)
            assert found.write() == region.write()

    def test_numpy_reads_it(self, uneven):
        found = np.load(io.BytesIO(uneven.write()), allow_pickle=False)
        np.testing.assert_array_equal(found["start"], uneven.ranges[:, 0])
        np.testing.assert_array_equal(found["stop"], uneven.ranges[:, 1])
        np.testing.assert_array_equal(found["density"], uneven.densities)

    def test_the_same_region_is_the_same_bytes(self):
        one = read_region(b"3/0-3", "x").write()
        assert one == read_region(b"2/0", "x").write()
        assert one == read_region(json.dumps({"3": [3, 2, 1, 0]}).encode(), "x").write()
        assert (
            one[-24:].hex() == (bytes(8) + (4**27).to_bytes(8, "little")).hex() + "000000000000f03f"
        )
        assert len(one) == 128 + 24
