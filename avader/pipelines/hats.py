"""`hats`: a catalogue with positions becomes a HATS collection, which lsdb opens.

A unit is a tile of the sky. The catalogue's parts are pixels, so that a tile is those that lie in
it, one after another, and nothing is shuffled. The margin, a folder of its own within the
collection's, is made first: the collection's manifest is the last word on both.

A tile is a folder of files. The catalogue's next increment adds a file to each of those that it
has rows for, and new tiles where there was none; no file of rows is touched. The collection's own
files are then written anew, and there is a new margin.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from avader.catalogue import tiles
from avader.catalogue.columns import FILE_TYPE
from avader.catalogue.provenance import provenance
from avader.config import HatsSettings
from avader.io import growth, manifest, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.dry_run import Step, Trial, Work
from avader.pipelines.finished import is_done, say_finished
from avader.pipelines.memory import joining_need
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage
from avader.pipelines.tiling.margin import make_margin, margin_name
from avader.pipelines.tiling.versions import (
    Version,
    common_settings,
    kept_facts,
    origin,
    read_versions,
)
from avader.pipelines.tiling.work import join_parts, tile_unit
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Receipt, Unit


def run(settings: HatsSettings) -> None:
    """Make the collection, or what of it is new. Raises InputError before any work starts."""
    out = storage.absolute(settings.out)
    versions = read_versions(storage.absolute(settings.catalogue), limit=settings.rows_per_pixel)
    plans = [_plan(settings, version) for version in versions]
    done = [
        is_done(plan, growth.folder(out, version.number))
        for plan, version in zip(plans, versions, strict=True)
    ]
    if all(done) and not settings.dry_run:
        growth.publish(out, len(versions))
        say_finished(settings)
        return
    missing = [at for at in range(len(versions)) if not done[at]]
    for at in missing or [len(versions) - 1]:
        _make(settings, versions[at], plans[at])
        if not settings.dry_run:
            growth.publish(out, at + 1)


def _make(settings: HatsSettings, version: Version, plan: Plan) -> None:
    """Make an increment of the collection."""
    out = growth.folder(storage.absolute(settings.out), version.number)
    held, margin = version.increments[-1], None
    rows, count = held.totals["rows"], len(plan.units)
    size = sum(part["size"] for part in version.parts[-1].values())
    columns = shards.read_schema(held.uri, held.paths[0])
    holds_files = "image" in columns.names and columns.field("image").type == FILE_TYPE
    need = joining_need(columns, plan.units, stored=size // max(1, rows) * holds_files)
    if settings.margin and not settings.dry_run:
        margin = make_margin(settings, version, need, partial(manifest.open_plan, out, plan))
    written = finish_folder(
        plan,
        settings.model_copy(update={"out": out}),
        opening=f"joining {rows:,} rows of {len(version.parts[-1]):,} parts into {count:,} tiles",
        prepare=lambda: [Stage("join", partial(partial, join_parts, version.uri), pooled=True)],
        trial=Trial(rows, size, partial(_trial, version.uri, plan)),
        progress=Progress("joined", rows, noun="rows"),
        finish=partial(_finish, settings, version, plan, margin),
        provenance=provenance(**origin(held)),
        need=need,
    )
    if settings.dry_run and settings.margin:
        say(f"  besides a margin of {settings.margin:g} arcsec, which is made first: not counted")
    if written is not None:
        say(f"joined {written.totals['rows']:,} rows into {count:,} tiles: {settings.out}")


def _plan(settings: HatsSettings, version: Version) -> Plan:
    asked = settings.model_dump(include={"name", "margin"}, mode="json")
    asked["rows_per_pixel"] = version.limit
    parts, file = version.parts[-1], f"/{version.number:06d}.parquet"
    return Plan(
        kind="hats",
        # The suffix keeps collections apart whose tiles were files, as they once were.
        settings={**common_settings(version.increments[-1]), **asked, "npix_suffix": "/"},
        units=tuple(
            tile_unit(tile, [parts[pixel] for pixel in inner])
            for tile, inner in version.cuts[-1].items()
        ),
        place=partial(tiles.dataset_path, f"{settings.name}/", suffix=file),
        root=storage.absolute(settings.out) if version.number > 1 else None,
    )


def _trial(uri: str, plan: Plan) -> Work:
    """Joins the first tile's first part alone."""
    first = plan.units[0]
    unit = Unit(first.name, {"parts": first.inputs["parts"][:1]})
    return [Step(partial(join_parts, uri, unit))]


def _finish(
    settings: HatsSettings,
    version: Version,
    plan: Plan,
    margin: Manifest | None,
    receipts: Sequence[Receipt],
) -> dict[str, Any]:
    """Write the collection's own files, of all increments up to this one; facts of its manifest."""
    from avader.pipelines.tiling.files import finish_collection

    out = storage.absolute(settings.out)
    before = [manifest.read_manifest(growth.folder(out, at)) for at in range(1, version.number)]
    parts = [part for held in before for part in held.parts]
    parts += manifest.listed(growth.folder(out, version.number), plan, receipts)
    name = margin_name(settings, version) if margin is not None else None
    files = finish_collection(out, version.whole, parts, name=settings.name, margin=name)
    kept = {"path": name, "manifest_sha256": margin.digest} if margin is not None else None
    return {**kept_facts(version.whole), "files": files, "margin": kept}
