"""How a source is cut into units: in source order, or by the sky where it has positions."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from avader.catalogue.pixels import named_pixel
from avader.catalogue.provenance import package_versions
from avader.config import PackSettings
from avader.errors import InputError
from avader.images.checks import CutoutError
from avader.images.cutouts import output_bands, read_cutout
from avader.io import shards, storage
from avader.pipelines.packing.adding import Increment
from avader.pipelines.packing.worker import light_rows
from avader.pipelines.progress import size
from avader.plan import Plan, Unit
from avader.recipe import Preprocessing
from avader.survey.services import Service
from avader.survey.sky import sky_units, times_read
from avader.survey.sources import Source, read_objects

# Objects that make a shard, and those of a survey service.
ROWS_PER_SHARD, ROWS_OF_SERVICE = 1000, 100
DECODED_BYTES = 128_000_000
"""Most bytes of a shard's pixels, decoded, where shards are pixels of the sky."""
FEWEST_SHARDS = 64
"""What a source with positions makes at least, if it has objects enough: for its workers."""
SCATTERED, MUCH = 10, 10**10
"""Where a source's rows are read so many times over, and so many bytes, its owner is told."""


def plan_packing(
    settings: PackSettings,
    source: Source,
    preprocessing: Preprocessing,
    service: Service | None,
    increment: Increment,
) -> Plan:
    """The plan of packing a source. Raises InputError where it has no usable cutout."""
    shape = _shape(source, preprocessing, service)
    limit = (
        settings.rows_per_shard
        or increment.rows_per_shard
        or _usual_rows(source, preprocessing, shape, service)
    )
    return Plan(
        kind="cutouts",
        settings={
            "source": storage.public_uri(storage.absolute(settings.source)),
            "files": source.digest,
            "columns": settings.model_dump(
                include={"id_column", "ra_column", "dec_column", "image_column"}
            ),
            "selection": None
            if source.taken is None
            else settings.model_dump(include={"split", "min_votes", "votes_column"}),
            "rows_per_shard": limit,
            "service": None if service is None else service.content,
            "preprocessing": preprocessing.model_dump(mode="json"),
            "shape": shape,
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=sky_units(source, limit=limit, given=increment.pixels)
        if source.has_positions
        else source.units(limit),
    )


def describe_units(units: Sequence[Unit]) -> str:
    """How many shards of what a source becomes."""
    orders = [pixel.order for unit in units if (pixel := named_pixel(unit.name))]
    if not orders:
        return f"{len(units):,} shards"
    upto = f" to {max(orders)}" if max(orders) > min(orders) else ""
    return f"{len(units):,} shards, HEALPix pixels of order {min(orders)}{upto},"


def describe_scatter(source: Source, plan: Plan) -> str:
    """A line of advice where units look at the source's rows many times over, else nothing."""
    times = times_read(source, plan.units) if source.has_positions else 0.0
    read = round(times * sum(source.sizes))
    if times < SCATTERED or read < MUCH:
        return ""
    return (
        f"\n  row groups of the source hold objects of many pixels, so that it is read "
        f"{times:,.0f} times, {size(read)}: sorted by position, in row groups of at most "
        f"{plan.settings['rows_per_shard']:,} rows, it would pack faster"
    )


def _usual_rows(
    source: Source,
    preprocessing: Preprocessing,
    shape: tuple[int, int, int],
    service: Service | None,
) -> int:
    """Objects of a shard where nobody says how many."""
    if service is not None:
        return ROWS_OF_SERVICE
    if not source.has_positions:
        return ROWS_PER_SHARD
    by_bytes = DECODED_BYTES // (math.prod(shape) * np.dtype(preprocessing.dtype).itemsize)
    return max(1, min(by_bytes, max(ROWS_PER_SHARD, source.objects // FEWEST_SHARDS)))


def _shape(
    source: Source, preprocessing: Preprocessing, service: Service | None
) -> tuple[int, int, int]:
    """(C, H, W) of the packed pixels: where the bands are not declared, the service's, or the
    first good cutout's.

    Raises InputError where it needs a good cutout and there is none.
    """
    bands = output_bands(preprocessing)
    if bands is None and service is not None:
        bands = service.planes
    bands = bands or _first_bands(source, preprocessing)
    return bands, preprocessing.size, preprocessing.size


def _first_bands(source: Source, preprocessing: Preprocessing) -> int:
    last = "the source is empty"
    for row in _first_rows(source):
        try:
            return len(read_cutout(row["image"] or b"", preprocessing).pixels)
        except CutoutError as error:
            last = str(error)
    raise InputError(
        f"wanted at least one usable cutout in the source, got none (the last one: {last}); look "
        "at the source and at --preprocessing.*"
    )


def _first_rows(source: Source) -> Iterator[dict[str, Any]]:
    for unit in source.units(ROWS_PER_SHARD):
        for objects in read_objects(unit):
            yield from light_rows(objects)
