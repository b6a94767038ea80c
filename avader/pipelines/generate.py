"""`generate`: a fan-out of mixture sampling becomes a synthetic catalogue.

A unit is a range of object numbers. Object i depends on the model, the seed and i alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from avader.api import Model, load_model
from avader.catalogue import rows, schema
from avader.catalogue.provenance import package_versions, provenance
from avader.config import GenerateSettings
from avader.errors import InputError
from avader.images.orientation import Orientation, to_sky
from avader.io import shards, storage
from avader.io.models import ModelFiles, read_model
from avader.mixture.random import LAYOUT_VERSION, orientations
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.dry_run import TRIAL_ROWS, Trial
from avader.pipelines.memory import Need, network_bytes
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit, ranges, unit_name


def run(settings: GenerateSettings) -> None:
    """Draw a synthetic catalogue. Raises InputError for bad input before any work starts."""
    model = read_model(storage.absolute(settings.model))
    check_components(settings.components, model.config["mixture"]["components"])
    plan = _plan(settings, model)
    written = finish_folder(
        plan,
        settings,
        opening=f"drawing {settings.count:,} objects in {len(plan.units):,} shards "
        f"from model {model.digest[:12]}, seed {settings.seed}",
        prepare=lambda: [Stage("draw", partial(GenerateUnit, settings), pooled=True)],
        trial=Trial(settings.count, 0, partial(_trial, settings)),
        progress=Progress("drawn", settings.count),
        facts=_facts(model),
        provenance=provenance(
            model=model.digest,
            seed=settings.seed,
            random_layout=LAYOUT_VERSION,
            precision=settings.precision,
            backend=f"torch {TORCH_DEVICE[settings.device]}",
            tile=settings.tile,
        ),
        need=_need(settings, model),
    )
    if written is not None:
        say(f"drew {written.totals['rows']:,} objects into {settings.out}")


def _trial(settings: GenerateSettings) -> Callable[[], UnitRows]:
    return partial(GenerateUnit(settings), Unit("trial", {"start": 0, "stop": TRIAL_ROWS}), None)


def check_components(wanted: Sequence[int], components: int) -> None:
    """Raise InputError for component numbers that a mixture of K components has not."""
    absent = sorted({number for number in wanted if not 0 <= number < components})
    if absent or len(set(wanted)) < len(wanted):
        raise InputError(
            f"--components: wanted distinct numbers from 0 to {components - 1}, got "
            f"{','.join(map(str, wanted))}"
        )


def _plan(settings: GenerateSettings, model: ModelFiles) -> Plan:
    content = {"count", "seed", "components", "variance_scale", "rows_per_shard", "orientation"}
    return Plan(
        kind="synthetic",
        settings={
            **settings.model_dump(include=content | {"precision", "device", "tile"}, mode="json"),
            "model": model.digest,
            "model_uri": storage.public_uri(storage.absolute(settings.model)),
            "random_layout": LAYOUT_VERSION,
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=tuple(
            Unit(unit_name(number), {"start": start, "stop": stop})
            for number, (start, stop) in enumerate(ranges(settings.count, settings.rows_per_shard))
        ),
    )


def _need(settings: GenerateSettings, model: ModelFiles) -> Need:
    """What a worker takes: pixels in slices, as one array and as the file, with its encoding."""
    network = model.config["network"]
    image = network["bands"] * network["size"] ** 2
    decoded = 3 * 4 * image * min(DECODE_ROWS, settings.rows_per_shard)
    return Need(
        pixels=image * min(settings.rows_per_shard, settings.count),
        copies=4.0,
        besides=network_bytes(network, tile=settings.tile, device=settings.device) + decoded,
        device=settings.device,
    )


def _facts(model: ModelFiles) -> dict[str, Any]:
    network = model.config["network"]
    return {
        "shape": [network["bands"], network["size"], network["size"]],
        "latent": network["latent"],
        "components": model.config["mixture"]["components"],
        "pixels": "uint8, round(255 x) of the decoded image clipped to [0, 1]",
    }


@dataclass
class GenerateUnit:
    """Draws one range of objects after another with a model held in this process."""

    settings: GenerateSettings
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        uri = storage.absolute(self.settings.model)
        self.model = load_model(
            uri,
            device=TORCH_DEVICE[self.settings.device],
            precision=self.settings.precision,
            tile=self.settings.tile,
        )

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Draw and decode the objects of a unit."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        z, component = self.model.sample(
            stop - start,
            self.settings.seed,
            start=start,
            components=self.settings.components or None,
            variance_scale=self.settings.variance_scale,
        )
        turns = self._turns(start, stop)
        images = self._images(z, turns)
        optional = schema.ORIENTATION_NAMES if turns else ()
        table = rows.table(
            schema.synthetic_schema(images.shape[1:], latent=z.shape[1], optional=optional),
            {
                "index": np.arange(start, stop, dtype=np.int64),
                "component": component,
                "latent": z,
                "orientation_angle": np.array([turn.angle for turn in turns], np.float32),
                "orientation_flips": np.array([turn.flips for turn in turns], np.uint8),
                "image": images.reshape(len(images), -1),
            },
        )
        return UnitRows(
            rows_in=stop - start,
            table=table,
            rejects=rows.reject_table([], unit.name),
        )

    def _turns(self, start: int, stop: int) -> list[Orientation]:
        """How each object lies on the sky; none where they stay as the model draws them."""
        if self.settings.orientation == "canonical":
            return []
        drawn = orientations(self.settings.seed, start, stop - start)
        return [Orientation(float(angle), int(flips)) for angle, flips in zip(*drawn, strict=True)]

    def _images(self, z: np.ndarray, turns: Sequence[Orientation]) -> np.ndarray:
        """(B, C, H, W) uint8 of (B, D) latents; those to turn are decoded to floats in slices."""
        if not turns:
            return self.model.decode_pixels(z)
        parts = []
        for at in range(0, len(z), DECODE_ROWS):
            images = self.model.decode(z[at : at + DECODE_ROWS])
            for image, turn in zip(images, turns[at : at + DECODE_ROWS], strict=True):
                image[...] = to_sky(image, turn)
            parts.append(to_uint8(images))
        return np.concatenate(parts)


# Images decoded to float32 at once: 64 MiB at 128 x 128.
DECODE_ROWS = 1024


def to_uint8(images: np.ndarray) -> np.ndarray:
    """round(255 x) of float images, clipped to [0, 1] first."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
