"""A unit's two objects: its rows, by default parts/<unit>.parquet, then rejects/<unit>.parquet.

The rejects, with the unit's receipt in their footer, are written last: where they exist, the
unit is done. Both are functions of the plan and the unit alone, so a writer that was thought
dead does no harm.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avader.errors import InputError
from avader.io import storage
from avader.plan import Receipt, Unit, canonical_json, part_name, ranges, rejects_name

if TYPE_CHECKING:  # what they load, astropy and pandas, takes a second, and few verbs need it
    import pyarrow.dataset as ds

    from avader.catalogue.margins import Margin
    from avader.catalogue.selection import Ranges, Selection

# Bytes depend on these, so every plan records them. pixels: how bytes of images are encoded, which
# Parquet keeps as 32-bit integers: as differences they compress to half to two thirds of the size.
WRITER = {
    "compression": "zstd",
    "compression_level": 3,
    "row_group_size": 2000,
    "version": "2.6",
    "pixels": "DELTA_BINARY_PACKED",
}
RECEIPT_KEY = b"avader.receipt"
READERS = 16
AT_ONCE = 8 * 2**20
"""Bytes of a part that are decoded at once."""
AHEAD = 100
"""Parts whose columns are held at once."""


def parquet_bytes(table: pa.Table, writer: Mapping[str, Any] = WRITER) -> bytes:
    """The table as a Parquet file: the same bytes for the same table and writer."""
    options = dict(writer)
    encoding = options.pop("pixels", None)  # plans of earlier versions have none
    pixels = {field.name for field in table.schema if encoding and _holds_bytes(field.type)}
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    # Of files the least and the greatest would be kept in the footer, whole; of pixels they are
    # work for nothing.
    bounded = [
        field.name
        for field in table.schema
        if field.name not in pixels and not pa.types.is_large_binary(field.type)
    ]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        use_dictionary=texts,
        write_statistics=True if len(bounded) == table.num_columns else bounded,
        column_encoding={f"{name}.list.element": encoding for name in pixels} or None,
        **options,
    )
    return sink.getvalue()


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds so many uint8 a row."""
    kind = _stored(kind)
    return pa.types.is_fixed_size_list(kind) and pa.types.is_uint8(kind.value_type)


def _stored(kind: pa.DataType) -> pa.DataType:
    """A type as Parquet stores it: of a tensor, a list."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def write_unit(
    out: str,
    unit: Unit,
    *,
    rows_in: int,
    table: pa.Table,
    rejects: pa.Table,
    place: Callable[[str], str] = part_name,
    writer: Mapping[str, Any] = WRITER,
    root: str | None = None,
) -> Receipt:
    """Write a unit's part, then its rejects, and return what was counted.

    place, root: of a unit's name, where its part lies, as the plan has them. writer: of the part.
    """
    part = parquet_bytes(table, writer)
    receipt = {
        "unit": unit.name,
        "rows_in": rows_in,
        "rows": table.num_rows,
        "rejects": rejects.num_rows,
        "size": len(part),
        "sha256": hashlib.sha256(part).hexdigest(),
    }
    refused = parquet_bytes(
        rejects.replace_schema_metadata({RECEIPT_KEY: canonical_json(receipt).encode()})
    )
    counted = Receipt(**receipt, rejects_sha256=hashlib.sha256(refused).hexdigest())
    storage.write_bytes(storage.join(root or out, place(unit.name)), part)
    storage.write_bytes(storage.join(out, rejects_name(unit.name)), refused)
    return counted


def done_units(out: str) -> set[str]:
    """Names of the units that are done in an output folder."""
    found = storage.list_files(storage.join(out, "rejects"), (".parquet",))
    return {PurePosixPath(uri).stem for uri in found}


def read_receipts(out: str, units: Iterable[str]) -> list[Receipt]:
    """What done units counted, in the order given."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda unit: _read_receipt(out, unit), units))


def _read_receipt(out: str, unit: str) -> Receipt:
    data = storage.read_bytes(storage.join(out, rejects_name(unit)))
    metadata = pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata or {}
    if RECEIPT_KEY not in metadata:
        raise InputError(f"wanted a unit's receipt in {storage.public_uri(out)}, unit {unit}")
    receipt = json.loads(metadata[RECEIPT_KEY])
    return Receipt(**receipt, rejects_sha256=hashlib.sha256(data).hexdigest())


def read_part(uri: str, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A part of a finished folder as a table; columns: those to read, all by default."""
    with storage.open_input(storage.join(uri, path)) as file:
        return read_table(file, columns)


def read_group(uri: str, path: str, group: int, columns: Sequence[str]) -> pa.Table:
    """A row group of a part, from 0, these columns alone."""
    with storage.open_input(storage.join(uri, path)) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        return pa.Table.from_batches(_batches(parquet, columns, [group]))


def take_rows(
    uri: str, path: str, rows: NDArray[np.integer[Any]], columns: Sequence[str]
) -> pa.Table:
    """Rows of a part, from 0, one or more in the order given; no row group without them is read."""
    with storage.open_input(storage.join(uri, path)) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        counts = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        wanted, back = np.unique(rows, return_inverse=True)
        tables, start = [], 0
        for group, count in enumerate(counts):
            mask = np.isin(np.arange(start, start + count), wanted)
            start += count
            if mask.any():
                tables.append(_filtered(parquet, group, mask, columns))
        return pa.concat_tables(tables).take(pa.array(back))


def read_parts(uri: str, paths: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of parts, in order, of several at once: one of a far storage is many small
    requests."""
    with ThreadPoolExecutor(READERS) as pool:
        for start, stop in ranges(len(paths), AHEAD):
            yield from pool.map(partial(read_part, uri, columns=columns), paths[start:stop])


def read_table(file: IO[bytes] | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file as a table, read by this thread alone.

    Arrow's threads may outlive the call, and one that still holds a Python object (the file, the
    bytes of a buffer) when the interpreter closes aborts the process.
    """
    wanted = list(columns) if columns is not None else None
    parquet = pq.ParquetFile(file, pre_buffer=False)
    batches = list(_batches(parquet, wanted))
    return pa.Table.from_batches(batches) if batches else parquet.read(wanted, use_threads=False)


def _batches(
    parquet: pq.ParquetFile, columns: Sequence[str] | None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of row groups, all by default, some rows at a time.

    Arrow takes 8 more bytes for each byte of an image while it decodes it. Rows are counted by what
    they are in memory: pixels are a fraction of that in the file.
    """
    metadata, wanted = parquet.metadata, set(columns or parquet.schema_arrow.names)
    chunks = (
        metadata.row_group(group).column(at)
        for group in range(metadata.num_row_groups)
        for at in range(metadata.num_columns)
    )
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.partition(".")[0] in wanted
    )
    width = sum(vector_bytes(field.type) for field in parquet.schema_arrow if field.name in wanted)
    rows = max(1, AT_ONCE // max(1, width, size // max(1, metadata.num_rows)))
    named = None if columns is None else list(columns)
    yield from parquet.iter_batches(rows, row_groups=groups, columns=named, use_threads=False)


def vector_bytes(kind: pa.DataType) -> int:
    """Bytes of a value of a type of so many numbers each; 0 of other types."""
    kind = _stored(kind)
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type)):
        return 0
    return int(kind.list_size * kind.value_type.bit_width // 8)


def read_schema(uri: str, path: str) -> pa.Schema:
    """The columns of a part."""
    with storage.open_input(storage.join(uri, path)) as file:
        return pq.ParquetFile(file, pre_buffer=False).schema_arrow


def select_rows(
    uri: str, path: str, selection: "Selection | Margin", columns: Sequence[str]
) -> pa.Table:
    """The wanted rows of a part, these columns alone.

    Row groups that by their statistics cannot hold a wanted row are not read; of the others the
    columns that the selection asks about are, and the rest only where a row is wanted.
    """
    with storage.open_input(storage.join(uri, path)) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)

        def read(groups: Sequence[int], names: Sequence[str]) -> pa.Table:
            found = parquet.read_row_groups(list(groups), columns=list(names), use_threads=False)
            return found.select(list(names))

        ranges = _group_ranges(parquet.metadata, selection.columns)
        groups = [group for group, spans in enumerate(ranges) if selection.may_hold(spans)]
        if not selection.columns:
            return read(groups, columns)
        wanted = selection.mask(read(groups, selection.columns))
        counts = [parquet.metadata.row_group(group).num_rows for group in groups]
        masks = np.split(wanted, np.cumsum(counts)[:-1]) if groups else []
        hits = [(group, mask) for group, mask in zip(groups, masks, strict=True) if mask.any()]
        tables = [_filtered(parquet, group, mask, columns) for group, mask in hits]
        return pa.concat_tables(tables) if tables else read([], columns)


def _filtered(
    parquet: pq.ParquetFile, group: int, mask: NDArray[np.bool_], columns: Sequence[str]
) -> pa.Table:
    """The rows of a row group that a mask has, which has some; what is held is little more."""
    found, start = [], 0
    for batch in _batches(parquet, columns, [group]):
        part = mask[start : start + len(batch)]
        if part.any():
            found.append(batch.filter(pa.array(part)))
        start += len(batch)
    return pa.Table.from_batches(found).select(list(columns))


def _group_ranges(metadata: pq.FileMetaData, names: Sequence[str]) -> "list[Ranges]":
    """For each row group the least and greatest value of these columns, where they are known."""
    paths = {metadata.schema.column(at).path: at for at in range(metadata.num_columns)}
    known = {name: paths[name] for name in names if name in paths}
    found: list[Ranges] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        statistics = {name: group.column(at).statistics for name, at in known.items()}
        found.append(
            {name: (s.min, s.max) for name, s in statistics.items() if s and s.has_min_max}
        )
    return found


def read_whole_part(uri: str, part: Mapping[str, Any]) -> pa.Table:
    """A part as the manifest lists it (path, rows, sha256), with all its columns.

    Raises InputError where its bytes are no longer those that the manifest lists.
    """
    data = storage.read_bytes(storage.join(uri, part["path"]))
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise InputError(
            f"wanted {part['path']} of {storage.public_uri(uri)} as its manifest lists it, got "
            "other bytes; run `avader verify` on that folder and make it again"
        )
    return read_table(pa.BufferReader(data))


def open_dataset(uri: str, paths: Sequence[str]) -> "ds.Dataset":
    """Parts of a finished folder as one pyarrow dataset, in the order given."""
    import pyarrow.dataset as ds

    filesystem, root = storage.arrow_filesystem(uri)
    return ds.dataset(
        [storage.join(root, path) for path in paths], filesystem=filesystem, format="parquet"
    )


def receipt_json(receipt: Receipt, place: Callable[[str], str]) -> dict[str, str | int]:
    """The receipt as the manifest lists it; place: of the plan."""
    counts = asdict(receipt)
    unit = counts.pop("unit")
    return {"path": place(unit), "rejects_path": rejects_name(unit), **counts}
