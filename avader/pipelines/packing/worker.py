"""A unit of a source becomes rows of packed cutouts and rejects, some objects at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from avader.catalogue import rows, schema
from avader.catalogue.pixels import healpix_29, position_problem
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout, read_cutout
from avader.pipelines.duplicates import Duplicates
from avader.pipelines.services import place_of
from avader.pipelines.stages import UnitRows
from avader.plan import Unit
from avader.recipe import Preprocessing
from avader.survey.client import Client
from avader.survey.sources import read_objects


@dataclass(frozen=True)
class PackUnit:
    """Packs one unit: all that a worker process needs to know.

    client: the worker's own connections to a survey service, where images come from one.
    """

    preprocessing: Preprocessing
    schema: pa.Schema
    duplicates: Duplicates
    client: Client | None = None

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Read, check and prepare a unit's cutouts; where they have positions, in nested order.

        Images as they came are held some at a time, whatever the unit has.
        """
        rows_in, tables, rejects = 0, list[pa.Table](), list[rows.Reject]()
        for objects in read_objects(unit):
            table, refused = self._pack(objects)
            rows_in += objects.num_rows
            tables.append(table)
            rejects += refused
        return UnitRows(
            rows_in=rows_in,
            table=_in_nested_order(pa.concat_tables(tables).combine_chunks()),
            rejects=rows.reject_table(rejects, unit.name),
        )

    def _pack(self, source: pa.Table) -> tuple[pa.Table, list[rows.Reject]]:
        """Packed cutouts of some objects, and what was refused of them."""
        kept: list[int] = []
        cutouts: list[Cutout] = []
        rejects: list[rows.Reject] = []
        repeated = self.duplicates.of(source["source_row"].to_numpy())
        answers = self._ask(source, repeated)
        for number, row in enumerate(light_rows(source)):
            try:
                self._check(row, repeated.get(number))
                cutouts.append(self._prepare(answers.get(number, row["image"])))
                kept.append(number)
            except CutoutError as error:
                rejects.append(rows.Reject(row["object_id"] or "", error.reason, error.detail))
        # Typed, since pyarrow takes an empty plain list for one of nulls.
        light = source.drop_columns(["image", "problem", "source_row"])
        return self._table(light.take(pa.array(kept, pa.int64())), cutouts), rejects

    def _ask(self, source: pa.Table, repeated: Mapping[int, str]) -> dict[int, bytes | CutoutError]:
        """What the survey service gives for the rows that have nothing wrong so far, by row."""
        if self.client is None:
            return {}
        service, places, answers = self.client.service, {}, {}
        for number, row in enumerate(light_rows(source, service.scale_column)):
            try:
                self._check(row, repeated.get(number))
                places[number] = place_of(row, service)
            except CutoutError as error:
                answers[number] = error
        came = self.client.cutouts(list(places.values()))
        return answers | dict(zip(places, came, strict=True))

    def _check(self, row: Mapping[str, Any], repeated: str | None) -> None:
        """Raise CutoutError with the first thing that is wrong with a row, but for its image."""
        if repeated is not None:
            raise CutoutError(Reason.DUPLICATE_ID, repeated)
        if not row["object_id"]:
            raise CutoutError(Reason.NO_ID, "wanted an id, got none")
        if row["problem"]:
            raise CutoutError.parse(row["problem"])
        if "ra" in row and (problem := position_problem(row["ra"], row["dec"])):
            none = any(row[axis] is None or not np.isfinite(row[axis]) for axis in ("ra", "dec"))
            raise CutoutError(Reason.NO_POSITION if none else Reason.BAD_POSITION, problem)

    def _prepare(self, image: bytes | CutoutError) -> Cutout:
        """The cutout in an image. Raises CutoutError with what is wrong with it."""
        if isinstance(image, CutoutError):
            raise image
        cutout = read_cutout(image, self.preprocessing)
        wanted = tuple(self.schema.field("image").type.shape)
        if cutout.pixels.shape != wanted:
            raise CutoutError(
                Reason.WRONG_BANDS, f"wanted {wanted[0]} bands, got {cutout.pixels.shape[0]}"
            )
        return cutout

    def _table(self, source: pa.Table, cutouts: list[Cutout]) -> pa.Table:
        tensor = self.schema.field("image").type
        pixels = [cutout.pixels for cutout in cutouts]
        columns = dict(zip(source.column_names, source.columns, strict=True))
        columns |= {
            "image": np.stack(pixels) if pixels else np.zeros((0, *tensor.shape), np.uint8),
            "limit_low": np.array([cutout.low for cutout in cutouts], np.float64),
            "limit_high": np.array([cutout.high for cutout in cutouts], np.float64),
            "flags": np.array([_flags(cutout) for cutout in cutouts], np.int32),
        }
        columns |= _source_columns(cutouts, self.schema)
        if "_healpix_29" in self.schema.names:
            columns["_healpix_29"] = healpix_29(source["ra"].to_numpy(), source["dec"].to_numpy())
        return rows.table(self.schema, columns)


def _in_nested_order(table: pa.Table) -> pa.Table:
    """The rows sorted by their pixels where they have positions; equal ones stay as they are."""
    if "_healpix_29" not in table.column_names:
        return table
    return table.take(np.argsort(table["_healpix_29"].to_numpy(), kind="stable"))


def _source_columns(cutouts: Sequence[Cutout], wanted: pa.Schema) -> dict[str, np.ndarray]:
    """The optional columns about the central source, of those cutouts that have one."""
    turns = [cutout.orientation for cutout in cutouts if cutout.orientation is not None]
    masks = [cutout.source for cutout in cutouts if cutout.source is not None]
    columns: dict[str, np.ndarray] = {
        "orientation_angle": np.array([turn.angle for turn in turns], np.float32),
        "orientation_flips": np.array([turn.flips for turn in turns], np.uint8),
        "mask_fraction": np.array([mask.mean() for mask in masks], np.float32),
    }
    if "source_mask" in wanted.names:
        packed = [np.packbits(mask) for mask in masks]
        length = wanted.field("source_mask").type.list_size
        columns["source_mask"] = np.array(packed, np.uint8).reshape(len(masks), length)
    return columns


def light_rows(source: pa.Table, extra: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows one by one, without the carried columns but one, where it is named."""
    needed = [
        name
        for name in ("object_id", "ra", "dec", "image", "problem", extra)
        if name in source.column_names
    ]
    for batch in source.select(needed).to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def _flags(cutout: Cutout) -> int:
    return (
        cutout.saturated * schema.Flag.SATURATED
        | cutout.touches_edge * schema.Flag.TOUCHES_EDGE
        | cutout.masked * schema.Flag.MASKED_PIXELS
    )
