import io
import warnings

import pytest
from astropy.io.votable import parse

from avader.catalogue import votable
from avader.catalogue.votable import Field

FIELDS = [
    Field("object_id", "char", "*", ucd="meta.id;meta.main", meaning="the survey's <own> id"),
    Field("ra", "double", unit="deg", ucd="pos.eq.ra;meta.main"),
    Field("probability", "float", "12"),
    Field("RA", "double"),
    Field("g-r", "float"),
    Field("g r", "float"),
    Field("g_r", "float"),
    Field("1st", "int"),
]


@pytest.fixture(scope="module")
def xml() -> bytes:
    infos = {"model": "abc", "citation": 'A & B, "C"'}
    return votable.header(FIELDS, name="sky", description="A sky.", infos=infos)


def test_a_header_is_a_valid_votable_without_data(xml):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = parse(io.BytesIO(xml), verify="exception")
    table = file.get_first_table()
    assert (len(table.array), table.name, table.description) == (0, "sky", "A sky.")
    assert [(field.name, field.datatype, field.arraysize) for field in table.fields] == [
        (field.name, field.datatype, field.arraysize or None) for field in FIELDS
    ]
    assert table.fields[0].description == "the survey's <own> id"
    assert table.fields[1].unit.to_string() == "deg"
    assert {info.name: info.value for info in file.resources[0].infos} == {
        "model": "abc",
        "citation": 'A & B, "C"',
    }


def test_identifiers_are_the_names_where_they_can_be(xml):
    fields = parse(io.BytesIO(xml)).get_first_table().fields
    assert [field.ID for field in fields] == [
        "object_id", "ra", "probability", "RA", "g-r", "g_r_2", "g_r", "_1st",
    ]  # fmt: skip


def test_data_goes_where_the_header_is_split(xml):
    head, tail = votable.split(xml)
    assert head + tail == xml
    assert head.rstrip().endswith(b"</FIELD>") or head.rstrip().endswith(b"/>")
    assert tail.startswith(b"</TABLE>")
