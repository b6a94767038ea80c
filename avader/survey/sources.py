"""Where cutouts come from: folders and globs of image files, and Parquet tables.

A table may hold images, paths of images, or positions alone, for a survey service (`client`).

A source is opened once, which finds everything that is wrong with it as a whole; it is then cut
into units, whose inputs alone tell a worker what to read. Order: path, then row. What is wrong
with one object never stops the others: its row stays, with its `problem`.
"""

import errno
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.limits import MAX_BYTES
from avader.io import storage
from avader.plan import Unit, ranges, unit_name
from avader.survey.galaxy_zoo import Selection
from avader.survey.tables import Columns, Layout, read_layout, read_rows

__all__ = ["Columns", "Source", "describe_row", "open_source", "read_ids", "read_unit"]

# The longest ending first: it is taken off a path to make an id.
IMAGE_SUFFIXES = (".fits.gz", ".fits", ".jpeg", ".png", ".jpg", ".fit")
TABLE_SUFFIXES = (".parquet",)
KINDS = "a folder or glob of .png, .jpg, .jpeg, .fits, .fit, .fits.gz files, or of .parquet tables"
READERS = 8
# Errors of a busy machine or network, not of the file: they stop the unit, which is tried again.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}


@dataclass(frozen=True)
class Source:
    """An opened source.

    uri: as given; root: the folder that paths and ids are relative to; files: URIs in order of
    path; rows: objects of each file; sizes: bytes of each file; layout: of the tables, None for
    image files. selection: which rows are taken, None for all; taken: how many they are.
    """

    uri: str
    root: str
    files: tuple[str, ...]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    layout: Layout | None = None
    selection: Selection | None = None
    taken: int | None = None

    @property
    def carried(self) -> pa.Schema:
        """Columns that are carried along, without metadata."""
        return pa.schema([]) if self.layout is None else self.layout.carried

    @property
    def has_positions(self) -> bool:
        """Whether every object has right ascension and declination, degrees ICRS."""
        return self.layout is not None and self.layout.columns.ra is not None

    def units(self, rows_per_shard: int) -> tuple[Unit, ...]:
        """Units of at most so many objects, in source order; a unit never spans two tables.

        Where rows are selected, a unit covers so many rows of the table, and holds fewer objects.
        Sizes are among a unit's inputs, so that a plan notices a file that was replaced.
        """
        paths = [_below(self.root, file) for file in self.files]
        inputs: list[dict[str, Any]]
        if self.layout is None:
            inputs = [
                {
                    "kind": "files",
                    "root": self.root,
                    "paths": paths[start:stop],
                    "sizes": self.sizes[start:stop],
                }
                for start, stop in ranges(len(paths), rows_per_shard)
            ]
        else:
            shared = {"kind": "table", "root": self.root, **_layout_inputs(self.layout)}
            if self.selection is not None:
                shared["selection"] = asdict(self.selection)
            inputs = [
                {**shared, "path": path, "size": size, "first": start, "rows": stop - start}
                for path, size, count in zip(paths, self.sizes, self.rows, strict=True)
                for start, stop in ranges(count, rows_per_shard)
            ]
        return tuple(Unit(unit_name(number), unit) for number, unit in enumerate(inputs))


def open_source(uri: str, *, columns: Columns, reserved: Collection[str] = ()) -> Source:
    """Find the files of a source and check their columns.

    A folder is searched to its depths. Where it holds images they are the source, and tables
    beside them are not read; a folder of tables alone is a source of tables.
    columns: used by tables alone; reserved: names that no carried column may have.

    Raises InputError, before any image is read: nothing there, nothing of a known kind, a table
    that is unreadable, lacks a column or has one with a reserved name.
    """
    root, found = _find(storage.absolute(uri))
    images = tuple(file for file in found if file.lower().endswith(IMAGE_SUFFIXES))
    if images:
        _refuse_columns(columns, uri=uri)
        sizes = tuple(storage.sizes(images))
        return Source(uri, root, images, (1,) * len(images), sizes)
    tables = tuple(file for file in found if file.lower().endswith(TABLE_SUFFIXES))
    if not tables:
        others = f"{len(found)} other files, such as {_below(root, found[0])}" if found else "none"
        raise InputError(f"wanted {KINDS} at {storage.public_uri(uri)}, came {others}")
    layout, rows = read_layout(tables, columns=columns, reserved=reserved)
    return Source(uri, root, tables, rows, tuple(storage.sizes(tables)), layout)


def read_ids(unit: Unit) -> list[str]:
    """The ids of a unit, in source order, "" for a row without one; no image is read."""
    if unit.inputs["kind"] == "files":
        return [_id_of(path) for path in unit.inputs["paths"]]
    names = unit.inputs["columns"]
    ids: list[str] = _ids(_rows(unit, [names["id"]])[names["id"]]).to_pylist()
    return ids


def read_unit(unit: Unit) -> pa.Table:
    """The objects of a unit, in source order.

    Columns: object_id (string, "" where there is none), ra and dec (float64, degrees; where the
    source has positions; null as in the source), image (binary, null where the bytes could not
    be had, and in a table of positions), problem (string: the text of a CutoutError; null where all
    is well), then the carried columns.
    """
    if unit.inputs["kind"] == "files":
        return _read_files(unit)
    return _read_table(unit)


def describe_row(unit: Unit, row: int) -> str:
    """Where a row of a unit stands in the source, for people; rows of a table count from 0."""
    inputs = unit.inputs
    if inputs["kind"] == "files":
        return str(inputs["paths"][row])
    if "selection" in inputs:
        row = int(np.flatnonzero(_taken(unit, _read_rows(unit, _selecting(unit))))[row])
    return f"row {inputs['first'] + row} of {inputs['path']}"


def _find(uri: str) -> tuple[str, list[str]]:
    """The root folder of a source and every file in it."""
    if storage.is_glob(uri) and not storage.exists(uri):
        files = storage.glob_files(uri)
        if not files:
            raise InputError(f"wanted {KINDS}, came {storage.public_uri(uri)}: nothing matches")
        return _fixed_part(uri), files
    if not storage.exists(uri):
        raise InputError(
            f"wanted {KINDS}, came {storage.public_uri(uri)}: there is nothing; check the path"
        )
    files = storage.list_files(uri)
    if not files and uri.lower().endswith((*IMAGE_SUFFIXES, *TABLE_SUFFIXES)):
        return storage.parent(uri), [uri]
    return uri.rstrip("/"), files


def _fixed_part(pattern: str) -> str:
    """The folder of a glob that has no glob characters."""
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if storage.is_glob(part))
    return "/".join(parts[:fixed])


def _below(root: str, file: str) -> str:
    return file.removeprefix(root.rstrip("/") + "/")


def _id_of(path: str) -> str:
    """A path without the ending of an image."""
    suffix = next(suffix for suffix in IMAGE_SUFFIXES if path.lower().endswith(suffix))
    return path[: -len(suffix)]


def _refuse_columns(columns: Columns, *, uri: str) -> None:
    asked = [name for name in (columns.ra, columns.dec) if name is not None]
    if asked:
        raise InputError(
            f"wanted positions from {', '.join(asked)}, but {storage.public_uri(uri)} is image "
            "files, which have no columns; give a Parquet table with their paths and positions"
        )


def _layout_inputs(layout: Layout) -> dict[str, Any]:
    return {
        "columns": asdict(layout.columns),
        "image_is_path": layout.image_is_path,
        "carried": layout.carried.names,
    }


def _read_files(unit: Unit) -> pa.Table:
    paths: Sequence[str] = unit.inputs["paths"]
    image, problem = _read_images(unit.inputs["root"], paths)
    ids = pa.array([_id_of(path) for path in paths], pa.string())
    return pa.table({"object_id": ids, "image": image, "problem": _with_ids(problem, ids)})


def _read_table(unit: Unit) -> pa.Table:
    inputs, names = unit.inputs, unit.inputs["columns"]
    wanted = [name for name in names.values() if name is not None]
    table = _rows(unit, [*wanted, *inputs["carried"]])
    ids = _ids(table[names["id"]])
    image, problem = _images(unit, table)
    columns = {"object_id": ids}
    if names["ra"] is not None:
        columns |= {axis: table[names[axis]].cast(pa.float64()) for axis in ("ra", "dec")}
    columns |= {"image": image, "problem": _with_ids(problem, ids)}
    return pa.table(columns | {name: table[name] for name in inputs["carried"]})


def _images(unit: Unit, table: pa.Table) -> tuple[pa.Array, list[str | None]]:
    """The images of a table's rows and why one is not there; null in a table of positions.

    Why: the text of a CutoutError."""
    inputs, name = unit.inputs, unit.inputs["columns"]["image"]
    if name is None:
        return pa.nulls(table.num_rows, pa.binary()), [None] * table.num_rows
    if inputs["image_is_path"]:
        return _read_images(storage.parent(_table_uri(inputs)), table[name].to_pylist())
    image = table[name].cast(pa.binary())
    null = _problem(Reason.NO_IMAGE, "the image is null")
    return image, [None if there else null for there in image.is_valid().to_pylist()]


def _table_uri(inputs: Mapping[str, Any]) -> str:
    return storage.join(inputs["root"], inputs["path"])


def _rows(unit: Unit, columns: Sequence[str]) -> pa.Table:
    """Columns of the rows of a unit, of those that are selected."""
    if "selection" not in unit.inputs:
        return _read_rows(unit, columns)
    table = _read_rows(unit, list(dict.fromkeys([*columns, *_selecting(unit)])))
    return table.filter(pa.array(_taken(unit, table))).select(list(columns))


def _selecting(unit: Unit) -> list[str]:
    """The columns that decide which rows are taken."""
    names = [unit.inputs["columns"]["id"], unit.inputs["selection"]["votes_column"]]
    return [name for name in names if name is not None]


def _taken(unit: Unit, table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of a unit are taken, (N,)."""
    selection = Selection(**unit.inputs["selection"])
    votes = None
    if selection.votes_column is not None:
        counts = table[selection.votes_column].cast(pa.float64())
        votes = pc.fill_null(counts, float("nan")).to_numpy()
    return selection.mask(_ids(table[unit.inputs["columns"]["id"]]).to_pylist(), votes)


def _read_rows(unit: Unit, columns: Sequence[str]) -> pa.Table:
    inputs = unit.inputs
    return read_rows(
        _table_uri(inputs), first=inputs["first"], rows=inputs["rows"], columns=columns
    )


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as strings; integers digit by digit, never through a float."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(pa.string()), "")


def _with_ids(problem: Sequence[str | None], ids: pa.Array) -> pa.Array:
    """The problems, and that there is no id where that is so."""
    texts = [
        text if name else _problem(Reason.NO_ID, "the id is null or empty")
        for text, name in zip(problem, ids.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())


def _read_images(folder: str, paths: Sequence[str | None]) -> tuple[pa.Array, list[str | None]]:
    """The bytes of files below a folder, null where they cannot be had, and why not."""
    with ThreadPoolExecutor(READERS) as pool:
        read = list(pool.map(lambda path: _read_image(folder, path), paths))
    return pa.array([data for data, _ in read], pa.binary()), [problem for _, problem in read]


def _read_image(folder: str, path: str | None) -> tuple[bytes | None, str | None]:
    if not path:
        return None, _problem(Reason.NO_IMAGE, "the path of the image is null or empty")
    if path.startswith("/") or "://" in path:
        wanted = "wanted a path relative to the table's folder"
        return None, _problem(Reason.BAD_PATH, f"{wanted}, came {path}")
    uri = storage.join(folder, path)
    try:
        with storage.open_input(uri) as file:
            data = file.read(MAX_BYTES + 1)
    except (InputError, OSError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if cause is None or not _is_of_the_file(cause, uri=uri):
            raise
        return None, _problem(_reason(cause), f"cannot read {path}: {_words(cause)}")
    if len(data) > MAX_BYTES:
        too_large = f"{path} is larger than {MAX_BYTES} bytes, too large for a cutout"
        return None, _problem(Reason.FILE_TOO_LARGE, too_large)
    return data, None


def _is_of_the_file(error: BaseException, *, uri: str) -> bool:
    """Whether an error will come back at every try, so that the object is a reject.

    On S3 a refused or failed request may be the credentials' or the network's fault: it stops the
    unit, lest a whole survey become rejects.
    """
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | ValueError):
        return True
    return storage.is_local(uri) and isinstance(error, OSError) and error.errno not in _PASSING


def _problem(reason: Reason, detail: str) -> str:
    return str(CutoutError(reason, detail))


def _reason(error: BaseException) -> Reason:
    if isinstance(error, FileNotFoundError):
        return Reason.NO_FILE
    name_too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return Reason.BAD_PATH if name_too_long or isinstance(error, ValueError) else Reason.UNREADABLE


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
