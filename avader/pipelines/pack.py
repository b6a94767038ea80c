"""`pack`: cutouts of any source become shards, of pixels or files, with a manifest."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from avader.catalogue import schema
from avader.catalogue.columns import RESERVED, source_names
from avader.catalogue.provenance import provenance
from avader.config import PackSettings, like_preprocessing
from avader.io import growth, manifest, storage
from avader.io.models import read_model
from avader.pipelines.closing import reasons, reject_lines
from avader.pipelines.dry_run import TRIAL_ROWS, Step, Trial, Work
from avader.pipelines.duplicates import Duplicates, find_duplicates
from avader.pipelines.memory import packing_need
from avader.pipelines.packing.adding import Increment, increment_of
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

TRIED = 20
"""Pieces of a source in which a dry run looks for objects."""


def run(settings: PackSettings) -> None:
    """Pack a source. Raises InputError for bad input before any work starts."""
    increment = increment_of(settings)
    preprocessing = _preprocessing(settings, increment)
    source, service = increment.in_order(_open(settings)), service_of(settings.service)
    if service is not None:
        check_service(service, source, preprocessing)
    plan, stored = plan_packing(settings, source, preprocessing, service, increment)
    shape = tuple(plan.settings["shape"])
    columns = schema.cutout_schema(
        shape,
        dtype=preprocessing.dtype,
        positions=source.has_positions,
        optional=source_names(preprocessing),
        carried=source.carried,
        files=plan.settings["store"] == "bytes",
    )
    increment.check(plan, columns)
    if number := increment.packed_before(plan):
        say(f"{settings.source} is increment {number} of {settings.out} already: nothing to do")
        return

    asked = settings.service.model_dump(include={"rate", "patience"})
    witness = None
    if service is not None and not settings.dry_run and not manifest.is_finished(increment.out):
        witness = find_witness(service, source.units(ROWS_OF_SERVICE), **asked)

    worker = PackUnit(preprocessing, shape, columns, Duplicates({}))

    def prepare() -> list[Stage]:
        told = replace(worker, duplicates=find_duplicates(source.units(ROWS), increment.before))
        if service is None:
            return [Stage("pack", lambda: told, pooled=True)]
        pace = SharedPace(settings.service.rate)

        def asking() -> PackUnit:
            return replace(told, client=Client(service, pace, witness=witness, **asked))

        return [Stage("pack", asking, pooled=True)]

    step = settings.model_copy(update={"out": increment.out}) if settings.add else settings
    written = finish_folder(
        plan,
        step,
        opening=_opening(settings, source, plan, service),
        prepare=prepare,
        trial=_trial(settings, source, plan.units, service, worker),
        progress=Progress("packed", None, noun="cutouts"),
        provenance=provenance(),
        need=packing_need(plan, stored=stored, objects=source.objects),
    )
    if not settings.dry_run:
        growth.publish(increment.root, increment.number)
    if written is not None:
        totals = written.totals
        say(
            f"packed {totals['rows']:,} cutouts of {totals['rows_in']:,} "
            f"({totals['rejects']:,} rejects) into {step.out}"
        )
        for line in reject_lines(reasons(written)):
            say(line)


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
    return Trial(source.objects, round(size), lambda: _first_with_objects(source, worker))


def _first_with_objects(source: Source, worker: PackUnit) -> Work:
    """Packs the first piece, of a few from all of a source, of which anything is selected."""
    pieces = source.units(TRIAL_ROWS)
    for piece in pieces[:: -(-len(pieces) // TRIED)]:
        if worker(piece, None).rows_in:
            return [Step(partial(worker, piece))]
    return [Step(partial(worker, pieces[0]))]


def _opening(settings: PackSettings, source: Source, plan: Plan, service: Service | None) -> str:
    """What is said before work starts."""
    count = f"{sum(source.rows):,}"
    if source.taken is not None:
        count = f"{source.taken:,} of {count}"
    what = f"{count} files" if source.layout is None else f"{count} rows"
    if service is not None:
        what = (
            f"cutouts of {count} positions from {storage.public_uri(service.home)}, "
            f"at most {settings.service.rate:g} a second,"
        )
    return (
        f"packing {what} as {describe_units(plan.units)} into {settings.out}"
        f"{describe_scatter(source, plan)}{_without_positions(source)}"
    )


def _without_positions(source: Source) -> str:
    """A line where a source has no positions, else nothing."""
    if source.has_positions:
        return ""
    found = {name.lower(): name for name in source.carried.names}
    hint = "" if source.layout is not None else ", which a table of paths may have"
    if {"ra", "dec"} <= found.keys():
        ra, dec = found["ra"], found["dec"]
        hint = f"; its columns {ra} and {dec} are named by --ra-column {ra} --dec-column {dec}"
    return f"\n  no positions{hint}: without, there is no cone search and no HATS"


def _preprocessing(settings: PackSettings, increment: Increment) -> Preprocessing:
    """The preprocessing asked for: the model's where `--like` names one, with what overrides.

    Raises InputError where the two do not go together.
    """
    asked = settings.preprocessing.model_dump(exclude_unset=True)
    if settings.like is not None:
        asked = {**read_model(settings.like).config["preprocessing"], **asked}
    return increment.preprocessing(like_preprocessing(asked), asked)


def _open(settings: PackSettings) -> Source:
    columns = Columns(
        id=settings.id_column,
        ra=settings.ra_column,
        dec=settings.dec_column,
        image=settings.image_column if settings.service.name == "none" else None,
    )
    uri = storage.absolute(settings.source)
    # Images that a table has are not carried beside those of a service.
    left = () if columns.image is not None else (settings.image_column,)
    source = open_source(uri, columns=columns, reserved=RESERVED, left_out=left)
    if settings.split == "all" and not settings.min_votes:
        return source
    return select(
        source,
        votes_column=settings.votes_column,
        min_votes=settings.min_votes,
        part=None if settings.split == "all" else settings.split,
    )
