"""Columns of any Arrow type as the plain ones that FITS and VOTable have, and as their records.

Both formats hold a table as records of fixed size, big-endian, and differ in their headers alone.
Plain types: boolean, unsigned byte, integers of 16, 32, 64 bits, floats of 32 and 64 bits, text,
and vectors of those numbers and booleans, of one length. Every value survives exactly.

Legend: N rows, L elements of a vector or characters of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Types that FITS and VOTable lack, and the smallest plain one that holds all their values.
_WIDER = {
    pa.int8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
}
_PLAIN = {
    pa.bool_(): ("boolean", "L", "S1"),
    pa.uint8(): ("unsignedByte", "B", "u1"),
    pa.int16(): ("short", "I", ">i2"),
    pa.int32(): ("int", "J", ">i4"),
    pa.int64(): ("long", "K", ">i8"),
    pa.float32(): ("float", "E", ">f4"),
    pa.float64(): ("double", "D", ">f8"),
}
# With nulls, a type that has values to spare for "null".
_SPARE = {
    pa.bool_(): pa.int16(),
    pa.uint8(): pa.int16(),
    pa.int16(): pa.int32(),
    pa.int32(): pa.int64(),
}


def plain_type(type_: pa.DataType) -> pa.DataType | None:
    """The type in which a column is exported, or None where there is none.

    Dates and times become ISO 8601 text, in UTC where they have a time zone; dictionaries become
    their values. uint64 stays itself until `settled` has seen the values.
    """
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pa.types.is_fixed_size_list(type_):
        value = plain_type(type_.value_type)
        return pa.list_(value, type_.list_size) if value in _PLAIN and type_.list_size else None
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return pa.string()
    wider = _WIDER.get(type_, type_)
    return wider if wider in (*_PLAIN, pa.string(), pa.uint64()) else None


def declared_type(type_: pa.DataType) -> tuple[str, str]:
    """VOTable's datatype and arraysize for a column whose values are not looked at.

    Text is of any length; what has no plain type counts as text, as VOTable in Parquet has it.
    """
    found = plain_type(type_)
    if found is None or pa.types.is_string(found):
        return "char", "*"
    if pa.types.is_fixed_size_list(found):
        return _PLAIN[found.value_type][0], str(found.list_size)
    return _PLAIN[pa.int64() if found == pa.uint64() else found][0], ""


def plain(table: pa.Table) -> pa.Table:
    """The table with every column in its plain type; all columns must have one."""
    return pa.table({name: _plain_column(table[name]) for name in table.column_names})


def settled(table: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """A plain table with the types that its values allow; and the columns left out, with why.

    uint64 becomes int64, or text where a value is too large. Booleans and small integers with
    nulls become the next wider integers, so that a value is free for null.
    """
    kept, left_out = {}, {}
    for name in table.column_names:
        column = _settled_column(table[name])
        if column is None:
            left_out[name] = "nulls within vectors of integers or booleans"
        else:
            kept[name] = column
    return pa.table(kept), left_out


@dataclass(frozen=True)
class Layout:
    """How records hold a column.

    datatype: VOTable's; letter: FITS's; dtype: numpy's, of one element, or of the whole text;
    length: L, or None for a number alone; null: the integer that stands for null, if any does.
    """

    name: str
    datatype: str
    letter: str
    dtype: str
    length: int | None = None
    null: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether the column holds text."""
        return self.letter == "A"


def layout(name: str, column: pa.ChunkedArray) -> Layout:
    """The layout of a settled column. Text is as wide as its longest value, at least 1."""
    kind = column.type
    if pa.types.is_string(kind):
        if is_ascii(column):
            width = max(1, pc.max(pc.binary_length(column)).as_py() or 0)
            return Layout(name, "char", "A", f"S{width}", width)
        # In units of UTF-16, of which a character outside the basic plane takes two.
        width = max(len(_utf16(text)) // 2 for text in column.to_pylist())
        return Layout(name, "unicodeChar", "A", f"S{2 * width}", width)
    if pa.types.is_fixed_size_list(kind):
        return Layout(name, *_PLAIN[kind.value_type], kind.list_size)
    null = _free_integer(column) if pa.types.is_integer(kind) and column.null_count else None
    return Layout(name, *_PLAIN[kind], null=null)


def is_ascii(column: pa.ChunkedArray) -> bool:
    """Whether a column of text has no character beyond ASCII; of no text too."""
    return pc.all(pc.string_is_ascii(column)).as_py() is not False


def records(batch: pa.RecordBatch, layouts: Sequence[Layout], *, flags: bool) -> NDArray[np.void]:
    """The batch as N records without padding; flags: with VOTable's null flags before each.

    Nulls are NaN in floats, empty in text, the layout's integer in integers.
    """
    flag_bytes = -(-len(layouts) // 8)
    fields: list[tuple[str, str, tuple[int, ...]]] = [("flags", "u1", (flag_bytes,))]
    for number, one in enumerate(layouts):
        shape = () if one.is_text or one.length is None else (one.length,)
        fields.append((f"f{number}", one.dtype, shape))
    made = np.empty(batch.num_rows, fields if flags else fields[1:])
    if flags:
        nulls = [column.is_null().to_numpy(zero_copy_only=False) for column in batch.columns]
        made["flags"] = np.packbits(np.stack(nulls, axis=1), axis=1)
    for number, one in enumerate(layouts):
        made[f"f{number}"] = _values(batch.column(number), one)
    return made


def matrix(column: pa.Array) -> np.ndarray:
    """A fixed-size list column as (N, L); floats have NaN for nulls, in rows and within them."""
    length = column.type.list_size
    flat = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
    if not column.null_count:
        return flat
    full = np.full((len(column), length), np.nan, flat.dtype)
    full[column.is_valid().to_numpy(zero_copy_only=False)] = flat
    return full


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return _plain_column(column.cast(column.type.value_type))
    if pa.types.is_timestamp(column.type):
        text = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return pc.replace_substring(text, " ", "T")
    wanted = plain_type(column.type)
    return column if column.type == wanted else column.cast(wanted)


def _settled_column(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    kind = column.type
    if kind == pa.uint64():
        greatest = pc.max(column).as_py() or 0
        return column.cast(pa.int64() if greatest < 2**63 else pa.string())
    if pa.types.is_fixed_size_list(kind):
        whole = pa.types.is_floating(kind.value_type) or not (
            column.null_count or any(chunk.flatten().null_count for chunk in column.chunks)
        )
        return column if whole else None
    return column.cast(_SPARE[kind]) if column.null_count and kind in _SPARE else column


def _free_integer(column: pa.ChunkedArray) -> int:
    """The least integer of the column's type that no row has."""
    free = int(np.iinfo(column.type.to_pandas_dtype()).min)
    while pc.index(column, pa.scalar(free, column.type)).as_py() >= 0:
        free += 1
    return free


def _values(column: pa.Array, one: Layout) -> np.ndarray:
    """(N,) or (N, L) values as records hold them."""
    if one.is_text:
        encode = _utf16 if one.datatype == "unicodeChar" else str.encode
        return np.array([encode(text or "") for text in column.to_pylist()], one.dtype)
    if pa.types.is_fixed_size_list(column.type):
        values = matrix(column)
    else:
        filled = column if one.null is None else column.fill_null(one.null)
        values = filled.to_numpy(zero_copy_only=False)
    return np.where(values, b"T", b"F") if one.letter == "L" else values


def _utf16(text: str | None) -> bytes:
    return (text or "").encode("utf-16-be")
