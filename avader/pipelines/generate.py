"""`generate`: a fan-out of mixture sampling becomes a synthetic catalogue.

A unit is a range of object numbers. Object i depends on the model, the seed and i alone.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from avader.api import load_model
from avader.catalogue import rows, schema
from avader.catalogue.provenance import package_versions, provenance
from avader.config import GenerateSettings
from avader.io import shards, storage
from avader.io.models import ModelFiles, read_model
from avader.mixture.random import LAYOUT_VERSION
from avader.mixture.sample import Draw
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.dry_run import TRIAL_ROWS, Trial
from avader.pipelines.memory import Need, network_bytes
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit, ranges, unit_name
from avader.synthetic.sky import DECODE_ROWS, SyntheticSky


def run(settings: GenerateSettings) -> None:
    """Draw a synthetic catalogue. Raises InputError for bad input before any work starts."""
    model = read_model(storage.absolute(settings.model))
    draw_settings(settings).check(model.config["mixture"]["components"])
    plan = _plan(settings, model)
    written = finish_folder(
        plan,
        settings,
        opening=f"drawing {settings.objects:,} objects in {len(plan.units):,} shards "
        f"from model {model.digest[:12]}, seed {settings.seed}",
        prepare=lambda: [Stage("draw", partial(GenerateUnit, settings), pooled=True)],
        trial=Trial(settings.objects, 0, partial(_trial, settings)),
        progress=Progress("drawn", settings.objects),
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
    stop = min(TRIAL_ROWS, settings.objects)
    return partial(GenerateUnit(settings), Unit("trial", {"start": 0, "stop": stop}), None)


def draw_settings(settings: GenerateSettings) -> Draw:
    """What the settings ask to draw."""
    return Draw(
        settings.seed,
        components=settings.components,
        weights=settings.weights,
        blocks=tuple(sorted(settings.counts.items())),
        variance_scale=settings.variance_scale,
        truncation=settings.truncation,
    )


def _plan(settings: GenerateSettings, model: ModelFiles) -> Plan:
    content = {"rows_per_shard", "orientation", "precision", "device", "tile"}
    return Plan(
        kind="synthetic",
        settings={
            **settings.model_dump(include=content, mode="json"),
            **asdict(draw_settings(settings)),
            "count": settings.objects,
            "model": model.digest,
            "model_uri": storage.public_uri(storage.absolute(settings.model)),
            "random_layout": LAYOUT_VERSION,
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=tuple(
            Unit(unit_name(number), {"start": start, "stop": stop})
            for number, (start, stop) in enumerate(
                ranges(settings.objects, settings.rows_per_shard)
            )
        ),
    )


def _need(settings: GenerateSettings, model: ModelFiles) -> Need:
    """What a worker takes: pixels in slices, as one array and as the file, with its encoding."""
    network = model.config["network"]
    image = network["bands"] * network["size"] ** 2
    decoded = 3 * 4 * image * min(DECODE_ROWS, settings.rows_per_shard)
    if settings.orientation == "canonical":
        decoded = 0
    return Need(
        pixels=image * min(settings.rows_per_shard, settings.objects),
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
    sky: SyntheticSky = field(init=False)

    def __post_init__(self) -> None:
        model = load_model(
            storage.absolute(self.settings.model),
            device=TORCH_DEVICE[self.settings.device],
            precision=self.settings.precision,
            tile=self.settings.tile,
        )
        self.sky = model.sky(draw_settings(self.settings), orientation=self.settings.orientation)

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Draw and decode the objects of a unit."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        columns = self.sky.drawn(np.arange(start, stop))
        images = self.sky.images(columns)
        wanted = schema.synthetic_schema(
            images.shape[1:], latent=columns["latent"].shape[1], optional=columns
        )
        table = rows.table(wanted, {**columns, "image": images.reshape(len(images), -1)})
        return UnitRows(rows_in=stop - start, table=table, rejects=rows.reject_table([], unit.name))
