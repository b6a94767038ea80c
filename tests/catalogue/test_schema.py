from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io.votable.ucd import parse_ucd
from astropy.units import Unit
from hypothesis import given, settings
from hypothesis import strategies as st

from avader.catalogue import schema
from avader.catalogue.columns import COLUMNS, FLAG_MEANINGS, Flag, column_table, flag_table
from avader.catalogue.pixels import healpix_29, position_problem

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_tables_are_printed_from_the_schema():
    text = README.read_text()
    for columns in COLUMNS.values():
        assert column_table(columns) in text
    assert flag_table() in text


def test_units_and_ucds_are_the_field_s_own():
    for column in (column for columns in COLUMNS.values() for column in columns):
        Unit(column.unit, format="vounit")
        # The IVOA's own list of words, and which of them may come first.
        parse_ucd(column.ucd, check_controlled_vocabulary=True)


def test_every_flag_has_a_bit_of_its_own_and_a_meaning():
    assert [flag.value for flag in Flag] == [1, 2, 4, 8]
    assert set(FLAG_MEANINGS) == set(Flag)


def test_positions_and_carried_columns():
    plain = schema.classified_schema(latent=2, components=3, positions=False)
    assert "ra" not in plain.names
    carried = [pa.field("votes", pa.float64())]
    full = schema.classified_schema(latent=2, components=3, positions=True, carried=carried)
    assert full.names[-1] == "votes"
    assert full.field("probability").type == pa.list_(pa.float32(), 3)
    assert schema.carried_fields(full) == carried


@settings(deadline=None)  # its first example imports astropy.coordinates
@given(st.lists(st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90)), max_size=20))
def test_healpix_agrees_with_astropy_geometry(positions):
    """The centre of the pixel found is within a pixel's size (0.4 milliarcseconds) of it."""
    from cdshealpix.nested import healpix_to_skycoord

    ra = np.array([p[0] for p in positions], float)
    dec = np.array([p[1] for p in positions], float)
    found = healpix_29(ra, dec)
    assert found.dtype == np.int64
    if not positions:
        return
    assert (found >= 0).all()
    assert (found < 12 * 4**29).all()
    from astropy.coordinates import SkyCoord

    apart = healpix_to_skycoord(found, 29).separation(SkyCoord(ra, dec, unit="deg"))
    assert (apart.arcsec < 1e-3).all()


@pytest.mark.parametrize(
    ("ra", "dec", "good"),
    [(0, 0, True), (359.9, -90, True), (None, 1, False), (float("nan"), 1, False), (1, 91, False),
     (1e4, 0, False)],
)  # fmt: skip
def test_positions_are_checked(ra, dec, good):
    assert (position_problem(ra, dec) is None) is good
