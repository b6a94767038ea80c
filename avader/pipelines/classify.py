"""`classify`: packed cutouts become a catalogue of morphological components.

A unit is a shard of cutouts; its part has the same name. Stored files are prepared as the model's
own were. Numbers depend on the image and the model alone: the engine computes fixed tiles,
posteriors are in float64 from what it encoded.
"""

from pathlib import PurePosixPath

from avader.catalogue.provenance import package_versions
from avader.config import ClassifySettings
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles, beside, read_model
from avader.pipelines.finished import is_done, say_finished
from avader.pipelines.matching import check_match
from avader.plan import Plan, Unit


def run(settings: ClassifySettings) -> None:
    """Classify packed cutouts, those of each increment that the catalogue has not yet.

    Raises InputError for bad input before any work starts.
    """
    held = growth.read_increments(storage.absolute(settings.data), kind="cutouts")
    uri = storage.absolute(settings.model)  # workers may run in another folder
    model = read_model(uri)
    settings = settings.model_copy(update={"model": uri, "out": beside(settings.out, model)})
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
    from avader.pipelines.closing import close

    missing = [at for at in range(len(held)) if not done[at]]
    for at in missing or [len(held) - 1]:
        step = settings.model_copy(update={"out": folders[at]})
        written = classify(step, plans[at], held[at], model, accepted=differing)
        if not settings.dry_run:
            growth.publish(out, at + 1)
        if written is not None:
            close(written, model, out=step.out, address=settings.summary_url)


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
