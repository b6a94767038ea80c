"""What a worker reads of a unit, whose inputs say all of it: ids, positions, or whole objects.

A unit of a table names pieces of tables, in source order, and which of their rows it holds: those
that are selected, and those within a span of HEALPix pixels. What is wrong with one object never
stops the others: its row stays, with its `problem`, the text of a CutoutError.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from avader.catalogue.pixels import placed_pixels
from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.io import storage
from avader.plan import Unit, ranges
from avader.survey.galaxy_zoo import Selection
from avader.survey.image_files import HELD_BYTES, IMAGE_SUFFIXES, read_images
from avader.survey.tables import read_batches

AT_ONCE = 512
"""Objects whose images are held together, or twice as many, but for HELD_BYTES of them."""
IMAGES = 32
"""Images that Parquet unpacks together: a few bytes there may be gigabytes."""
LIGHT = 65_536
"""Rows that are read together where no image is."""

Numbers = npt.NDArray[np.int64]
Inputs = Mapping[str, Any]
Part = tuple[Numbers, pa.Table]
"""Rows of a table with their numbers in the whole source, from 0."""


def read_ids(unit: Unit) -> list[str]:
    """The ids of a unit, in source order, "" for a row without one; no image is read."""
    if unit.inputs["kind"] == "files":
        return [_id_of(path) for path in unit.inputs["paths"]]
    name = unit.inputs["columns"]["id"]
    parts = _parts(unit, [name], at_once=LIGHT)
    return [one for _, rows in parts for one in _ids(rows[name]).to_pylist()]


def read_positions(unit: Unit) -> tuple[Numbers, Numbers]:
    """The objects of a unit of a table with positions: their numbers in the whole source, (N,),

    and their HEALPix pixels of order 29, (N,), UNPLACED where there is no position.
    """
    names = [unit.inputs["columns"][axis] for axis in ("ra", "dec")]
    found = [
        (numbers, _pixels(unit.inputs, rows))
        for numbers, rows in _parts(unit, names, at_once=LIGHT)
    ]
    numbers, pixels = zip(*found, strict=True)
    return np.concatenate(numbers), np.concatenate(pixels)


def read_unit(unit: Unit) -> pa.Table:
    """The objects of a unit, as read_objects gives them, all at once."""
    return pa.concat_tables(read_objects(unit))


def read_objects(unit: Unit) -> Iterator[pa.Table]:
    """The objects of a unit, in source order, some at a time; one table at least.

    Columns: object_id (string, "" where there is none), source_row (int64, its number in the
    whole source, from 0), ra and dec (float64, degrees; where the source has positions; null as
    in the source), image (binary, null where the bytes could not be had, and in a table of
    positions), problem (string; why not, or that there is no id; null where all is well), then
    the carried columns.
    """
    if unit.inputs["kind"] == "files":
        yield from _read_files(unit.inputs)
        return
    inputs, names = unit.inputs, unit.inputs["columns"]
    wanted = [name for name in names.values() if name is not None]
    columns = [*wanted, *inputs["carried"]]
    for numbers, rows in _parts(unit, columns, at_once=AT_ONCE, unpacked=IMAGES):
        yield from _objects(inputs, numbers, rows)


def row_numbers(unit: Unit) -> Numbers:
    """The numbers in the whole source of the rows of a unit in source order, (N,)."""
    inputs = unit.inputs
    if inputs["kind"] == "files":
        return int(inputs["start"]) + np.arange(len(inputs["paths"]))
    if not _deciding(inputs):
        (_, _, _, rows, start), *_ = inputs["pieces"]
        return int(start) + np.arange(rows)
    parts = _parts(unit, [inputs["columns"]["id"]], at_once=LIGHT)
    return np.concatenate([numbers for numbers, _ in parts])


def describe_row(unit: Unit, number: int) -> str:
    """Where the row of this number in the whole source, one of a unit's, stands, for people.

    Rows of a table count from 0.
    """
    if unit.inputs["kind"] == "files":
        return str(unit.inputs["paths"][number - int(unit.inputs["start"])])
    path, first, start = next(
        (path, first, start)
        for path, _, first, rows, start in unit.inputs["pieces"]
        if start <= number < start + rows
    )
    return f"row {first + number - start} of {path}"


def _parts(
    unit: Unit, columns: Sequence[str], *, at_once: int, unpacked: int = LIGHT
) -> Iterator[Part]:
    """Columns of the rows that a unit of a table holds, by at least so many, or of so many bytes,
    but for the last.

    unpacked: rows that Parquet unpacks together. Raises InputError where the unit holds not as
    many as were counted.
    """
    waiting: list[Part] = []
    came = held = size = 0
    for numbers, rows in _held_rows(unit.inputs, columns, at_once=unpacked):
        if len(numbers) or not waiting:
            waiting.append((numbers, rows))
        came, held, size = came + len(numbers), held + len(numbers), size + rows.nbytes
        if held >= at_once or size >= HELD_BYTES:
            yield _joined(waiting)
            waiting, held, size = [], 0, 0
    if waiting:
        yield _joined(waiting)
    counted = unit.inputs.get("count", came)
    if came != counted:
        raise InputError(
            f"wanted {counted:,} objects in unit {unit.name}, came {came:,}: a table has changed "
            "since the plan was made; restore it, or choose a new output folder"
        )


def _joined(parts: Sequence[Part]) -> Part:
    numbers, tables = zip(*parts, strict=True)
    return np.concatenate(numbers), pa.concat_tables(tables)


def _held_rows(inputs: Inputs, columns: Sequence[str], *, at_once: int) -> Iterator[Part]:
    """Columns of the rows that a unit of a table holds, as they are read."""
    needed = list(dict.fromkeys([*columns, *_deciding(inputs)]))
    for path, _, first, rows, start in inputs["pieces"]:
        uri, number = storage.join(inputs["root"], path), start
        for table in read_batches(uri, first=first, rows=rows, columns=needed, at_once=at_once):
            numbers = np.arange(number, number + table.num_rows)
            number += table.num_rows
            held = _held(inputs, table)
            chosen = table.select(list(columns))
            yield numbers[held], chosen if held.all() else chosen.filter(pa.array(held))


def _deciding(inputs: Inputs) -> list[str]:
    """The columns that decide which rows of its pieces a unit holds."""
    names = inputs["columns"]
    found = [names["ra"], names["dec"]] if "span" in inputs else []
    if "selection" in inputs:
        found += [names["id"], inputs["selection"]["votes_column"]]
    return [name for name in found if name is not None]


def _held(inputs: Inputs, table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of a table a unit holds, (N,)."""
    held = np.ones(table.num_rows, bool)
    if "selection" in inputs:
        held &= _selected(inputs, table)
    if "span" in inputs:
        first, stop = inputs["span"]
        pixels = _pixels(inputs, table)
        held &= (first <= pixels) & (pixels < stop)
    return held


def _selected(inputs: Inputs, table: pa.Table) -> npt.NDArray[np.bool_]:
    selection = Selection(**inputs["selection"])
    votes = None
    if selection.votes_column is not None:
        votes = _floats(table[selection.votes_column])
    return selection.mask(_ids(table[inputs["columns"]["id"]]).to_pylist(), votes)


def _pixels(inputs: Inputs, table: pa.Table) -> Numbers:
    ra, dec = (_floats(table[inputs["columns"][axis]]) for axis in ("ra", "dec"))
    return placed_pixels(ra, dec)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers as float64, NaN for nulls."""
    values: npt.NDArray[np.float64] = pc.fill_null(
        column.cast(pa.float64()), float("nan")
    ).to_numpy()
    return values


def _read_files(inputs: Inputs) -> Iterator[pa.Table]:
    paths: Sequence[str] = inputs["paths"]
    for first, stop in ranges(len(paths), AT_ONCE):
        for image, problem in read_images([inputs["root"]] * (stop - first), paths[first:stop]):
            read = first + len(image)
            ids = pa.array([_id_of(path) for path in paths[first:read]], pa.string())
            yield pa.table(
                {
                    "object_id": ids,
                    "source_row": np.arange(first, read) + inputs["start"],
                    "image": image,
                    "problem": _with_ids(problem, ids),
                }
            )
            first = read


def _objects(inputs: Inputs, numbers: Numbers, table: pa.Table) -> Iterator[pa.Table]:
    """Rows of a table as objects, with their images."""
    first = 0
    for image, problem in _images(inputs, numbers, table):
        read = first + len(image)
        yield _with_images(
            inputs, numbers[first:read], table.slice(first, len(image)), image, problem
        )
        first = read


def _with_images(
    inputs: Inputs,
    numbers: Numbers,
    table: pa.Table,
    image: pa.Array | pa.ChunkedArray,
    problem: Sequence[str | None],
) -> pa.Table:
    names = inputs["columns"]
    ids = _ids(table[names["id"]])
    columns = {"object_id": ids, "source_row": numbers}
    if names["ra"] is not None:
        columns |= {axis: table[names[axis]].cast(pa.float64()) for axis in ("ra", "dec")}
    columns |= {"image": image, "problem": _with_ids(problem, ids)}
    return pa.table(columns | {name: table[name] for name in inputs["carried"]})


def _images(
    inputs: Inputs, numbers: Numbers, table: pa.Table
) -> Iterator[tuple[pa.Array | pa.ChunkedArray, list[str | None]]]:
    """The images of a table's rows and why one is not there; null in a table of positions."""
    name = inputs["columns"]["image"]
    if name is None:
        yield pa.nulls(table.num_rows, pa.binary()), [None] * table.num_rows
    elif inputs["image_is_path"]:
        yield from read_images(_folders(inputs, numbers), table[name].to_pylist())
    else:
        image = table[name].cast(pa.binary())
        null = str(CutoutError(Reason.NO_IMAGE, "the image is null"))
        yield image, [None if there else null for there in image.is_valid().to_pylist()]


def _folders(inputs: Inputs, numbers: Numbers) -> list[str]:
    """The folder of the table that each row is in."""
    starts = [start for *_, start in inputs["pieces"]]
    folders = [storage.parent(storage.join(inputs["root"], path)) for path, *_ in inputs["pieces"]]
    return [folders[at] for at in np.searchsorted(starts, numbers, side="right") - 1]


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as strings; integers digit by digit, never through a float."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(pa.string()), "")


def _with_ids(problem: Sequence[str | None], ids: pa.Array) -> pa.Array:
    """The problems, and that there is no id where that is so."""
    texts = [
        text if name else str(CutoutError(Reason.NO_ID, "the id is null or empty"))
        for text, name in zip(problem, ids.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())


def _id_of(path: str) -> str:
    """A path without the ending of an image; bytes that are no UTF-8 as \\xNN."""
    suffix = next(suffix for suffix in IMAGE_SUFFIXES if path.lower().endswith(suffix))
    name = path[: -len(suffix)].encode("utf-8", "surrogateescape")
    return name.decode("utf-8", "backslashreplace")
