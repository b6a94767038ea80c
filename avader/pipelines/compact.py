"""`compact`: what increments left of a grown folder becomes one increment again, in new shards.

Where rows have positions, shards are the pixels that all rows together ask for: small ones are
joined, those that grew too large are split. Rows and rejects stay as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from avader.catalogue.pixels import FINEST, SPATIAL_ORDER, adaptive_pixels
from avader.catalogue.provenance import package_versions, provenance
from avader.catalogue.schema import reject_schema
from avader.config import CompactSettings
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.dry_run import Step, Trial, Work
from avader.pipelines.memory import file_bytes, joining_need
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit, unit_name

KINDS = ("cutouts", "classified")
READERS = 8
PLACE = "_healpix_29"
# Objects of a shard where neither the command nor the folder says how many.
ROWS_PER_SHARD = 100_000

Part = Mapping[str, Any]


def run(settings: CompactSettings) -> None:
    """Compact a folder. Raises InputError for bad input before any work starts."""
    data = storage.absolute(settings.data)
    made = growth.read_increments(data)
    held = growth.as_one(data, made)
    if held.kind not in KINDS:
        raise InputError(
            f"wanted packed cutouts or a classified catalogue, got a folder of {held.kind} in "
            f"{storage.public_uri(held.uri)}"
        )
    limit = settings.rows_per_shard or held.settings.get("rows_per_shard", ROWS_PER_SHARD)
    schema = shards.read_schema(held.uri, held.paths[0])
    plan = _plan(held, made, limit, by_sky=PLACE in schema.names)
    written = finish_folder(
        plan,
        settings,
        opening=f"compacting {held.totals['rows']:,} rows from {len(held.parts):,} shards into "
        f"{len(plan.units):,}",
        prepare=lambda: [Stage("compact", partial(partial, _join, held.uri, schema), pooled=True)],
        trial=Trial(
            held.totals["rows"],
            sum(part["size"] for part in held.parts),
            partial(_trial, held, schema),
        ),
        progress=Progress("compacted", held.totals["rows_in"], noun="objects"),
        facts=held.facts,
        provenance={
            **held.provenance,
            **provenance(),
            "compacted": held.digest,
            "compacted_versions": held.provenance.get("versions"),
        },
        need=joining_need(schema, plan.units, stored=file_bytes(held)),
    )
    if written is not None:
        totals = written.totals
        say(f"compacted {totals['rows']:,} rows, {totals['rejects']:,} rejects into {settings.out}")


def _plan(held: Manifest, made: Sequence[Manifest], limit: int, *, by_sky: bool) -> Plan:
    """The plan of a version's increments as one, `held`; made: those increments."""
    units = _by_sky(held, limit) if by_sky else _by_order(held, limit)
    settings = {**held.settings, "compacted": held.digest, "rows_per_shard": limit}
    if "data" in settings:
        settings["data"] = [digest for one in made for digest in growth.data_of(one)]
    own = {"writer": shards.WRITER, "versions": package_versions()}
    return Plan(held.kind, {**settings, **own}, tuple(units))


def _by_order(held: Manifest, limit: int) -> Iterator[Unit]:
    """Parts in their order, so many that a shard has at most `limit` rows, or one part."""
    groups: list[list[Part]] = []
    for part in held.parts:
        if not groups or sum(p["rows"] for p in groups[-1]) + part["rows"] > limit:
            groups.append([])
        groups[-1].append(part)
    for number, group in enumerate(groups):
        yield Unit(unit_name(number), {"parts": _named(group), "rejects": _refused(group)})


def _by_sky(held: Manifest, limit: int) -> Iterator[Unit]:
    """A unit for each pixel; the rejects of a part are those of the first pixel that it is in.

    Parts' positions are read twice, and a count for each pixel of order 10 is held.
    """
    with ThreadPoolExecutor(READERS) as pool:
        counts = np.zeros(12 * 4**FINEST, np.int64)
        for places in pool.map(partial(_places, held.uri), held.parts):
            np.add.at(counts, places >> 2 * (SPATIAL_ORDER - FINEST), 1)
        pixels = adaptive_pixels(counts, limit=limit)
        firsts = np.array([pixel.span[0] for pixel in pixels], np.int64)
        owners = partial(_owners, held.uri, firsts)
        within: list[list[Part]] = [[] for _ in pixels]
        refused: list[list[Part]] = [[] for _ in pixels] or [[]]
        for part, found in zip(held.parts, pool.map(owners, held.parts), strict=True):
            for owner in found:
                within[owner].append(part)
            refused[found[0] if len(found) else -1].append(part)
    for pixel, parts, others in zip(pixels, within, refused, strict=bool(pixels)):
        inputs = {"span": list(pixel.span), "parts": _named(parts), "rejects": _refused(others)}
        yield Unit(pixel.name, inputs)
    if not pixels:
        yield Unit("unplaced-00000000", {"parts": [], "rejects": _refused(refused[0])})


def _places(uri: str, part: Part) -> np.ndarray:
    """(N,) `_healpix_29` of a part's rows."""
    if not part["rows"]:
        return np.zeros(0, np.int64)
    places: np.ndarray = shards.read_part(uri, part["path"], [PLACE])[PLACE].to_numpy()
    return places


def _owners(uri: str, firsts: np.ndarray, part: Part) -> list[int]:
    """Which pixels have rows of a part, ascending."""
    return np.unique(np.searchsorted(firsts, _places(uri, part), side="right") - 1).tolist()


def _named(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts that have rows, as a unit lists them."""
    names = ("path", "rows", "sha256")
    return [{name: part[name] for name in names} for part in parts if part["rows"]]


def _refused(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Rejects of these parts, as a unit lists them."""
    return [
        {"path": part["rejects_path"], "rows": part["rejects"], "sha256": part["rejects_sha256"]}
        for part in parts
        if part["rejects"]
    ]


def _join(uri: str, schema: pa.Schema, unit: Unit, _: None) -> UnitRows:
    """A unit's rows and rejects; in nested order, and within its span, where it has one."""
    tables = [shards.read_whole_part(uri, part) for part in unit.inputs["parts"]]
    if "span" in unit.inputs:
        tables = [_within(table, *unit.inputs["span"]) for table in tables]
    table = pa.concat_tables([schema.empty_table(), *tables])
    if "span" in unit.inputs:
        table = table.take(np.argsort(table[PLACE].to_numpy(), kind="stable"))
    rejects = [shards.read_whole_part(uri, part) for part in unit.inputs["rejects"]]
    refused = pa.concat_tables([reject_schema().empty_table(), *rejects])
    names = pa.array([unit.name] * refused.num_rows, pa.string())
    at = refused.schema.get_field_index("unit")
    refused = refused.set_column(at, refused.schema.field(at), names)
    return UnitRows(table.num_rows + refused.num_rows, table, refused)


def _within(table: pa.Table, first: int, stop: int) -> pa.Table:
    """The rows whose place is from first to stop."""
    places = table[PLACE].to_numpy()
    return table.take(np.flatnonzero((places >= first) & (places < stop)))


def _trial(held: Manifest, schema: pa.Schema) -> Work:
    part = next(part for part in held.parts if part["rows"])
    unit = Unit("trial", {"parts": _named([part]), "rejects": []})
    return [Step(partial(_join, held.uri, schema, unit))]
