"""Rows of a catalogue as one file for other tools: FITS (BINTABLE), VOTable or CSV.

Each is written piece by piece and is whole or absent; the same rows give the same bytes. A CSV
has no place for units and citation: they go to a text beside it, written first.
"""

import base64
import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from astropy.io import fits

from avader.catalogue import records, votable
from avader.catalogue.columns import Column
from avader.catalogue.records import Layout
from avader.errors import InputError
from avader.io import storage

Format = Literal["fits", "votable", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: Mapping[str, Format] = {
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".csv": "csv",
}
BATCH_ROWS = 30_000  # encoded at once
BASE64_LINE = (
    48 * 1024
)  # bytes that make a line; a multiple of 3, so that none but the last is padded
FITS_BLOCK = 2880
FITS_MOST_COLUMNS = 999
_CARD = 70  # characters of a comment in a header


@dataclass(frozen=True)
class About:
    """What a file says of itself.

    title: one line. facts: provenance, by name. citation: whom to cite. columns: those of our own
    schema, by name; others are the survey's.
    """

    title: str
    facts: Mapping[str, str]
    citation: str
    columns: Mapping[str, Column]

    def column(self, name: str) -> tuple[str, str, str]:
        """Unit, UCD and meaning of a column."""
        if name not in self.columns:
            return "", "", "carried from the survey's table"
        found = self.columns[name]
        return found.unit, found.ucd, found.definition


def format_of(uri: str) -> Format:
    """The format that a file's ending names. Raises InputError where it names none."""
    for ending, name in ENDINGS.items():
        if uri.lower().endswith(ending):
            return name
    raise InputError(
        f"wanted an output file that ends with {', '.join(ENDINGS)}, got "
        f"{storage.public_uri(uri)}; or say which with --format"
    )


def check_names(schema: pa.Schema, wanted: Format) -> None:
    """Raise InputError where a format cannot have these plain columns together."""
    if wanted == "fits" and len(schema) > FITS_MOST_COLUMNS:
        raise InputError(
            f"wanted at most {FITS_MOST_COLUMNS} columns in a FITS table, got {len(schema)}; "
            "choose some with --columns, or another --format"
        )
    names = [name for field in schema for name in _csv_names(field)] if wanted == "csv" else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"the CSV would have two columns {', '.join(twice)}, one of them a vector's element; "
            "choose with --columns, or another --format"
        )


def unfit(table: pa.Table, wanted: Format) -> dict[str, str]:
    """Columns of a plain table that a format cannot hold, with why."""
    if wanted != "fits":
        return {}
    found = {}
    for name in table.column_names:
        text = pa.types.is_string(table[name].type)
        plain = name.isascii() and name.isprintable()
        if not plain or (text and not records.is_ascii(table[name])):
            found[name] = "FITS holds ASCII text alone"
    return found


def write(uri: str, table: pa.Table, about: About, wanted: Format) -> None:
    """Write a settled table (see catalogue/records.py), replacing what was there."""
    if wanted == "csv":
        storage.write_chunks(uri, _csv_chunks(table))
        storage.write_bytes(sidecar(uri), _readme(table.schema, about).encode())
        return
    layouts = [records.layout(name, table[name]) for name in table.column_names]
    chunks = {"fits": _fits_chunks, "votable": _votable_chunks}[wanted]
    storage.write_chunks(uri, chunks(table, layouts, about))


def sidecar(uri: str) -> str:
    """Where the text goes that belongs to a CSV."""
    return f"{uri}.txt"


def _fits_chunks(table: pa.Table, layouts: Sequence[Layout], about: About) -> Iterator[bytes]:
    yield fits.PrimaryHDU().header.tostring().encode("ascii")
    yield _fits_header(layouts, table.num_rows, about).tostring().encode("ascii")
    size = 0
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        data = records.records(batch, layouts, flags=False).tobytes()
        size += len(data)
        yield data
    yield bytes(-size % FITS_BLOCK)


def _fits_header(layouts: Sequence[Layout], rows: int, about: About) -> fits.Header:
    with warnings.catch_warnings():
        # A survey's own column names may have characters that are only advised against.
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        columns = fits.ColDefs([_fits_column(one, about) for one in layouts])
        header = fits.BinTableHDU.from_columns(columns, nrows=0, name="CATALOGUE").header
    header["NAXIS2"] = rows
    for number, one in enumerate(layouts, start=1):
        _, ucd, meaning = about.column(one.name)
        if ucd:
            header[f"TUCD{number}"] = ucd
        header[f"TCOMM{number}"] = meaning
    for name, value in about.facts.items():
        for line in _wrapped(f"{name}: {value}"):
            header.add_history(line)
    for line in [about.title, *_wrapped(f"Cite: {about.citation}")]:
        header.add_comment(line)
    return header


def _fits_column(one: Layout, about: About) -> fits.Column:
    unit = about.column(one.name)[0]
    repeat = "" if one.length is None else str(one.length)
    # A number alone has the same format as a vector of one.
    alone = one.length == 1 and not one.is_text
    return fits.Column(
        name=one.name,
        format=f"{repeat}{one.letter}",
        unit=unit or None,
        null=one.null,
        dim="(1)" if alone else None,
    )


def _wrapped(text: str) -> list[str]:
    """Text as lines that fit a card of a FITS header, in ASCII."""
    return textwrap.wrap(text.encode("ascii", "backslashreplace").decode(), _CARD)


def _votable_chunks(table: pa.Table, layouts: Sequence[Layout], about: About) -> Iterator[bytes]:
    xml = votable.header(
        [_votable_field(one, about) for one in layouts],
        name="catalogue",
        description=f"{about.title}. Cite: {about.citation}",
        infos={**about.facts, "citation": about.citation},
    )
    head, tail = votable.split(xml)
    yield head + b'<DATA><BINARY2><STREAM encoding="base64">\n'
    yield from _base64_lines(
        records.records(batch, layouts, flags=True).tobytes()
        for batch in table.to_batches(max_chunksize=BATCH_ROWS)
    )
    yield b"</STREAM></BINARY2></DATA>\n" + tail


def _base64_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Base64 in lines of one length, however the bytes come."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) - len(data) % BASE64_LINE
        for at in range(0, whole, BASE64_LINE):
            yield base64.b64encode(data[at : at + BASE64_LINE]) + b"\n"
        rest = data[whole:]
    yield base64.b64encode(rest) + b"\n"


def _votable_field(one: Layout, about: About) -> votable.Field:
    unit, ucd, meaning = about.column(one.name)
    size = "" if one.length is None else str(one.length)
    return votable.Field(one.name, one.datatype, size, unit, ucd, meaning)


def _csv_chunks(table: pa.Table) -> Iterator[bytes]:
    names = [name for field in table.schema for name in _csv_names(field)]
    header = pa.table({name: pa.array([], pa.null()) for name in names})
    yield _csv_bytes(header, with_names=True)
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        columns = [one for column in batch.columns for one in _csv_columns(column)]
        yield _csv_bytes(pa.RecordBatch.from_arrays(columns, names), with_names=False)


def _csv_bytes(table: pa.Table | pa.RecordBatch, *, with_names: bool) -> bytes:
    sink = io.BytesIO()
    pacsv.write_csv(table, sink, pacsv.WriteOptions(include_header=with_names))
    return sink.getvalue()


def _csv_names(field: pa.Field) -> list[str]:
    if not pa.types.is_fixed_size_list(field.type):
        return [field.name]
    return [f"{field.name}_{element}" for element in range(field.type.list_size)]


def _csv_columns(column: pa.Array) -> list[pa.Array]:
    """A column, or each element of a vector as one; NaN as null, since few readers know "nan"."""
    if not pa.types.is_fixed_size_list(column.type):
        return [_without_nan(column)]
    values = records.matrix(column)
    return [_without_nan(pa.array(np.ascontiguousarray(one))) for one in values.T]


def _without_nan(column: pa.Array) -> pa.Array:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _readme(schema: pa.Schema, about: About) -> str:
    """What a CSV cannot say: provenance, citation, and a line a column."""
    lines = [about.title, f"Cite: {about.citation}", ""]
    lines += [f"{name}: {value}" for name, value in about.facts.items()]
    lines += ["", "Columns: name, unit, UCD, meaning"]
    for field in schema:
        names = _csv_names(field)
        shown = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        lines.append(" | ".join([shown, *(word or "-" for word in about.column(field.name))]))
    return "\n".join(lines) + "\n"
