"""Classified catalogues whose parts are HEALPix pixels, written by the real writers."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from avader.catalogue import rows
from avader.catalogue.pixels import (
    FINEST,
    SPATIAL_ORDER,
    Pixel,
    adaptive_pixels,
    healpix_29,
    named_pixel,
)
from avader.catalogue.provenance import provenance
from avader.io import growth, manifest, shards
from avader.plan import Plan, Unit
from tests.catalogues import COMPONENTS, LATENT, classified

UNPLACED = "unplaced-00000000"


def patch(count: int, *, ra: float, dec: float, width: float, seed: int = 0) -> np.ndarray:
    """(2, count) positions, degrees, evenly over a square patch of the sky of that width."""
    generator = np.random.default_rng(seed)
    up = dec + generator.uniform(-width / 2, width / 2, count)
    across = generator.uniform(-width / 2, width / 2, count) / np.cos(np.radians(up))
    return np.stack([(ra + across) % 360, up])


def jittered(positions: np.ndarray, *, arcsec: float, seed: int) -> np.ndarray:
    """Each position moved by at most so many arcsec, in any direction; not at a pole."""
    generator = np.random.default_rng(seed)
    radius = arcsec / 3600 * np.sqrt(generator.uniform(size=positions.shape[1]))
    angle = generator.uniform(0, 2 * np.pi, positions.shape[1])
    ra, dec = positions
    moved = ra + radius * np.cos(angle) / np.cos(np.radians(dec)), dec + radius * np.sin(angle)
    return np.stack([moved[0] % 360, moved[1]])


def at(positions: np.ndarray, *, seed: int = 0, **carried) -> pa.Table:
    """Rows of a classified catalogue at positions (2, N), sorted by pixel."""
    table = classified(positions.shape[1], seed=seed, **carried)
    places = {"ra": positions[0], "dec": positions[1], "_healpix_29": healpix_29(*positions)}
    for name, values in places.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table.sort_by("_healpix_29")


def numbered(table: pa.Table, first: int, stop: int | None = None) -> pa.Table:
    """The rows of these numbers, in the order that they had before they were sorted by pixel."""
    numbers = np.array([int(name) - 10**17 for name in table["object_id"].to_pylist()])
    return table.filter(pa.array((numbers >= first) & (numbers < (stop or len(table)))))


def parts_of(table: pa.Table, *, limit: int, given: Sequence[Pixel] = ()) -> dict[Pixel, pa.Table]:
    """The rows of each pixel that packing would make of them. given: pixels that stay."""
    places = table["_healpix_29"].to_numpy()
    shift = 2 * (SPATIAL_ORDER - FINEST)
    counts = np.bincount(places >> shift, minlength=12 * 4**FINEST)
    parts = {}
    for pixel in adaptive_pixels(counts, limit=limit, given=given):
        first, stop = np.searchsorted(places, pixel.span)
        parts[pixel] = table.slice(first, stop - first)
    return parts


def write_sky(out, table: pa.Table, *, limit: int, kind: str = "classified") -> str:
    """A finished catalogue of these rows, in parts of at most `limit` rows where it can; its URI.

    A last part has no row, and one reject that had no position.
    """
    parts = {pixel.name: part for pixel, part in parts_of(table, limit=limit).items()}
    parts[UNPLACED] = table.slice(0, 0)
    return write_parts(out, parts, kind=kind)


def grow_sky(out, table: pa.Table, *, limit: int) -> None:
    """Add rows to a finished catalogue as its next increment, which it then has."""
    held = growth.read_increments(str(out))
    names = {PurePosixPath(path).stem for one in held for path in one.paths}
    given = [pixel for pixel in map(named_pixel, sorted(names)) if pixel is not None]
    parts = parts_of(table, limit=limit, given=given)
    number = len(held) + 1
    # A unit without rows, as of objects that are all refused.
    named = {pixel.name: part for pixel, part in parts.items()} or {UNPLACED: table}
    write_parts(growth.folder(str(out), number), named)
    growth.publish(str(out), number)


def write_parts(
    out, parts: dict[str, pa.Table], *, kind: str = "classified", settings=None, facts=None
) -> str:
    """A finished folder of these parts, by the names of their units; its URI.

    settings: of its plan; facts: of its manifest; none takes a classified catalogue's.
    """
    plan = Plan(
        kind,
        settings or {"model": "m" * 64, "data": "d" * 64, "data_uri": "somewhere"},
        tuple(Unit(name, {}) for name in parts),
    )
    manifest.open_plan(str(out), plan)
    receipts = []
    for unit in plan.units:
        part, refused = parts[unit.name], []
        if unit.name == UNPLACED:
            refused = [rows.Reject("nowhere", "bad_position", "ra is nan")]
        receipts.append(
            shards.write_unit(
                str(out),
                unit,
                rows_in=len(part) + len(refused),
                table=part,
                rejects=rows.reject_table(refused, unit.name),
            )
        )
    known = facts or {"components": COMPONENTS, "latent": LATENT}
    manifest.write_manifest(str(out), plan, receipts, provenance=provenance(), facts=known)
    return str(out)
