"""Numbers become rows: tables with the columns that schema.py declares."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from avader.catalogue.schema import reject_schema


class Reject(NamedTuple):
    """An object that was refused, and why."""

    object_id: str
    reason: str
    detail: str


def vectors(values: np.ndarray, type_: pa.DataType) -> pa.Array:
    """Rows (N, L) as a fixed-size list array of that type."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type_.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type_.list_size).cast(type_)


def images(pixels: np.ndarray, type_: pa.DataType) -> pa.Array:
    """Pixels (N, C, H, W) as a fixed-shape tensor array of that type."""
    flat = pa.array(np.ascontiguousarray(pixels).reshape(-1), type_.storage_type.value_type)
    storage = pa.FixedSizeListArray.from_arrays(flat, type_.storage_type.list_size)
    return pa.ExtensionArray.from_storage(type_, storage.cast(type_.storage_type))


def pixels(column: pa.ChunkedArray) -> np.ndarray:
    """Pixels (N, C, H, W) of a fixed-shape tensor column; of N = 0 too."""
    return flat_values(column).reshape(-1, *column.type.shape)


def flat_values(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a fixed-size list or tensor column, one after another."""
    chunks = [_storage(chunk).flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]
    empty = np.zeros(0, column.type.value_type.to_pandas_dtype())
    return np.concatenate([empty, *chunks])


def values(column: pa.ChunkedArray) -> np.ndarray:
    """A column of scalars as (N,), of fixed-size lists as (N, L)."""
    if pa.types.is_fixed_size_list(column.type):
        return flat_values(column).reshape(-1, column.type.list_size)
    return column.to_numpy()


def image_shape(field: pa.Field) -> tuple[int, ...]:
    """(C, H, W) of an image column: of the tensor type, or from the field's metadata."""
    if isinstance(field.type, pa.FixedShapeTensorType):
        return tuple(field.type.shape)
    return tuple(json.loads(field.metadata[b"shape"]))


def table(
    schema: pa.Schema, columns: Mapping[str, np.ndarray | pa.Array | pa.ChunkedArray]
) -> pa.Table:
    """A table of this schema; vectors and tensors are given as plain numpy arrays."""
    return pa.Table.from_arrays(
        [_array(columns[field.name], field.type) for field in schema], schema=schema
    )


def reject_table(rejects: Sequence[Reject], unit: str) -> pa.Table:
    """The rejects of a unit, in the order given."""
    return pa.Table.from_pylist(
        [{**reject._asdict(), "unit": unit} for reject in rejects], schema=reject_schema()
    )


def count_by(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, by value."""
    names, counts = np.unique(np.array(list(values), dtype=object), return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array.type, pa.FixedShapeTensorType) else array


def _array(values: np.ndarray | pa.Array | pa.ChunkedArray, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(type_) if values.type != type_ else values
    if isinstance(type_, pa.FixedShapeTensorType):
        return images(values, type_)
    if pa.types.is_fixed_size_list(type_):
        return vectors(values, type_)
    return pa.array(values, type_)
