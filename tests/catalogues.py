"""Finished folders of any rows, written by the real writers."""

import numpy as np
import pyarrow as pa

from avader.catalogue import rows, schema
from avader.catalogue.provenance import provenance
from avader.io import manifest, shards
from avader.plan import Plan, Unit, unit_name

COMPONENTS, LATENT = 4, 3


def write_folder(
    out,
    table: pa.Table,
    *,
    per_part: int,
    kind: str = "classified",
    settings=None,
    facts=None,
    refused=(),
) -> str:
    """A finished folder of these rows; its URI. refused: rejects of the first part."""
    starts = range(0, max(1, table.num_rows), per_part)
    units = tuple(Unit(unit_name(number), {}) for number in range(len(starts)))
    plan = Plan(kind, settings or {"model": "m" * 64, "data": "d" * 64}, units)
    manifest.open_plan(str(out), plan)
    receipts = []
    for unit, start in zip(units, starts, strict=True):
        part = table.slice(start, per_part)
        rejects = rows.reject_table([] if receipts else list(refused), unit.name)
        rows_in = len(part) + len(rejects)
        receipts.append(
            shards.write_unit(str(out), unit, rows_in=rows_in, table=part, rejects=rejects)
        )
    known = {"components": COMPONENTS, "latent": LATENT} if facts is None else facts
    manifest.write_manifest(str(out), plan, receipts, provenance=provenance(), facts=known)
    return str(out)


def classified(
    count: int, *, seed: int = 0, positions: bool = True, latent: int = LATENT, **carried
) -> pa.Table:
    """Rows of a classified catalogue all over the sky; other columns as given."""
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.full(COMPONENTS, 0.3), count).astype(np.float32)
    numbers = {
        "object_id": np.array([f"{10**17 + number}" for number in range(count)], object),
        "ra": generator.uniform(0, 360, count),
        "dec": np.degrees(np.arcsin(generator.uniform(-1, 1, count))),
        "_healpix_29": generator.integers(0, 12 * 4**29, count),
        "component": probability.argmax(axis=1).astype(np.int16),
        "probability": probability,
        "probability_broad": np.sqrt(probability) / np.sqrt(probability).sum(1, keepdims=True),
        "entropy": generator.uniform(size=count),
        "latent_mean": generator.normal(size=(count, latent)).astype(np.float32),
        "latent_logvar": generator.normal(size=(count, latent)).astype(np.float32),
        "log_likelihood": generator.normal(size=count),
        "reconstruction_error": pa.array(
            [None if number % 5 == 0 else number / 7 for number in range(count)], pa.float32()
        ),
        "flags": generator.integers(0, 16, count).astype(np.int32),
    }
    extra = pa.table(carried)
    wanted = schema.classified_schema(
        latent=latent, components=COMPONENTS, positions=positions, carried=list(extra.schema)
    )
    return rows.table(wanted, numbers | {name: extra[name] for name in extra.column_names})
