"""`generate`: a fan-out of mixture sampling becomes a synthetic catalogue.

A unit is a range of object numbers. Object i depends on the model, the seed and i alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial, reduce
from types import MappingProxyType
from typing import Any

from avader.catalogue.provenance import package_versions, provenance
from avader.config import GenerateSettings
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.io.models import ModelFiles, beside, read_model
from avader.mixture.random import LAYOUT_VERSION
from avader.mixture.sample import Draw
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.drawing.adding import SkyIncrement, increment_of
from avader.pipelines.drawing.observing import Observing, observing_of
from avader.pipelines.drawing.placing import placing_of, shares_in
from avader.pipelines.drawing.worker import DRAWN_ROWS, DrawUnit, EncodeUnit
from avader.pipelines.dry_run import TRIAL_ROWS, Trial
from avader.pipelines.memory import Need, network_bytes
from avader.pipelines.progress import Progress, say
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Receipt, Unit
from avader.synthetic.sky import DECODE_ROWS

PIXELS = {
    "images": "uint8, round(255 x) of {} clipped to [0, 1]",
    "encoded": "files of uint8, round(255 x) of {} clipped to [0, 1]",
    "recipe": "none; when read uint8, round(255 x) of {} clipped to [0, 1]",
}
RECIPE_ROW = 14
"""Bytes of index, component and log-likelihood."""
# Rows of a recipe are a thousandth of an image: more of them in a group, so that readers ask less.
WRITERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "images": shards.WRITER,
        "encoded": shards.WRITER,
        "recipe": {**shards.WRITER, "compression_level": 1, "row_group_size": 100_000},
    }
)


def run(settings: GenerateSettings) -> None:
    """Draw a synthetic catalogue. Raises InputError for bad input before any work starts."""
    model = read_model(storage.absolute(settings.model))
    settings = settings.model_copy(update={"out": beside(settings.out, model)})
    check_encoding(settings, model)
    increment = increment_of(settings)
    draw = increment.draw(settings)
    draw.check(model.config["mixture"]["components"])
    observing = observing_of(settings, model)
    placing = placing_of(settings)
    plan = _plan(settings, model, draw, increment, {**observing.settings, "region": placing.digest})
    increment.check(plan)
    missing = settings.objects - increment.start
    if not missing:
        say(f"{settings.out} holds {increment.start:,} objects already: nothing to do")
        return
    groups = [count for _, count in draw.blocks[len(increment.blocks_before) :]] or [missing]
    rows, start = settings.rows_per_shard, increment.start
    units = placing.units(groups, settings.seed, start=start, rows=rows, before=increment.before)
    plan = replace(plan, units=units)
    worker = partial(DrawUnit, settings, draw, observing.psf, observing.spectrum, placing.digest)
    stages = [Stage("draw", worker, pooled=True)]
    if settings.store == "encoded":
        encode = EncodeUnit(plan.settings["encoding"], plan.settings["quality"])
        stages.append(Stage("encode", lambda: encode))

    def finish(_: Sequence[Receipt]) -> dict[str, Any]:
        if increment.number > 1:  # the first one has them
            return {}
        return {"files": [*observing.write(increment.out), *placing.write(increment.out)]}

    written = finish_folder(
        plan,
        settings.model_copy(update={"out": increment.out}),
        opening=f"drawing {missing:,} {'more ' * settings.add}objects in {len(plan.units):,} "
        f"shards from model {model.digest[:12]}, seed {settings.seed}",
        prepare=lambda: stages,
        trial=Trial(missing, 0, partial(_trial, settings, plan.units[0], stages)),
        progress=Progress("drawn", missing, noun="objects"),
        facts={**_facts(settings, model, observing), "shares": shares_in(units)},
        finish=finish,
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
    if not settings.dry_run:
        growth.publish(increment.root, increment.number)
    if written is not None:
        say(f"drew {written.totals['rows']:,} objects into {increment.out}")


def check_encoding(settings: GenerateSettings, model: ModelFiles) -> None:
    """Raise InputError for images that no PNG or JPEG file can hold."""
    bands = model.config["network"]["bands"]
    if settings.store == "encoded" and bands not in (1, 3):
        raise InputError(
            f"--store encoded: wanted a model of 1 or 3 bands, as PNG and JPEG files hold, got one "
            f"of {bands}; take --store images or recipe"
        )


def _trial(
    settings: GenerateSettings, first: Unit, stages: Sequence[Stage]
) -> Callable[[], UnitRows]:
    rows = DRAWN_ROWS if settings.store == "recipe" else TRIAL_ROWS
    start, stop = first.inputs["ranges"][0]
    unit = Unit(first.name, {"ranges": [(start, min(stop, start + rows))]})
    steps = [stage.make() for stage in stages]

    def work() -> UnitRows:
        return reduce(lambda made, step: step(unit, made), steps, None)

    return work


def _plan(
    settings: GenerateSettings,
    model: ModelFiles,
    draw: Draw,
    increment: SkyIncrement,
    seen: Mapping[str, Any],
) -> Plan:
    """The plan, its units left to be cut. seen: settings of what is done to images, and where."""
    content = {
        *("rows_per_shard", "orientation", "precision", "device", "tile"),
        *("store", "truth", "keep_latent"),
    }
    encoding = settings.encoding or "png" if settings.store == "encoded" else None
    return Plan(
        kind="synthetic",
        settings={
            **settings.model_dump(include=content, mode="json"),
            **asdict(draw),
            **seen,
            "count": settings.objects,
            "encoding": encoding,
            "quality": settings.quality or 95 if encoding == "jpeg" else None,
            "model": model.digest,
            "model_uri": storage.public_uri(storage.absolute(settings.model)),
            "random_layout": LAYOUT_VERSION,
            "writer": WRITERS[settings.store],
            "versions": package_versions(),
        },
    )


def _need(settings: GenerateSettings, model: ModelFiles) -> Need:
    """What a worker takes: rows as one array and as the file, with its encoding.

    Pixels in slices, too, where they are decoded to floats first; of a recipe the words, normals
    and latents of some objects, all in float64.
    """
    network = model.config["network"]
    image, latent = network["bands"] * network["size"] ** 2, network["latent"]
    rows = min(settings.rows_per_shard, settings.objects)
    if settings.store == "recipe":
        wide = RECIPE_ROW + 2 * latent * settings.keep_latent
        return Need(pixels=wide * rows, copies=4.0, besides=8 * 8 * latent * DRAWN_ROWS)
    apart = settings.orientation == "random" or settings.psf or settings.psf_fwhm or settings.noise
    decoded = 3 * 4 * image * min(DECODE_ROWS, rows) * bool(apart)
    return Need(
        pixels=image * rows,
        copies=4.0,
        besides=network_bytes(network, tile=settings.tile, device=settings.device) + decoded,
        device=settings.device,
    )


def _facts(settings: GenerateSettings, model: ModelFiles, observing: Observing) -> dict[str, Any]:
    network = model.config["network"]
    return {
        "shape": [network["bands"], network["size"], network["size"]],
        "latent": network["latent"],
        "components": model.config["mixture"]["components"],
        "pixels": PIXELS[settings.store].format(_steps(observing)),
    }


def _steps(observing: Observing) -> str:
    """What is rounded, in words."""
    steps = ["the decoded image"]
    if observing.psf is not None:
        steps.append("convolved with the PSF")
    if observing.spectrum is not None:
        steps.append("with the survey's noise added")
    return ", ".join(steps)
