"""Types; that values survive is tested where they are read back, in tests/io/test_export.py."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from avader.catalogue import records


@pytest.mark.parametrize(
    ("type_", "plain"),
    [
        (pa.uint32(), pa.int64()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.date64(), pa.string()),
        (pa.list_(pa.float16(), 4), pa.list_(pa.float32(), 4)),
        (pa.binary(), None),
        (pa.list_(pa.float32()), None),
        (pa.list_(pa.float32(), 0), None),
        (pa.list_(pa.string(), 2), None),
        (pa.list_(pa.uint64(), 2), None),
        (pa.struct([("a", pa.int8())]), None),
        (pa.decimal128(10, 2), None),
        (pa.null(), None),
        (pa.fixed_shape_tensor(pa.uint8(), (2, 2)), None),
        (pa.duration("s"), None),
    ],
)
def test_types(type_, plain):
    assert records.plain_type(type_) == plain


def test_times_are_in_utc():
    moment = dt.datetime(2020, 7, 1, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    table = pa.table({"t": pa.array([moment, None], pa.timestamp("s", tz="Europe/Berlin"))})
    assert records.plain(table)["t"].to_pylist() == ["2020-06-30T23:30:00", None]


def test_uint64_is_text_only_where_it_must_be():
    table = pa.table({"a": pa.array([2**63 - 1], pa.uint64()), "b": pa.array([2**63], pa.uint64())})
    settled, _ = records.settled(table)
    assert settled["a"].to_pylist() == [2**63 - 1]
    assert settled["b"].to_pylist() == [str(2**63)]


def test_the_integer_for_null_is_free():
    least = -(2**63)
    table = pa.table(
        {
            "long": pa.array([least, None, least + 1], pa.int64()),
            "byte": pa.array([0, None, 255], pa.uint8()),
            "whole": pa.array([1, 2, 3], pa.int32()),
        }
    )
    settled, _ = records.settled(table)
    layouts = {name: records.layout(name, settled[name]) for name in settled.column_names}
    assert layouts["long"].null == least + 2
    assert (layouts["byte"].dtype, layouts["byte"].null) == (">i2", -(2**15))
    assert layouts["whole"].null is None


@pytest.mark.parametrize("values", [[[1, 2], None], [[1, None], [3, 4]]])
def test_vectors_of_integers_with_nulls_are_left_out(values):
    table = pa.table({"v": pa.array(values, pa.list_(pa.int32(), 2)), "x": [1, 2]})
    settled, left_out = records.settled(table)
    assert settled.column_names == ["x"]
    assert left_out == {"v": "nulls within vectors of integers or booleans"}


def test_records_are_packed_and_big_endian():
    """VOTable's BINARY2 by hand: flags, long, text padded with NUL, two floats."""
    table = pa.table(
        {
            "n": pa.array([258, None], pa.int64()),
            "s": ["ab", "c"],
            "v": pa.array([[1.0, None], None], pa.list_(pa.float32(), 2)),
        }
    )
    layouts = [records.layout(name, table[name]) for name in table.column_names]
    made = records.records(table.to_batches()[0], layouts, flags=True).tobytes()
    one, nan = b"\x3f\x80\x00\x00", np.array(np.nan, ">f4").tobytes()
    assert made == (
        b"\x00" + bytes(6) + b"\x01\x02" + b"ab" + one + nan
        + b"\xa0" + b"\x80" + bytes(7) + b"c\x00" + nan + nan
    )  # fmt: skip
    plain = records.records(table.to_batches()[0], layouts, flags=False).tobytes()
    assert plain == made[1:19] + made[20:]
