"""Parquet tables of cutouts: which column is what, and their rows, batch by batch.

Nothing is read but the footer and the row groups and columns that are asked for.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from avader.errors import InputError
from avader.io import storage

# The columns that read_objects makes; a carried column cannot have one of these names.
OWN_NAMES = frozenset({"object_id", "ra", "dec", "image", "problem", "source_row"})
NAMES_SHOWN = 30
# Column chunks are read by pieces of this size, bytes, so that large row groups take no memory.
BUFFER = 4 * 2**20
# Footers are read together, since storage answers slowly but to many at once.
READERS = 16
# What Arrow raises for corrupt files; names that are no UTF-8 too.
CORRUPT = (pa.ArrowException, OSError, UnicodeDecodeError)

RowGroups = tuple[int, ...]
"""Rows of each row group of a table."""


@dataclass(frozen=True)
class Columns:
    """Names in the table. ra, dec: None takes a column of that name if it is there.

    image: None for a table without images, whose positions are asked of a survey service.
    """

    id: str = "object_id"
    ra: str | None = None
    dec: str | None = None
    image: str | None = "image"


@dataclass(frozen=True)
class Layout:
    """What a table's columns are.

    columns: as resolved, ra and dec None for a table without positions. image_is_path: the image
    column holds paths relative to the table's folder, not bytes. carried: every other column.
    """

    columns: Columns
    image_is_path: bool
    carried: pa.Schema


def read_layout(
    files: Sequence[str],
    *,
    columns: Columns,
    reserved: Collection[str],
    left_out: Collection[str] = (),
) -> tuple[Layout, tuple[RowGroups, ...]]:
    """The layout that all files share, and the row groups of each; left_out: not carried.

    Raises InputError for a file that is no Parquet, a column that is missing or of a wrong type,
    a carried column with a reserved name, and files whose columns differ.
    """
    wanted = _footer(files[0])[0]
    layout = _layout(wanted, columns=columns, reserved=reserved, left_out=left_out, uri=files[0])

    def groups(uri: str) -> RowGroups:
        schema, found = _footer(uri)
        if not schema.equals(wanted):
            raise InputError(_difference(schema, wanted=wanted, uri=uri, first=files[0]))
        return found

    with ThreadPoolExecutor(READERS) as pool:
        found = tuple(pool.map(groups, files))
    if not any(map(sum, found)):
        raise InputError(f"wanted rows in {storage.public_uri(files[0])}, came a table with none")
    return layout, found


def read_batches(
    uri: str, *, first: int, rows: int, columns: Sequence[str], at_once: int
) -> Iterator[pa.Table]:
    """Rows first to first + rows of a table, from the row groups that hold them, by batches.

    at_once: rows of a batch, at most. Raises InputError where the table has fewer rows: it has
    changed since it was opened.
    """
    came = 0
    try:
        with storage.open_input(uri) as stream, _parquet(stream, uri) as file:
            groups, start = _groups(file.metadata, first=first, rows=rows)
            # One by one: Arrow keeps what it read of all that it is asked for together.
            batches = (
                batch
                for group in groups
                for batch in file.iter_batches(
                    at_once, row_groups=[group], columns=list(columns), use_threads=False
                )
            )
            for batch in _slices(batches, first=first - start, rows=rows):
                batch.validate(full=True)  # text that is no UTF-8, which Arrow reads as it is
                came += batch.num_rows
                read = pa.Table.from_batches([batch]).select(list(columns))
                # By their names alone: tables of one source may differ in what they say of nulls.
                yield pa.Table.from_arrays(read.columns, names=read.column_names)
    except CORRUPT as error:
        # Arrow tells of corrupt pages by OSError too, but without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"cannot read rows {first} to {first + rows} of {storage.public_uri(uri)}: {error}; "
            "the table is corrupt, get it again"
        ) from error
    if came != rows:
        raise InputError(
            f"wanted rows {first} to {first + rows} of {storage.public_uri(uri)}, came {came}: "
            "the table has changed since the plan was made; restore it, or choose a new output "
            "folder"
        )


def _parquet(stream: object, uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream, buffer_size=BUFFER, page_checksum_verification=True)
    except CORRUPT as error:
        raise InputError(f"wanted a Parquet table at {storage.public_uri(uri)}: {error}") from error


def _footer(uri: str) -> tuple[pa.Schema, RowGroups]:
    """Columns, without metadata or a word on nulls, and the rows of each row group."""
    with storage.open_input(uri) as stream, _parquet(stream, uri) as file:
        fields = [field.remove_metadata().with_nullable(True) for field in file.schema_arrow]
        return pa.schema(fields), _sizes(file.metadata)


def _sizes(metadata: pq.FileMetaData) -> RowGroups:
    return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


def _groups(metadata: pq.FileMetaData, *, first: int, rows: int) -> tuple[list[int], int]:
    """The row groups that hold the rows, and the row at which the first of them starts."""
    sizes = _sizes(metadata)
    starts = [0, *accumulate(sizes)]
    held = [
        group
        for group in range(len(sizes))
        if starts[group] < first + rows and starts[group + 1] > first
    ]
    return held, starts[held[0]] if held else 0


def _slices(
    batches: Iterator[pa.RecordBatch], *, first: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """The parts of the batches between two rows, counted from the first batch's start."""
    position = 0
    for batch in batches:
        begin, end = max(first - position, 0), min(first + rows - position, batch.num_rows)
        if begin < end:
            yield batch.slice(begin, end - begin)
        position += batch.num_rows
        if position >= first + rows:
            return


def _layout(
    schema: pa.Schema,
    *,
    columns: Columns,
    reserved: Collection[str],
    left_out: Collection[str],
    uri: str,
) -> Layout:
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise InputError(f"wanted columns with names of their own, came {', '.join(twice)} twice")
    columns = _resolve(schema, columns=columns, uri=uri)
    _check_types(schema, columns, uri=uri)
    used = {columns.id, columns.ra, columns.dec, columns.image, *left_out}
    carried = pa.schema([field for field in schema if field.name not in used])
    _check_carried(carried.names, reserved=reserved, uri=uri)
    is_path = columns.image is not None and _is_text(schema.field(columns.image).type)
    return Layout(columns, is_path, carried)


def _resolve(schema: pa.Schema, *, columns: Columns, uri: str) -> Columns:
    """The columns with ra and dec filled in, or both None; every one is there, none is twice."""
    ra = columns.ra or ("ra" if "ra" in schema.names else None)
    dec = columns.dec or ("dec" if "dec" in schema.names else None)
    if (ra is None or dec is None) and (columns.ra or columns.dec):
        missing = "--dec-column" if dec is None else "--ra-column"
        raise InputError(
            f"wanted both coordinates, came {ra or dec!r} alone in {storage.public_uri(uri)}; "
            f"name the other with {missing}: {_names(schema)}"
        )
    if ra is None or dec is None:
        ra = dec = None
    found = Columns(id=columns.id, ra=ra, dec=dec, image=columns.image)
    named = [name for name in (found.id, found.ra, found.dec, found.image) if name is not None]
    for option, name in vars(found).items():
        if name is not None and name not in schema.names:
            raise InputError(
                f"wanted a column {name!r} in {storage.public_uri(uri)}, came {_names(schema)}; "
                f"say which it is with --{option}-column"
            )
    if len(set(named)) < len(named):
        raise InputError(f"wanted different columns for id, ra, dec and image, came {named}")
    return found


def _names(schema: pa.Schema) -> str:
    shown = ", ".join(schema.names[:NAMES_SHOWN]) or "none"
    more = len(schema.names) - NAMES_SHOWN
    return f"columns {shown}" + (f" and {more} more" if more > 0 else "")


def _check_types(schema: pa.Schema, columns: Columns, *, uri: str) -> None:
    """Raise InputError where a column cannot be what it is to be."""
    checks: list[tuple[str | None, Callable[[pa.DataType], bool], str]] = [
        (columns.id, _is_id, "the id: wanted strings or integers"),
        (columns.ra, is_number, "right ascension: wanted numbers, degrees"),
        (columns.dec, is_number, "declination: wanted numbers, degrees"),
        (columns.image, _is_image, "the image: wanted bytes (binary) or paths (string)"),
    ]
    for name, accepts, wanted in checks:
        if name is not None and not accepts(schema.field(name).type):
            came = schema.field(name).type
            # astropy writes a FITS table's texts so.
            hint = "; astropy's Table.convert_bytestring_to_unicode() makes bytes texts"
            raise InputError(
                f"column {name!r} of {storage.public_uri(uri)} is {wanted}, came {came}"
                + hint * bool(name == columns.id and pa.types.is_binary(came))
            )


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(_value_type(kind)))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_image(kind: pa.DataType) -> bool:
    plain = _value_type(kind)
    return _is_text(kind) or bool(
        pa.types.is_binary(plain)
        or pa.types.is_large_binary(plain)
        or pa.types.is_binary_view(plain)
        or pa.types.is_fixed_size_binary(plain)
    )


def _check_carried(names: Sequence[str], *, reserved: Collection[str], uri: str) -> None:
    taken = [name for name in names if name in OWN_NAMES or name in reserved]
    if taken:
        raise InputError(
            f"wanted carried columns with names of their own, came {', '.join(taken)} in "
            f"{storage.public_uri(uri)}, which the catalogue uses itself; rename or drop them, or "
            "say what they are with --id-column, --ra-column, --dec-column, --image-column"
        )


def _difference(schema: pa.Schema, *, wanted: pa.Schema, uri: str, first: str) -> str:
    """How one table's columns differ from the first one's."""
    ours, theirs = ({f"{f.name} {f.type}" for f in s} for s in (schema, wanted))
    changes = [f"no {name}" for name in sorted(theirs - ours)]
    changes += [f"also {name}" for name in sorted(ours - theirs)]
    return (
        f"wanted the same columns in every table, came {storage.public_uri(uri)} unlike "
        f"{storage.public_uri(first)}: {', '.join(changes) or 'another order'}; "
        "pack them apart"
    )
