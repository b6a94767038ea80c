"""Packed cutouts and trainings of tests."""

import csv
import io
import math

import numpy as np
import pyarrow as pa

from avader.config import TrainSettings
from avader.io import manifest, shards, storage
from avader.plan import Plan, Unit
from avader.recipe import Preprocessing
from tests.training.tiny import RECIPE

TIMES = {"seconds", "images_per_second"}


def write_packed(folder, pixels: np.ndarray, per_shard: int = 25, *, masks: bool = False) -> str:
    """Packed cutouts of these pixels (N, C, H, W), as `pack` leaves them; their URI.

    masks: with source masks, of what is brighter than half of the greatest.
    """
    parts = np.split(pixels, range(per_shard, len(pixels), per_shard)) if len(pixels) else [pixels]
    units = tuple(Unit(f"{number:08d}", {}) for number in range(len(parts)))
    preprocessing = Preprocessing(size=pixels.shape[-1], dtype=str(pixels.dtype), source_mask=masks)
    plan = Plan(
        "cutouts",
        {"shape": pixels.shape[1:], "preprocessing": preprocessing.model_dump(mode="json")},
        units,
    )
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(pixels.dtype), pixels.shape[1:])
    receipts = []
    for unit, part in zip(units, parts, strict=True):
        flat = pa.FixedSizeListArray.from_arrays(part.ravel(), math.prod(part.shape[1:]))
        names = pa.array([f"{unit.name}-{row}" for row in range(len(part))], pa.string())
        table = pa.table(
            {
                "object_id": names,
                "image": pa.ExtensionArray.from_storage(kind, flat),
                "limit_low": np.zeros(len(part)),
                "limit_high": np.ones(len(part)),
                "flags": np.zeros(len(part), np.int32),
            }
        )
        if masks:
            bright = part[:, 0].reshape(len(part), -1) > pixels.max() / 2
            bits = pa.array(list(np.packbits(bright, axis=1)), pa.list_(pa.uint8(), 32))
            table = table.append_column("source_mask", bits)
        receipts.append(
            shards.write_unit(
                str(folder),
                unit,
                rows_in=len(part),
                table=table,
                rejects=table.select(["object_id"])[:0],
            )
        )
    manifest.write_manifest(str(folder), plan, receipts, provenance={})
    return str(folder)


def settings(data: str, out, recipe=RECIPE, **given) -> TrainSettings:
    values = {"data": data, "out": str(out), "device": "cpu", **recipe.model_dump(), **given}
    return TrainSettings(**values)


def history(out) -> list[dict[str, str]]:
    text = storage.read_text(f"{out}/training/metrics.csv")
    return list(csv.DictReader(io.StringIO(text)))


def figures(out) -> list[dict[str, str]]:
    return [{name: row[name] for name in row if name not in TIMES} for row in history(out)]
