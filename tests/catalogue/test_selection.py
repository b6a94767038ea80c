import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy.units import Unit
from hypothesis import example, given
from hypothesis import strategies as st

from avader.catalogue.selection import Cone, Selection
from tests.catalogues import classified

DEG, ARCSEC = Unit("deg"), Unit("arcsec")
right_ascensions = st.floats(0, 360, exclude_max=True)
declinations = st.floats(-90, 90)


def apart(cone, ra, dec):
    """Separations from the cone's centre, arcsec, by astropy."""
    centre = SkyCoord(cone.ra, cone.dec, unit="deg")
    return centre.separation(SkyCoord(ra, dec, unit="deg")).arcsec


def chord(cone, ra, dec):
    """The same by the chord between unit vectors, which needs no formula of the sphere."""

    def vector(ra, dec):
        ra, dec = np.radians(ra), np.radians(dec)
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])

    length = np.linalg.norm(vector(ra, dec) - vector(cone.ra, cone.dec)[:, None], axis=0)
    return np.degrees(2 * np.arcsin(np.minimum(length / 2, 1))) * 3600


def around(cone, seed=0, count=400):
    """Positions about a cone, at up to twice its radius, in every direction."""
    generator = np.random.default_rng(seed)
    centre = SkyCoord(cone.ra, cone.dec, unit="deg")
    places = centre.directional_offset_by(
        generator.uniform(0, 360, count) * DEG,
        np.minimum(generator.uniform(0, 2, count) * cone.radius, 180 * 3600) * ARCSEC,
    )
    return places.ra.deg, places.dec.deg


@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [
        (185.0, 15.8, 60.0),
        (0.001, -3.0, 30.0),  # over the wrap, from above
        (359.9999, 40.0, 3.0),  # and from below
        (-0.5, 10.0, 7200.0),
        (77.0, 90.0, 500.0),
        (77.0, -90.0, 500.0),
        (200.0, 89.95, 600.0),  # the pole inside, not at the centre
        (10.0, -89.9, 359.0),  # the pole just outside
        (120.0, 30.0, 400_000.0),  # more than a hemisphere
    ],
)
def test_a_cone_holds_what_astropy_says_it_does(ra, dec, radius):
    cone = Cone(ra, dec, radius)
    ras, decs = around(cone)
    held = cone.holds(ras, decs)
    np.testing.assert_array_equal(held, apart(cone, ras, decs) <= radius)
    distances = chord(cone, ras, decs)
    clear = np.abs(distances - radius) > 1e-3
    np.testing.assert_array_equal(held[clear], distances[clear] <= radius)
    assert 0 < held.sum() < len(held)
    assert cone.may_hold((ras[held].min(), ras[held].max()), (decs[held].min(), decs[held].max()))
    for one_ra, one_dec in zip(ras[held], decs[held], strict=True):
        assert cone.may_hold((one_ra, one_ra), (one_dec, one_dec))


@given(right_ascensions, declinations, st.floats(1e-3, 3e5), st.floats(0, 1), st.floats(0, 360))
@example(0.0, 89.9999, 0.36, 1.0, 90.0)
def test_a_box_with_a_position_in_the_cone_is_never_passed_over(ra, dec, radius, share, angle):
    cone = Cone(ra, dec, radius)
    centre = SkyCoord(ra, dec, unit="deg")
    place = centre.directional_offset_by(angle * DEG, share * radius * ARCSEC)
    for turn in (-360, 0, 360):  # right ascension may be stored as -1
        at = place.ra.deg + turn
        assert cone.may_hold((at, at), (place.dec.deg, place.dec.deg))


@pytest.mark.parametrize(
    ("cone", "ra", "dec", "may"),
    [
        (Cone(185, 15, 3600), (180, 183.9), (10, 20), False),
        (Cone(185, 15, 3600), (180, 184.0), (10, 20), True),
        (Cone(185, 15, 3600), (186.1, 190), (10, 20), False),
        (Cone(185, 15, 3600), (0, 360), (16.1, 20), False),
        (Cone(185, 15, 3600), (0, 360), (-20, 13.9), False),
        (Cone(0.5, 0, 3600), (359.6, 359.9), (-1, 1), True),
        (Cone(0.5, 0, 3600), (358.0, 359.4), (-1, 1), False),
        (Cone(359.5, 0, 3600), (0.1, 0.4), (-1, 1), True),
        (Cone(359.5, 0, 3600), (-0.9, -0.1), (-1, 1), True),
        (Cone(359.5, 0, 3600), (0.6, 10), (-1, 1), False),
        (Cone(10, 60, 3600), (12.1, 13), (59, 61), False),
        (Cone(10, 60, 3600), (11.9, 13), (59, 61), True),
        (Cone(10, 89.5, 3600), (190, 191), (89, 90), True),
    ],
)
def test_boxes_out_of_reach_are_passed_over(cone, ra, dec, may):
    assert cone.may_hold(ra, dec) is may


def test_all_that_is_asked_must_hold():
    table = classified(500, seed=1)
    ids = [f"{10**17 + number}" for number in range(0, 500, 2)]
    selection = Selection(
        "object_id",
        ids=pa.array(sorted(ids)),
        cone=Cone(180, 0, 300_000),
        components=(1, 3),
        min_probability=0.6,
    )
    assert selection.columns == ("object_id", "ra", "dec", "component", "probability")
    frame = table.to_pandas()
    own = [row[number] for row, number in zip(frame.probability, frame.component, strict=True)]
    expected = (
        frame.object_id.isin(ids)
        & (apart(selection.cone, frame.ra, frame.dec) <= 300_000)
        & frame.component.isin([1, 3])
        & (np.array(own) >= np.float32(0.6))
    )
    assert 10 < expected.sum() < 200
    np.testing.assert_array_equal(selection.mask(table), expected)
    assert selection.mask(table.slice(0, 0)).shape == (0,)
    assert Selection("object_id").mask(table).all()
    assert Selection("object_id").columns == ()


def test_the_probability_is_that_of_the_row_s_own_component_as_it_is_stored():
    kind = pa.list_(pa.float32(), 2)
    table = pa.table(
        {
            "component": pa.array([0, 1, 0], pa.int16()),
            "probability": pa.array([[0.7, 0.3], [0.3, 0.7], [0.69999, 0.30001]], kind),
        }
    )
    assert float(np.float32(0.7)) < 0.7
    mask = Selection("object_id", min_probability=0.7).mask(table)
    assert mask.tolist() == [True, True, False]


def test_statistics_of_ids_and_components():
    selection = Selection("object_id", ids=pa.array(["b", "m", "é"]), components=(0, 5))
    assert selection.may_hold({})
    assert selection.may_hold({"object_id": ("a", "c"), "component": (4, 6)})
    assert selection.may_hold({"object_id": ("m", "m")})
    assert selection.may_hold({"object_id": ("z", "ü")})
    assert not selection.may_hold({"object_id": ("c", "l")})
    assert not selection.may_hold({"object_id": ("ë", "ü")})
    assert not selection.may_hold({"object_id": ("a", "c"), "component": (1, 4)})
    numbers = Selection("index", ids=pa.array([3, 10**18 + 1]))
    assert numbers.may_hold({"index": (10**18, 10**18 + 1)})
    assert not numbers.may_hold({"index": (4, 10**18)})


def test_it_says_itself_in_words():
    cone = Cone(185.25, -2, 30)
    selection = Selection(
        "object_id", pa.array(["a", "b"]), cone=cone, components=(2, 3), min_probability=0.8
    )
    assert str(selection) == (
        "2 ids; within 30 arcsec of RA 185.25, Dec -2 deg; component 2, 3; probability of the "
        "component at least 0.8"
    )
    assert str(Selection("object_id")) == "all rows"
