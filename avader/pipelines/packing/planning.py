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
from avader.survey.stored import Shape

# Objects that make a shard, and those of a survey service.
ROWS_PER_SHARD, ROWS_OF_SERVICE = 1000, 100
STORED_BYTES = 128_000_000
"""Most bytes of a shard's images, pixels decoded, where shards are pixels of the sky."""
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
) -> tuple[Plan, int]:
    """The plan of packing a source, and bytes of an image as stored.

    Raises InputError where the source has no usable cutout.
    """
    store = increment.store(settings)
    shape, file = _sizes(source, preprocessing, service, store)
    stored = math.prod(shape) * np.dtype(preprocessing.dtype).itemsize
    if store == "bytes":
        stored = file
    limit = (
        settings.rows_per_shard or increment.rows_per_shard or _usual_rows(source, stored, service)
    )
    plan = Plan(
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
            "store": store,
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=sky_units(source, limit=limit, given=increment.pixels)
        if source.has_positions
        else source.units(limit),
    )
    return plan, stored


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


def _usual_rows(source: Source, stored: int, service: Service | None) -> int:
    """Objects of a shard where nobody says how many; stored: bytes of an image."""
    if service is not None:
        return ROWS_OF_SERVICE
    if not source.has_positions:
        return ROWS_PER_SHARD
    by_bytes = STORED_BYTES // stored
    return max(1, min(by_bytes, max(ROWS_PER_SHARD, source.objects // FEWEST_SHARDS)))


def _sizes(
    source: Source, preprocessing: Preprocessing, service: Service | None, store: str
) -> tuple[Shape, int]:
    """(C, H, W) of the pixels: where the bands are not declared, the service's, or the first good
    cutout's. And bytes of that one's file, where files are stored.

    Raises InputError where it needs a good cutout and there is none.
    """
    side = preprocessing.size
    bands, file = output_bands(preprocessing), 0
    if service is not None:  # its files are taken to be no larger than their pixels in float32
        bands, file = bands or service.planes, 4 * service.planes * service.size**2
    elif bands is None or store == "bytes":
        bands, file = _first_good(source, preprocessing)
    return (bands, side, side), file


def _first_good(source: Source, preprocessing: Preprocessing) -> tuple[int, int]:
    """Bands and bytes of the first good cutout."""
    last = "the source is empty"
    for row in _first_rows(source):
        image = row["image"] or b""
        try:
            return len(read_cutout(image, preprocessing).pixels), len(image)
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
