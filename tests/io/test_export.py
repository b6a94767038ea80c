"""What is written is read back by astropy and pandas, whose readers are not ours."""

import datetime as dt
import io
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.io.votable import parse, validate
from astropy.table import Table

from avader.catalogue import records
from avader.catalogue.columns import COLUMNS
from avader.errors import InputError
from avader.io import export, storage
from tests.catalogues import COMPONENTS, LATENT, classified

COUNT = 50
BIG = 2**63 - 2  # an integer that float64 does not hold
CITATION = (
    "Spindler A., Geach J. E., Smith M. J., 2021, MNRAS, 502, 985, doi:10.1093/mnras/staa3670"
)


def about() -> export.About:
    return export.About(
        title="Rows of an avader catalogue (classified)",
        facts={"model": "m" * 64, "selection": "all rows", "catalogue": "s3://sky/é"},
        citation=CITATION,
        columns={column.name: column for column in COLUMNS["classified"]},
    )


def carried() -> dict[str, pa.Array]:
    """A survey's columns of every plain type, most with nulls."""
    spring = dt.datetime(2020, 3, 1, 12, 30, 15, 250_000, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    def some(values, type_):
        made = [None if number % 7 == 3 else values(number) for number in range(COUNT)]
        return pa.array(made, type_)

    return {
        "objid": some(lambda n: BIG - n, pa.int64()),
        "least": some(lambda n: -(2**63) + n, pa.int64()),
        "unsigned": some(lambda n: 2**64 - 1 - n, pa.uint64()),
        "small_unsigned": some(lambda n: n, pa.uint64()),
        "byte": some(lambda n: n * 5, pa.uint8()),
        "signed_byte": some(lambda n: n - 25, pa.int8()),
        "whole_byte": pa.array(range(COUNT), pa.uint8()),
        "short": some(lambda n: -(2**15) + n, pa.int16()),
        "word": some(lambda n: 2**32 - 1 - n, pa.uint32()),
        "number": some(lambda n: n / 3, pa.float64()),
        "half": some(lambda n: n / 4, pa.float16()),
        "is_star": some(lambda n: n % 2 == 0, pa.bool_()),
        "seen": pa.array([number % 2 == 0 for number in range(COUNT)]),
        "note": some(lambda n: ["a,b", 'say "so"', "", "x" * n][n % 4], pa.string()),
        "survey": some(lambda n: ["sdss", "ls"][n % 2], pa.string()).dictionary_encode(),
        "when": some(lambda n: spring, pa.timestamp("ms", tz="UTC")),
        "day": some(lambda n: spring.date(), pa.date32()),
        "colours": some(lambda n: [n, None, n / 3], pa.list_(pa.float64(), 3)),
        "counts": pa.array([[n, -n] for n in range(COUNT)], pa.list_(pa.int64(), 2)),
        "bits": pa.array([[n % 2 == 0, True] for n in range(COUNT)], pa.list_(pa.bool_(), 2)),
    }


def settled(table: pa.Table) -> pa.Table:
    made, left_out = records.settled(records.plain(table))
    assert left_out == {}
    return made


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Rows with all kinds of columns, in several chunks."""
    whole = classified(COUNT, **carried())
    return settled(pa.concat_tables([whole[:7], whole[7:8], whole[8:]]))


def check_column(name: str, found, column: pa.ChunkedArray) -> None:
    """A column as astropy gives it is the table's, null by null and value by value."""
    nulls = np.asarray(column.is_null())
    masked = np.ma.getmaskarray(np.ma.asarray(found))
    if pa.types.is_fixed_size_list(column.type):
        gone = [np.nan] * column.type.list_size
        rows = [gone if row is None else row for row in column.to_pylist()]
        exact = np.float64 if column.null_count else None
        values = np.array(rows, exact)
        found = np.ma.filled(np.ma.asarray(found, values.dtype), np.nan) if masked.any() else found
        np.testing.assert_array_equal(np.asarray(found), values.astype(found.dtype), err_msg=name)
        return
    plain = np.ma.getdata(found)
    if pa.types.is_floating(column.type):
        masked |= np.isnan(plain)
    elif pa.types.is_string(column.type):
        plain = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in plain], object)
        empty = np.asarray(column) == ""
        nulls, masked = nulls & ~empty, masked & ~empty  # FITS knows no difference
        masked |= plain == ""
        nulls |= empty
        masked |= empty
    np.testing.assert_array_equal(masked, nulls, err_msg=name)
    expected = np.array(column.filter(pa.array(~nulls)).to_pylist())
    np.testing.assert_array_equal(plain[~nulls], expected.astype(plain.dtype), err_msg=name)


def check_table(found: Table, table: pa.Table) -> None:
    assert found.colnames == table.column_names
    assert len(found) == table.num_rows
    for name in table.column_names:
        check_column(name, found[name], table[name])


def written(tmp_path, table: pa.Table, kind: export.Format) -> str:
    ending = next(ending for ending, name in export.ENDINGS.items() if name == kind)
    uri = str(tmp_path / f"rows{ending}")
    export.write(uri, table, about(), kind)
    return uri


def test_fits(tmp_path, table):
    uri = written(tmp_path, table, "fits")
    check_table(Table.read(uri), table)
    with fits.open(uri) as file:
        file.verify("exception")
        header, columns = file[1].header, file[1].columns
        formats = dict(zip(columns.names, columns.formats, strict=True))
        units = dict(zip(columns.names, columns.units, strict=True))
        assert file[1].data["objid"].dtype.kind == "i"
        number = columns.names.index("ra") + 1
        assert header[f"TUCD{number}"] == "pos.eq.ra;meta.main"
        assert header[f"TCOMM{number}"] == "right ascension, ICRS"
        assert header[f"TCOMM{columns.names.index('objid') + 1}"].startswith("carried from")
        assert f"TUCD{columns.names.index('objid') + 1}" not in header
        history = "\n".join(header["HISTORY"])
        assert "selection: all rows" in history
        assert "m" * 63 in history.replace("\n", "")
        assert CITATION in " ".join(header["COMMENT"])
    assert formats["probability"] == f"{COMPONENTS}E"
    assert formats["latent_mean"] == f"{LATENT}E"
    assert formats["counts"] == "2K"
    assert formats["object_id"] == "18A"
    assert units["ra"] == units["dec"] == "deg"
    assert tmp_path.joinpath("rows.fits").stat().st_size % 2880 == 0


def test_votable(tmp_path, table):
    uri = written(tmp_path, table, "votable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = parse(uri, verify="exception")
        report = io.StringIO()
        assert validate(uri, output=report), report.getvalue()
    first = file.get_first_table()
    check_table(first.to_table(use_names_over_ids=True), table)
    fields = {field.name: field for field in first.fields}
    assert fields["probability"].arraysize == str(COMPONENTS)
    assert fields["probability"].datatype == "float"
    assert fields["object_id"].datatype == "char"
    assert fields["objid"].datatype == "long"
    assert str(fields["ra"].unit) == "deg"
    assert fields["ra"].ucd == "pos.eq.ra;meta.main"
    assert fields["entropy"].description == "entropy of `probability`, nats"
    assert CITATION in " ".join(str(first.description).split())  # astropy wraps lines
    infos = {info.name: info.value for info in file.resources[0].infos}
    assert infos == {**about().facts, "citation": CITATION}


def test_votable_holds_text_beyond_ascii_and_names_that_are_no_identifiers(tmp_path):
    names = ["é", "x😀", None, "", "plain"]
    table = pa.table({"naïve name": names, "2": pa.array([1, -5, None, 4, 5])})
    uri = written(tmp_path, table, "votable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = parse(uri, verify="exception").get_first_table()
    assert first.fields[0].datatype == "unicodeChar"
    assert [field.ID for field in first.fields] == ["na_ve_name", "_2"]
    found = first.to_table(use_names_over_ids=True)
    assert list(found["naïve name"]) == ["é", "x😀", "", "", "plain"]
    assert found["2"].mask.tolist() == [False, False, True, False, False]
    assert found["2"].compressed().tolist() == [1, -5, 4, 5]


def test_csv(tmp_path, table):
    uri = written(tmp_path, table, "csv")
    first = (tmp_path / "rows.csv").read_text().splitlines()[0]
    assert first.startswith('"object_id","ra","dec","_healpix_29","component","probability_0",')
    names = pd.read_csv(uri, nrows=0).columns
    frame = pd.read_csv(
        uri,
        dtype={"object_id": str, "note": str, "unsigned": str, "objid": "Int64", "least": "Int64"},
        keep_default_na=False,
        na_values={name: [""] for name in names if name not in ("note", "object_id")},
    )
    assert len(frame) == COUNT
    for name in table.column_names:
        if pa.types.is_fixed_size_list(table[name].type):
            length = table[name].type.list_size
            columns = frame[[f"{name}_{element}" for element in range(length)]]
            rows = table[name].to_pylist()
            values = np.array([[np.nan] * length if row is None else row for row in rows], float)
            kind = table[name].type.value_type.to_pandas_dtype()
            found = columns.to_numpy(float).astype(kind)
            np.testing.assert_array_equal(found, values.astype(kind), err_msg=name)
        else:
            expected = table[name].to_pandas()
            found = frame[name]
            gone = expected.isna() & (name != "note")
            assert found.isna().equals(gone), name
            if pa.types.is_integer(table[name].type):
                kept = [value for value in table[name].to_pylist() if value is not None]
                assert [int(value) for value in found[~gone]] == kept, name
            elif pa.types.is_floating(table[name].type):
                np.testing.assert_array_equal(found.astype(expected.dtype), expected, err_msg=name)
            else:
                assert found.fillna("").tolist() == expected.fillna("").tolist(), name
    text = (tmp_path / "rows.csv.txt").read_text()
    assert CITATION in text
    assert "ra | deg | pos.eq.ra;meta.main | right ascension, ICRS" in text
    assert "probability_0 .. probability_3 | - | stat.probability | posterior of every" in text


@pytest.mark.parametrize("kind", export.FORMATS)
def test_no_rows(tmp_path, table, kind):
    empty = settled(classified(COUNT, **carried()))[:0]
    uri = written(tmp_path, empty, kind)
    if kind == "csv":
        frame = pd.read_csv(uri)
        assert len(frame) == 0
        assert {"object_id", "probability_3"} <= set(frame.columns)
        return
    found = Table.read(uri)
    assert len(found) == 0
    assert found.colnames == empty.column_names
    assert found["probability"].shape == (0, COMPONENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if kind == "votable":
            parse(uri, verify="exception")
        else:
            with fits.open(uri) as file:
                file.verify("exception")


@pytest.mark.parametrize("kind", export.FORMATS)
def test_the_same_rows_give_the_same_bytes_and_replace_what_was_there(
    tmp_path, table, kind, monkeypatch
):
    first = storage.read_bytes(written(tmp_path, table, kind))
    assert storage.read_bytes(written(tmp_path, table.combine_chunks(), kind)) == first
    monkeypatch.setattr(export, "BATCH_ROWS", 11)
    assert storage.read_bytes(written(tmp_path, table, kind)) == first


@pytest.mark.parametrize("kind", export.FORMATS)
def test_what_cannot_be_finished_leaves_the_old_file(tmp_path, table, kind, monkeypatch):
    uri = written(tmp_path, table, kind)
    before = storage.read_bytes(uri)
    encode, calls = records.matrix, []

    def failing(column):
        calls.append(column)
        if len(calls) > 20:
            raise MemoryError
        return encode(column)

    monkeypatch.setattr(records, "matrix", failing)
    monkeypatch.setattr(export, "BATCH_ROWS", 5)
    with pytest.raises(MemoryError):
        written(tmp_path, table, kind)
    assert storage.read_bytes(uri) == before
    assert {path.name for path in tmp_path.iterdir()} <= {uri.rpartition("/")[2], "rows.csv.txt"}


def test_what_fits_cannot_hold():
    table = pa.table({"ok": ["a", None], "text": ["a", "é"], "größe": [1, 2]})
    assert set(export.unfit(table, "fits")) == {"text", "größe"}
    assert export.unfit(table, "votable") == export.unfit(table, "csv") == {}
    many = pa.schema([(f"c{number}", pa.int32()) for number in range(1000)])
    with pytest.raises(InputError, match="at most 999 columns in a FITS table, got 1000"):
        export.check_names(many, "fits")
    export.check_names(many, "votable")


def test_names_that_a_csv_would_have_twice():
    fields = pa.schema([("p", pa.list_(pa.float32(), 2)), ("p_1", pa.float32())])
    with pytest.raises(InputError, match="two columns p_1, one of them a vector's element"):
        export.check_names(fields, "csv")
    export.check_names(fields, "fits")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("a.fits", "fits"),
        ("s3://b/A.FIT", "fits"),
        ("a.vot", "votable"),
        ("a.xml", "votable"),
        ("a.votable", "votable"),
        ("a.csv", "csv"),
    ],
)
def test_endings(uri, kind):
    assert export.format_of(uri) == kind
    with pytest.raises(InputError, match=r"ends with .fits, .*, got a.txt; or say .* --format"):
        export.format_of("a.txt")


def test_survey_names_that_differ_by_case_alone(tmp_path):
    table = pa.table({"ra": [1.0, 2.0], "RA": [3.0, 4.0], "a name": [5, 6]})
    for kind in ("fits", "votable"):
        found = Table.read(written(tmp_path, table, kind))
        assert [list(found[name]) for name in found.colnames] == [[1, 2], [3, 4], [5, 6]]
