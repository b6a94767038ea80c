"""A unit of a source becomes rows of packed cutouts and rejects, some objects at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from avader.catalogue import rows
from avader.catalogue.columns import FILE_TYPE
from avader.catalogue.pixels import healpix_29, position_problem
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout
from avader.pipelines.duplicates import Duplicates
from avader.pipelines.services import place_of
from avader.pipelines.stages import UnitRows
from avader.plan import Unit
from avader.recipe import Preprocessing
from avader.survey.client import Client
from avader.survey.sources import read_objects
from avader.survey.stored import Shape, checked_cutout, image_columns, stacked, stored_as_bytes


@dataclass(frozen=True)
class PackUnit:
    """Packs one unit: all that a worker process needs to know.

    shape: (C, H, W) of the pixels, which are made, and so checked, where files are stored too.
    client: the worker's own connections to a survey service, where images come from one.
    """

    preprocessing: Preprocessing
    shape: Shape
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
        images: list[Any] = []
        rejects: list[rows.Reject] = []
        repeated = self.duplicates.of(source["source_row"].to_numpy())
        answers = self._ask(source, repeated)
        for number, row in enumerate(light_rows(source)):
            try:
                self._check(row, repeated.get(number))
                image = _there(answers.get(number, row["image"]))
                cutout = checked_cutout(image, self.preprocessing, self.shape)
                images.append(image if self._as_bytes else cutout.pixels)
                cutouts.append(cutout)
                kept.append(number)
            except CutoutError as error:
                rejects.append(rows.Reject(row["object_id"] or "", error.reason, error.detail))
        # Typed, since pyarrow takes an empty plain list for one of nulls.
        light = source.drop_columns(["image", "problem", "source_row"])
        light = light.take(pa.array(kept, pa.int64()))
        return self._table(light, cutouts, images), rejects

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

    @property
    def _as_bytes(self) -> bool:
        return stored_as_bytes(self.schema.field("image").type)

    def _table(self, source: pa.Table, cutouts: list[Cutout], images: list[Any]) -> pa.Table:
        columns = dict(zip(source.column_names, source.columns, strict=True))
        columns["image"] = (
            pa.array(images, FILE_TYPE) if self._as_bytes else stacked(images, self.schema)
        )
        columns |= image_columns(cutouts, self.schema)
        if "_healpix_29" in self.schema.names:
            columns["_healpix_29"] = healpix_29(source["ra"].to_numpy(), source["dec"].to_numpy())
        return rows.table(self.schema, columns)


def _in_nested_order(table: pa.Table) -> pa.Table:
    """The rows sorted by their pixels where they have positions; equal ones stay as they are."""
    if "_healpix_29" not in table.column_names:
        return table
    return table.take(np.argsort(table["_healpix_29"].to_numpy(), kind="stable"))


def _there(image: bytes | CutoutError) -> bytes:
    """The image's bytes. Raises CutoutError with why they are not there."""
    if isinstance(image, CutoutError):
        raise image
    return image


def light_rows(source: pa.Table, extra: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows one by one, without the carried columns but one, where it is named."""
    needed = [
        name
        for name in ("object_id", "ra", "dec", "image", "problem", extra)
        if name in source.column_names
    ]
    for batch in source.select(needed).to_batches(max_chunksize=64):
        yield from batch.to_pylist()
