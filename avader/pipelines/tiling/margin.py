"""The margin of a version of the catalogue: a folder of its own within the collection's."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avader.catalogue import tiles
from avader.catalogue.margins import Margin
from avader.catalogue.pixels import Pixel
from avader.catalogue.provenance import provenance
from avader.config import HatsSettings
from avader.io import growth, manifest, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.dry_run import Trial
from avader.pipelines.memory import Need
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage
from avader.pipelines.tiling.versions import (
    Part,
    Version,
    common_settings,
    kept_facts,
    origin,
)
from avader.pipelines.tiling.work import gather_margin, margin_readers, tile_unit
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Receipt

READING = 18 * shards.AT_ONCE
"""What a part's images take while some of its rows are decoded: these, and a page of millions."""


def make_margin(
    settings: HatsSettings, version: Version, tiles_need: Need, claim: Callable[[], None]
) -> Manifest | None:
    """Make the margin's folder; None where no part is near another tile.

    tiles_need: what a worker takes for the tiles, which come next: where there is no room for
    that, nothing is made. claim: claims the collection, called once there is room.
    """
    plan = _plan(settings, version)
    if not plan.units:
        say(f"no margin: no part is within {settings.margin:g} arcsec of another tile")
        return None
    own = settings.model_copy(
        update={"out": storage.join(settings.out, margin_name(settings, version))}
    )
    columns = shards.read_schema(version.uri, plan.units[0].inputs["parts"][0]["path"]).names
    own_need = Need(besides=READING * margin_readers(columns) * ("image" in columns))
    gather = partial(gather_margin, version.uri, settings.margin, columns)

    def prepare() -> list[Stage]:
        claim()
        return [Stage("gather", partial(partial, gather), pooled=True)]

    finish_folder(
        plan,
        own,
        opening=f"finding the rows within {settings.margin:g} arcsec of {len(plan.units):,} tiles",
        prepare=prepare,
        trial=Trial(0, 0),
        progress=Progress("found", None, noun="rows"),
        finish=partial(_finish, settings, storage.absolute(own.out), plan, version.whole),
        provenance=provenance(**origin(version.whole)),
        need=max(own_need, tiles_need, key=lambda need: need.total),
    )
    return manifest.read_manifest(storage.absolute(own.out), kind="margin")


def margin_name(settings: HatsSettings, version: Version) -> str:
    """The folder of the margin, as HATS collections name them; with a number after the first.

    Each version has its own, which stays as it is: later tiles may begin where earlier margins of
    empty sky end.
    """
    name = f"{settings.name}_{settings.margin:g}arcs"
    return name if version.number == 1 else f"{name}_{version.number:06d}"


def _plan(settings: HatsSettings, version: Version) -> Plan:
    """A unit for each tile with parts around it, and for each such pixel without rows of its own.

    There another catalogue may have what matches a row of this one across the edge.
    """
    listed = [list(parts.items()) for parts in version.parts if parts]
    spans = [np.array([pixel.span for pixel, _ in parts]) for parts in listed]
    around = {
        tile: _near(Margin(tile, settings.margin), listed, spans) for tile in _whole_sky(version)
    }
    own = {"name": settings.name, "margin": settings.margin}
    return Plan(
        kind="margin",
        settings={**common_settings(version.whole), **_origin(version), **own},
        units=tuple(tile_unit(tile, near) for tile, near in around.items() if near),
        place=partial(tiles.dataset_path, ""),
    )


def _near(
    margin: Margin,
    listed: Sequence[Sequence[tuple[Pixel, Part]]],
    spans: Sequence[NDArray[np.int64]],
) -> list[Part]:
    """Parts that a margin reaches into, by pixel; those of one pixel in order of increment.

    listed: of each increment, by pixel; spans: of these pixels.
    """
    found = [
        parts[at]
        for parts, edges in zip(listed, spans, strict=True)
        for at in margin.among(edges).tolist()
    ]
    return [part for _, part in sorted(found, key=lambda each: (each[0].span[0], each[0].order))]


def _whole_sky(version: Version) -> list[Pixel]:
    """Tiles, and between them the pixels that have none, in nested order."""
    return tiles.in_order([*version.tiles, *tiles.absent(version.tiles)])


def _origin(version: Version) -> Mapping[str, Any]:
    """The cutouts that several increments were made from; a synthetic sky is made from none."""
    if version.number == 1 or version.whole.kind == "synthetic":
        return {}
    return {"data": [digest for one in version.increments for digest in growth.data_of(one)]}


def _finish(
    settings: HatsSettings, out: str, plan: Plan, whole: Manifest, receipts: Sequence[Receipt]
) -> dict[str, Any]:
    """Write the margin's own files; facts of its manifest."""
    from avader.pipelines.tiling.files import finish_margin

    parts = manifest.listed(out, plan, receipts)
    files = finish_margin(out, whole, parts, name=settings.name, arcsec=settings.margin)
    return {**kept_facts(whole), "files": files}
