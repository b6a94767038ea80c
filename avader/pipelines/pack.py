"""`pack`: cutouts of any source become shards of model-ready pixels with a manifest."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from avader.catalogue import schema
from avader.catalogue.provenance import provenance
from avader.config import PackSettings
from avader.io import manifest, storage
from avader.io.models import read_model
from avader.pipelines.dry_run import TRIAL_ROWS, Trial
from avader.pipelines.duplicates import Duplicates, find_duplicates
from avader.pipelines.packing.planning import (
    ROWS_OF_SERVICE,
    describe_scatter,
    describe_units,
    plan_packing,
)
from avader.pipelines.packing.worker import PackUnit
from avader.pipelines.progress import Progress, say
from avader.pipelines.services import SharedPace, check_service, find_witness, service_of
from avader.pipelines.stages import Stage
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit
from avader.recipe import Preprocessing
from avader.survey.client import Client
from avader.survey.selection import ROWS, select
from avader.survey.services import Service
from avader.survey.sky import times_read
from avader.survey.sources import Columns, Source, open_source


def run(settings: PackSettings) -> None:
    """Pack a source. Raises InputError for bad input before any work starts."""
    out, preprocessing = storage.absolute(settings.out), _preprocessing(settings)
    source, service = _open(settings), service_of(settings.service)
    if service is not None:
        check_service(service, source, preprocessing)
    plan = plan_packing(settings, source, preprocessing, service)
    columns = schema.cutout_schema(
        tuple(plan.settings["shape"]),
        dtype=preprocessing.dtype,
        positions=source.has_positions,
        optional=schema.source_names(preprocessing),
        carried=source.carried,
    )

    asked = settings.service.model_dump(include={"rate", "patience"})
    witness = None
    if service is not None and not settings.dry_run and not manifest.is_finished(out):
        witness = find_witness(service, source.units(ROWS_OF_SERVICE), **asked)

    worker = PackUnit(preprocessing, columns, Duplicates({}))

    def prepare() -> list[Stage]:
        told = replace(worker, duplicates=find_duplicates(source.units(ROWS)))
        if service is None:
            return [Stage("pack", lambda: told, pooled=True)]
        pace = SharedPace(settings.service.rate)

        def asking() -> PackUnit:
            return replace(told, client=Client(service, pace, witness=witness, **asked))

        return [Stage("pack", asking, pooled=True)]

    written = finish_folder(
        plan,
        settings,
        opening=_opening(settings, source, plan, service),
        prepare=prepare,
        trial=_trial(settings, source, plan.units, service, worker),
        progress=Progress("packed", None, noun="cutouts"),
        provenance=provenance(),
    )
    if written is not None:
        totals = written.totals
        say(
            f"packed {totals['rows']:,} cutouts of {totals['rows_in']:,} "
            f"({totals['rejects']:,} rejects) into {settings.out}"
        )


def _trial(
    settings: PackSettings,
    source: Source,
    units: Sequence[Unit],
    service: Service | None,
    worker: PackUnit,
) -> Trial:
    if service is not None:  # it is not asked for a dry run
        return Trial(source.objects, 0, pace=settings.service.rate)
    size = sum(source.sizes) * (times_read(source, units) if source.has_positions else 1)
    first = source.units(TRIAL_ROWS)[0]
    return Trial(source.objects, round(size), lambda: partial(worker, first, None))


def _opening(settings: PackSettings, source: Source, plan: Plan, service: Service | None) -> str:
    """What is said before work starts."""
    count = f"{sum(source.rows):,}"
    if source.taken is not None:
        count = f"{source.taken:,} of {count}"
    what = f"{len(source.files):,} files"
    if source.taken is not None:
        what = f"{count} rows"
    if service is not None:
        what = (
            f"cutouts of {count} positions from {storage.public_uri(service.home)}, "
            f"at most {settings.service.rate:g} a second,"
        )
    return (
        f"packing {what} as {describe_units(plan.units)} into {settings.out}"
        f"{describe_scatter(source, plan)}"
    )


def _preprocessing(settings: PackSettings) -> Preprocessing:
    """The preprocessing asked for: the model's where `--like` names one, with what overrides."""
    if settings.like is None:
        return settings.preprocessing
    taken = read_model(settings.like).config["preprocessing"]
    changed = settings.preprocessing.model_dump(exclude_unset=True)
    return Preprocessing(**{**taken, **changed})


def _open(settings: PackSettings) -> Source:
    columns = Columns(
        id=settings.id_column,
        ra=settings.ra_column,
        dec=settings.dec_column,
        image=settings.image_column if settings.service.name == "none" else None,
    )
    uri = storage.absolute(settings.source)
    source = open_source(uri, columns=columns, reserved=schema.RESERVED)
    if settings.split == "all" and not settings.min_votes:
        return source
    return select(
        source,
        votes_column=settings.votes_column,
        min_votes=settings.min_votes,
        part=None if settings.split == "all" else settings.split,
    )
