"""`hats`: a classified catalogue becomes a HATS collection, which lsdb opens.

A unit is a tile of the sky. The catalogue's parts are pixels, so that a tile is those that lie in
it, one after another, and nothing is shuffled. The margin, a folder of its own within the
collection's, is made first: the collection's manifest is the last word on both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from avader.catalogue import tiles
from avader.catalogue.margins import Margin
from avader.catalogue.pixels import Pixel
from avader.catalogue.provenance import package_versions, provenance
from avader.config import HatsSettings
from avader.errors import InputError
from avader.io import growth, manifest, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.dry_run import Trial
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.tiling.work import Part, gather_margin, join_parts, sky_parts, tile_unit
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Receipt, Unit

# Rows of a row group: what a search in the sky reads at least.
WRITER = {**shards.WRITER, "row_group_size": 50_000}

Parts = Mapping[Pixel, Part]


def run(settings: HatsSettings) -> None:
    """Make the collection. Raises InputError for bad input before any work starts."""
    held = _open(settings)
    parts = sky_parts(held)
    counts = {pixel: part["rows"] for pixel, part in parts.items()}
    cut = tiles.joined(counts, limit=settings.rows_per_pixel)
    plan = _plan(settings, held, parts, cut)
    margin = None
    if not settings.dry_run:
        out = storage.absolute(settings.out)
        manifest.open_plan(out, plan)
        if settings.margin and not manifest.is_finished(out):
            margin = _make_margin(settings, held, parts, list(cut))
    rows = held.totals["rows"]
    written = finish_folder(
        plan,
        settings,
        opening=f"joining {rows:,} rows of {len(parts):,} parts into {len(cut):,} tiles",
        prepare=lambda: [Stage("join", partial(partial, join_parts, held.uri), pooled=True)],
        trial=Trial(
            rows,
            sum(part["size"] for part in parts.values()),
            partial(_trial, held.uri, plan.units[0]),
        ),
        progress=Progress("joined", rows, noun="rows"),
        finish=partial(_finish, settings, held, margin),
        provenance=_provenance(held),
    )
    if written is not None:
        say(f"joined {written.totals['rows']:,} rows into {len(cut):,} tiles: {settings.out}")


def _open(settings: HatsSettings) -> Manifest:
    """The catalogue, of one increment."""
    found = growth.read_increments(storage.absolute(settings.catalogue), kind="classified")
    if len(found) > 1:
        raise InputError(
            f"wanted a catalogue of one increment, got {settings.catalogue} of {len(found)}; join "
            "them with `avader compact`, and give what it makes"
        )
    return found[0]


def _plan(
    settings: HatsSettings, held: Manifest, parts: Parts, cut: Mapping[Pixel, Sequence[Pixel]]
) -> Plan:
    asked = settings.model_dump(include={"name", "rows_per_pixel", "margin"}, mode="json")
    return Plan(
        kind="hats",
        settings={**_common(held), **asked},
        units=tuple(
            tile_unit(tile, [parts[pixel] for pixel in inner]) for tile, inner in cut.items()
        ),
        place=partial(tiles.dataset_path, f"{settings.name}/"),
    )


def _common(held: Manifest) -> dict[str, Any]:
    """What the plans of the catalogue and of its margin have in common."""
    return {
        **{name: held.settings[name] for name in ("model", "data")},
        "catalogue": held.digest,
        "catalogue_uri": storage.public_uri(held.uri),
        "writer": WRITER,
        "versions": package_versions("hats", "cdshealpix"),
    }


def _provenance(held: Manifest) -> dict[str, Any]:
    return provenance(catalogue=held.digest, classification=held.provenance)


def _trial(uri: str, unit: Unit) -> Callable[[], UnitRows]:
    """Joins a tile's first part alone and makes its file."""
    one = Unit(unit.name, {"parts": unit.inputs["parts"][:1]})

    def work() -> UnitRows:
        made = join_parts(uri, one, None)
        shards.parquet_bytes(made.table, WRITER)
        return made

    return work


def _finish(
    settings: HatsSettings, held: Manifest, margin: Manifest | None, receipts: Sequence[Receipt]
) -> dict[str, Any]:
    """Write the collection's own files; facts of its manifest."""
    from avader.pipelines.tiling.files import finish_collection

    name = margin_name(settings) if margin is not None else None
    out = storage.absolute(settings.out)
    files = finish_collection(out, held, receipts, name=settings.name, margin=name)
    kept = {"path": name, "manifest_sha256": margin.digest} if margin is not None else None
    return {**held.facts, "files": files, "margin": kept}


def margin_name(settings: HatsSettings) -> str:
    """The folder of the margin, as HATS collections name them."""
    return f"{settings.name}_{settings.margin:g}arcs"


def margin_plan(settings: HatsSettings, held: Manifest, parts: Parts, cut: Sequence[Pixel]) -> Plan:
    """A unit for each tile with parts around it, and for each such pixel without rows of its own.

    There another catalogue may have what matches a row of this one across the edge.
    """
    listed, spans = list(parts.values()), np.array([pixel.span for pixel in parts])
    around = {
        tile: Margin(tile, settings.margin).among(spans)
        for tile in tiles.in_order([*cut, *tiles.absent(cut)])
    }
    return Plan(
        kind="margin",
        settings={**_common(held), "name": settings.name, "margin": settings.margin},
        units=tuple(
            tile_unit(tile, [listed[at] for at in near])
            for tile, near in around.items()
            if len(near)
        ),
        place=partial(tiles.dataset_path, ""),
    )


def _make_margin(
    settings: HatsSettings, held: Manifest, parts: Parts, cut: Sequence[Pixel]
) -> Manifest | None:
    """Make the margin's folder; None where no part is near another tile."""
    plan = margin_plan(settings, held, parts, cut)
    if not plan.units:
        say(f"no margin: no part is within {settings.margin:g} arcsec of another tile")
        return None
    own = settings.model_copy(update={"out": storage.join(settings.out, margin_name(settings))})
    columns = shards.read_schema(held.uri, plan.units[0].inputs["parts"][0]["path"]).names
    gather = partial(gather_margin, held.uri, settings.margin, columns)
    finish_folder(
        plan,
        own,
        opening=f"finding the rows within {settings.margin:g} arcsec of {len(plan.units):,} tiles",
        prepare=lambda: [Stage("gather", partial(partial, gather), pooled=True)],
        trial=Trial(0, 0),
        progress=Progress("found", None, noun="rows"),
        finish=partial(_finish_margin, settings, own.out, held),
        provenance=_provenance(held),
    )
    return manifest.read_manifest(storage.absolute(own.out), kind="margin")


def _finish_margin(
    settings: HatsSettings, out: str, held: Manifest, receipts: Sequence[Receipt]
) -> dict[str, Any]:
    from avader.pipelines.tiling.files import finish_margin

    files = finish_margin(
        storage.absolute(out), held, receipts, name=settings.name, arcsec=settings.margin
    )
    return {**held.facts, "files": files}
