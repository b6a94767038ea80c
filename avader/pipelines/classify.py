"""`classify`: packed cutouts become a catalogue of morphological components.

A unit is a shard of cutouts; its part has the same name. Stored files are prepared as the model's
own were. Numbers depend on the image and the
model alone: the engine computes fixed tiles, posteriors are in float64 from what it encoded.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from avader.catalogue.provenance import package_versions
from avader.config import ClassifySettings
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles, beside, read_model
from avader.pipelines.finished import is_done, say_finished
from avader.plan import Plan, Unit
from avader.recipe import Preprocessing


def run(settings: ClassifySettings) -> None:
    """Classify packed cutouts, those of each increment that the catalogue has not yet.

    Raises InputError for bad input before any work starts.
    """
    held = growth.read_increments(storage.absolute(settings.data), kind="cutouts")
    model = read_model(storage.absolute(settings.model))
    settings = settings.model_copy(update={"out": beside(settings.out, model)})
    out = storage.absolute(settings.out)
    differing = check_match(held[0], model, accepted=settings.accept_mismatch)
    plans = [_plan(settings, data, model) for data in held]
    folders = [growth.folder(out, number) for number in range(1, len(held) + 1)]
    done = [is_done(plan, folder) for plan, folder in zip(plans, folders, strict=True)]
    if all(done) and not settings.dry_run:
        growth.publish(out, len(held))
        say_finished(settings)
        return
    # Here, since torch and Ray take seconds to load, and a catalogue that is there needs neither.
    from avader.pipelines.classifying import classify

    missing = [at for at in range(len(held)) if not done[at]]
    for at in missing or [len(held) - 1]:
        step = settings.model_copy(update={"out": folders[at]})
        classify(step, plans[at], held[at], model, accepted=differing)
        if not settings.dry_run:
            growth.publish(out, at + 1)


def preparation(data: Manifest, model: ModelFiles) -> Preprocessing:
    """How a data set's images become what a model sees.

    As they were packed; or, where files are stored, as the model's own were, but for what says
    nothing of pixels: which extensions of these files hold them, and whether masks are kept.
    """
    packed = Preprocessing(**data.settings["preprocessing"])
    if not data.holds_files:
        return packed
    own = packed.model_dump(include={"extensions", "source_mask"})
    return Preprocessing(**{**model.config["preprocessing"], **own})


def check_match(
    data: Manifest, model: ModelFiles, *, accepted: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Settings of the preprocessing that differ and were accepted, with both values.

    Raises InputError where data and model differ otherwise, with both shown.
    """
    packed = _pixel_settings(preparation(data, model).model_dump(mode="json"))
    wanted = _pixel_settings(model.config["preprocessing"])
    unknown = sorted(set(accepted) - wanted.keys())
    if unknown:
        raise InputError(
            f"--accept-mismatch: wanted names among {', '.join(wanted)}, got {', '.join(unknown)}"
        )
    differing = {
        name: {"model": wanted[name], "data": packed.get(name)}
        for name in wanted
        if packed.get(name) != wanted[name] and not (name == "extensions" and data.holds_files)
    }
    refused = [name for name in differing if name not in accepted]
    if refused:
        shown = "; ".join(
            f"{name} is {differing[name]['data']} in the data, {differing[name]['model']} in the "
            "model"
            for name in refused
        )
        raise InputError(
            f"the cutouts were not prepared as the model's were: {shown}. Pack them with `--like "
            f"MODEL`, or accept it with `--accept-mismatch {','.join(refused)}`"
        )
    network = model.config["network"]
    shape = [network["bands"], network["size"], network["size"]]
    if not data.holds_files and list(data.settings["shape"]) != shape:
        raise InputError(
            f"wanted cutouts of {shape} (bands, height, width), got {data.settings['shape']} in "
            f"{storage.public_uri(data.uri)}; pack them with `--like MODEL`"
        )
    return differing


def _pixel_settings(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a folder that change pixels: not the mask's, which is kept beside them.

    Folders from before a setting was there were made as its default makes them.
    """
    settings = {**Preprocessing().model_dump(mode="json"), **preprocessing}
    del settings["source_mask"]
    return settings


def _plan(settings: ClassifySettings, data: Manifest, model: ModelFiles) -> Plan:
    return Plan(
        kind="classified",
        settings={
            "model": model.digest,
            "data": data.digest,
            "data_uri": storage.public_uri(storage.absolute(settings.data)),
            "precision": settings.precision,
            "device": settings.device,
            "tile": settings.tile,
            "reconstruction": settings.reconstruction,
            "stability": settings.stability,
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=tuple(
            Unit(
                PurePosixPath(part["path"]).stem,
                {name: part[name] for name in ("path", "rows", "sha256")},
            )
            for part in data.parts
        ),
    )
