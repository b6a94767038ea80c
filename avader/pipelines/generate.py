"""`generate`: a fan-out of mixture sampling becomes a synthetic catalogue.

A unit is a range of object numbers, on a region of the sky those of a pixel. Object i depends on
the model, the seed and i alone.
"""

from avader.catalogue.provenance import provenance
from avader.config import GenerateSettings
from avader.io import growth
from avader.mixture.random import LAYOUT_VERSION
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.drawing.planning import sky_run
from avader.pipelines.dry_run import Trial
from avader.pipelines.emulated import say_emulated
from avader.pipelines.progress import Progress, say
from avader.pipelines.units import finish_folder


def run(settings: GenerateSettings) -> None:
    """Draw a synthetic catalogue. Raises InputError for bad input before any work starts."""
    wanted = sky_run(settings)
    settings, model, increment = wanted.settings, wanted.model, wanted.increment
    if not wanted.missing:
        say(f"{settings.out} holds {increment.start:,} objects already: nothing to do")
        return
    say_emulated(settings)
    on_sky = (settings.cone or settings.region) and settings.orientation == "canonical"
    is_canonical = model.config["preprocessing"].get("orientation") == "canonical"
    if on_sky and is_canonical and not settings.add:
        say("  every object lies along x, as the model has them: --orientation random turns them")
    written = finish_folder(
        wanted.plan,
        settings.model_copy(update={"out": increment.out}),
        opening=f"drawing {wanted.missing:,} {'more ' * settings.add}objects in "
        f"{len(wanted.plan.units):,} shards from model {model.digest[:12]}, seed {settings.seed}",
        prepare=wanted.stages,
        trial=Trial(wanted.missing, 0, wanted.trial),
        progress=Progress("drawn", wanted.missing, noun="objects"),
        facts=wanted.facts(),
        finish=wanted.finish,
        provenance=provenance(
            model=model.digest,
            seed=settings.seed,
            random_layout=LAYOUT_VERSION,
            precision=settings.precision,
            backend=f"torch {TORCH_DEVICE[settings.device]}",
            tile=settings.tile,
        ),
        need=wanted.need(),
    )
    if not settings.dry_run:
        growth.publish(increment.root, increment.number)
    if written is not None:
        say(f"drew {written.totals['rows']:,} objects into {increment.out}")
