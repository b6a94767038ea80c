"""`export`: chosen rows of a catalogue as one FITS, VOTable or CSV file; no Ray.

The catalogue is read part by part, first the columns that the selection asks about; what is held
is the rows that are wanted.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from avader.catalogue import records
from avader.catalogue.columns import COLUMNS, RESERVED
from avader.catalogue.provenance import CITATION
from avader.catalogue.selection import Cone, Selection
from avader.config import ExportSettings
from avader.errors import InputError
from avader.io import export, growth, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.progress import Progress, say

# The column that identifies a row, in each kind of folder with rows to export.
ID_COLUMNS = {
    "classified": "object_id",
    "hats": "object_id",
    "synthetic": "index",
    "cutouts": "object_id",
}
PIXELS = ("image", "source_mask")
SHOWN = 5  # ids named in full


def run(settings: ExportSettings) -> None:
    """Write the file. Raises InputError for bad input before any row is read, but for text that
    the format cannot hold, which only the rows show."""
    uri, out = storage.absolute(settings.catalogue), storage.absolute(settings.out)
    storage.check_writable(out)
    increments = growth.read_increments(uri)
    held = growth.as_one(uri, increments)
    if held.kind not in ID_COLUMNS:
        raise InputError(f"wanted a catalogue or packed cutouts, got a folder of {held.kind}")
    wanted = settings.format or export.format_of(settings.out)
    found = shards.read_schema(held.uri, held.paths[0])
    columns = _columns(settings.columns, found)
    export.check_names(pa.schema([_plain_field(found.field(name)) for name in columns]), wanted)
    selection = _selection(settings, held, found)
    say(f"exporting from {held.totals['rows']:,} rows of {held.kind}: {selection}")
    table, missing = _gather(held, selection, columns)
    table = _fitting(table, wanted)
    made_from = dict.fromkeys(
        name for one in increments if "data" in one.settings for name in growth.data_of(one)
    )
    about = _about(settings, held, selection, list(made_from), rows=table.num_rows)
    export.write(out, table, about, wanted)
    if missing:
        say(f"  no row for {missing}")
    shown = storage.public_uri(settings.out)
    beside = f" (columns and citation: {export.sidecar(shown)})" if wanted == "csv" else ""
    say(f"wrote {table.num_rows:,} of {held.totals['rows']:,} rows to {shown}{beside}")


def _columns(asked: Sequence[str], found: pa.Schema) -> list[str]:
    """The columns to write: those asked for, or all that can be, with a line for the others."""
    able = {field.name: records.plain_type(field.type) is not None for field in found}
    able |= dict.fromkeys(able.keys() & set(PIXELS), False)
    if not asked:
        for name in (name for name, fits in able.items() if not fits):
            say(f"  left out: {name}, {_unable(found.field(name))}")
        return [name for name, fits in able.items() if fits]
    names = list(dict.fromkeys(asked))
    absent = [name for name in names if name not in able]
    if absent:
        good = ", ".join(name for name, fits in able.items() if fits)
        raise InputError(f"--columns: wanted names among {good}, got {', '.join(absent)}")
    for name in names:
        if not able[name]:
            raise InputError(
                f"--columns: {name} cannot be exported, {_unable(found.field(name))}; read it with "
                "avader.open_catalogue"
            )
    return names


def _unable(field: pa.Field) -> str:
    return "pixels" if field.name in PIXELS else f"of a type without a plain form, {field.type}"


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, records.plain_type(field.type))


def _selection(settings: ExportSettings, held: Manifest, found: pa.Schema) -> Selection:
    """What the settings ask for. Raises InputError for what this catalogue cannot answer."""
    needs = {
        "--cone": (bool(settings.cone), ("ra", "dec"), "positions"),
        "--component": (bool(settings.component), ("component",), "components"),
        "--min-probability": (
            settings.min_probability is not None,
            ("probability",),
            "probabilities",
        ),
    }
    for option, (asked, names, what) in needs.items():
        if asked and not set(names) <= set(found.names):
            raise InputError(
                f"{option}: wanted a catalogue with {what}, got {storage.public_uri(held.uri)} of "
                f"{held.kind} without {', '.join(names)}; leave {option} out"
            )
    _check_components(settings.component, held)
    id_column = ID_COLUMNS[held.rows_of]
    ids = _ids(settings.ids, found.field(id_column).type) if settings.ids is not None else None
    return Selection(
        id_column=id_column,
        ids=ids,
        cone=Cone(*settings.cone) if settings.cone else None,
        components=settings.component,
        min_probability=settings.min_probability,
    )


def _check_components(asked: Sequence[int], held: Manifest) -> None:
    count = held.facts.get("components")
    if count is not None and any(not 0 <= component < count for component in asked):
        raise InputError(
            f"--component: wanted numbers from 0 to {count - 1}, got {', '.join(map(str, asked))}"
        )


def _ids(given: str, type_: pa.DataType) -> pa.Array:
    """The ids wanted, in order and each once, from a file or from the option itself."""
    is_file = "://" in given or storage.exists(given)
    texts = storage.read_text(given).removeprefix("\ufeff").splitlines() if is_file else []
    names = {name.strip() for name in (texts if is_file else given.split(","))} - {""}
    if not names:
        raise InputError(f"--ids: wanted at least one id, got none in {storage.public_uri(given)}")
    if pa.types.is_string(type_):
        return pa.array(sorted(names), type_)
    try:
        return pa.array(sorted({int(name) for name in names}), type_)
    except (ValueError, OverflowError, pa.ArrowInvalid) as error:
        raise InputError(f"--ids: wanted whole numbers, the index of each: {error}") from error


def _gather(held: Manifest, selection: Selection, columns: Sequence[str]) -> tuple[pa.Table, str]:
    """The wanted rows in catalogue order, in plain types; and what `_missing` says of them."""
    progress = Progress("read", held.totals["rows"], noun="rows")
    asked = [*columns, *({selection.id_column} - set(columns) if selection.ids is not None else ())]

    def read(path: str) -> pa.Table:
        return records.plain(shards.select_rows(held.uri, path, selection, asked))

    tables = []
    # Several at once, since a part of a far storage is many small requests, one after another.
    with ThreadPoolExecutor(shards.READERS) as pool:
        for part, rows in zip(held.parts, pool.map(read, held.paths), strict=True):
            tables.append(rows)
            progress.add(part["rows"])
    table = pa.concat_tables(tables)
    return table.select(list(columns)), _missing(selection, table)


def _missing(selection: Selection, table: pa.Table) -> str:
    """Ids asked for that no row of the table has, in words; empty where there are none."""
    if selection.ids is None:
        return ""
    there = pc.is_in(selection.ids, value_set=table[selection.id_column].combine_chunks())
    absent = selection.ids.filter(pc.invert(there))
    shown = ", ".join(str(id_) for id_ in absent[:SHOWN].to_pylist())
    more = ", ..." if len(absent) > SHOWN else ""
    return f"{len(absent):,} of {len(selection.ids):,} ids: {shown}{more}" if len(absent) else ""


def _fitting(table: pa.Table, wanted: export.Format) -> pa.Table:
    """The table in types that the format has; columns that it cannot hold are named and dropped.

    Raises InputError where one of our own columns is among them.
    """
    settled, left_out = records.settled(table)
    left_out |= export.unfit(settled, wanted)
    for name, why in left_out.items():
        if name in RESERVED:
            raise InputError(
                f"column {name} cannot be written as {wanted}: {why}; take --format votable or csv"
            )
        say(f"  left out: {name}, {why}")
    kept = [name for name in settled.column_names if name not in left_out]
    if not kept:
        raise InputError(f"no column is left that {wanted} can hold; take another --format")
    return settled.select(kept)


def _about(
    settings: ExportSettings,
    held: Manifest,
    selection: Selection,
    made_from: Sequence[str],
    *,
    rows: int,
) -> export.About:
    """What the file says of itself; made_from: digests of the cutouts."""
    own = {
        "catalogue": storage.public_uri(settings.catalogue),
        "catalogue_manifest_sha256": held.digest,
        "catalogue_kind": held.kind,
        "selection": str(selection),
        "rows": f"{rows} of {held.totals['rows']}",
    }
    if "model" in held.settings:
        own["model"] = held.settings["model"]
    if made_from:
        own["data_manifest_sha256"] = ", ".join(made_from)
    own["catalogue_avader_version"] = held.provenance.get("versions", {}).get("avader", "unknown")
    own["export_avader_version"] = version("avader")
    return export.About(
        title=f"Rows of an avader catalogue ({held.kind})",
        facts=own,
        citation=held.provenance.get("citation", CITATION),
        columns={column.name: column for column in COLUMNS[held.rows_of]},
    )
