"""Where cutouts come from: folders and globs of image files, and Parquet tables.

A table may hold images, paths of images, or positions alone, for a survey service (`client`).

A source is opened once, which finds everything that is wrong with it as a whole; it is then cut
into units, here in source order and in `sky` by position, whose inputs alone tell a worker what to
read (`reading`). Order: path, then row.
"""

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from avader.errors import InputError
from avader.io import storage
from avader.plan import Unit, canonical_json, ranges, unit_name
from avader.survey.galaxy_zoo import Selection
from avader.survey.image_files import IMAGE_SUFFIXES
from avader.survey.reading import describe_row, read_ids, read_objects, read_unit, row_numbers
from avader.survey.tables import Columns, Layout, RowGroups, read_layout

__all__ = [
    "Columns",
    "Source",
    "describe_row",
    "open_source",
    "read_ids",
    "read_objects",
    "read_unit",
    "row_numbers",
]

TABLE_SUFFIXES = (".parquet",)
KINDS = "a folder or glob of .png, .jpg, .jpeg, .fits, .fit, .fits.gz files, or of .parquet tables"


@dataclass(frozen=True)
class Source:
    """An opened source.

    uri: as given; root: the folder that paths and ids are relative to; files: URIs in order of
    path; sizes: bytes of each file; groups: the row groups of each table, of image files one of
    one row; layout: of the tables, None for image files. selection: which rows are taken, None
    for all; taken: how many they are.
    """

    uri: str
    root: str
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: tuple[RowGroups, ...]
    layout: Layout | None = None
    selection: Selection | None = None
    taken: int | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        """Objects of each file."""
        return tuple(map(sum, self.groups))

    @property
    def objects(self) -> int:
        """Objects that are taken."""
        return sum(self.rows) if self.taken is None else self.taken

    @property
    def paths(self) -> list[str]:
        """The files below the root."""
        return [_below(self.root, file) for file in self.files]

    @property
    def digest(self) -> str:
        """SHA-256 of the files' paths, sizes and rows; what is in them is not read."""
        listed = list(zip(self.paths, self.sizes, self.rows, strict=True))
        return hashlib.sha256(canonical_json(listed).encode()).hexdigest()

    @property
    def carried(self) -> pa.Schema:
        """Columns that are carried along, without metadata."""
        return pa.schema([]) if self.layout is None else self.layout.carried

    @property
    def has_positions(self) -> bool:
        """Whether every object has right ascension and declination, degrees ICRS."""
        return self.layout is not None and self.layout.columns.ra is not None

    @property
    def shared_inputs(self) -> dict[str, Any]:
        """What the inputs of all units of tables say alike.

        To them comes `pieces`: of each its path, the table's size, its first row and rows, and
        the first one's number in the whole source; and for units of the sky `span` and `count`.
        """
        assert self.layout is not None
        shared = {
            "kind": "table",
            "root": self.root,
            "columns": asdict(self.layout.columns),
            "image_is_path": self.layout.image_is_path,
            "carried": self.layout.carried.names,
        }
        return shared if self.selection is None else shared | {"selection": asdict(self.selection)}

    def units(self, rows_per_shard: int) -> tuple[Unit, ...]:
        """Units of at most so many objects, in source order; a unit never spans two tables.

        Where rows are selected, a unit covers so many rows of the table, and holds fewer objects.
        Sizes are among a unit's inputs, so that a plan notices a file of another size.
        """
        inputs = self._pieces if self.layout is not None else self._files
        return tuple(
            Unit(unit_name(number), unit) for number, unit in enumerate(inputs(rows_per_shard))
        )

    def _files(self, step: int) -> list[dict[str, Any]]:
        paths = self.paths
        return [
            {
                "kind": "files",
                "root": self.root,
                "paths": paths[start:stop],
                "sizes": self.sizes[start:stop],
                "start": start,
            }
            for start, stop in ranges(len(paths), step)
        ]

    def _pieces(self, step: int) -> list[dict[str, Any]]:
        shared, starts = self.shared_inputs, accumulate((0, *self.rows[:-1]))
        tables = zip(self.paths, self.sizes, self.rows, starts, strict=True)
        return [
            {**shared, "pieces": [[path, size, first, stop - first, start + first]]}
            for path, size, count, start in tables
            for first, stop in ranges(count, step)
        ]


def open_source(
    uri: str,
    *,
    columns: Columns,
    reserved: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Source:
    """Find the files of a source and check their columns.

    A folder is searched to its depths. Where it holds images they are the source, and tables
    beside them are not read; a folder of tables alone is a source of tables.
    columns: used by tables alone; reserved: names that no carried column may have; left_out: names
    of columns that are not carried.

    Raises InputError, before any image is read: nothing there, nothing of a known kind, a table
    that is unreadable, lacks a column or has one with a reserved name.
    """
    root, found = _find(storage.absolute(uri))
    images = tuple(file for file in found if file.lower().endswith(IMAGE_SUFFIXES))
    if images:
        _refuse_columns(columns, uri=uri)
        sizes = tuple(storage.sizes(images))
        return Source(uri, root, images, sizes, ((1,),) * len(images))
    tables = tuple(file for file in found if file.lower().endswith(TABLE_SUFFIXES))
    if not tables:
        others = f"{len(found)} other files, such as {_below(root, found[0])}" if found else "none"
        raise InputError(f"wanted {KINDS} at {storage.public_uri(uri)}, came {others}")
    layout, groups = read_layout(tables, columns=columns, reserved=reserved, left_out=left_out)
    return Source(uri, root, tables, tuple(storage.sizes(tables)), groups, layout)


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


def _refuse_columns(columns: Columns, *, uri: str) -> None:
    asked = [name for name in (columns.ra, columns.dec) if name is not None]
    if asked:
        raise InputError(
            f"wanted positions from {', '.join(asked)}, but {storage.public_uri(uri)} is image "
            "files, which have no columns; give a Parquet table with their paths and positions"
        )
