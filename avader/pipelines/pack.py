"""`pack`: cutouts of any source become shards of model-ready pixels with a manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from avader.catalogue import rows, schema
from avader.catalogue.pixels import healpix_29, position_problem
from avader.catalogue.provenance import package_versions, provenance
from avader.config import PackSettings
from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout, output_bands, read_cutout
from avader.io import manifest, shards, storage
from avader.io.models import read_model
from avader.pipelines.dry_run import TRIAL_ROWS, Trial
from avader.pipelines.duplicates import Duplicates, find_duplicates
from avader.pipelines.progress import Progress, say
from avader.pipelines.services import (
    SharedPace,
    check_service,
    find_witness,
    place_of,
    service_of,
)
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit
from avader.recipe import Preprocessing
from avader.survey.client import Client
from avader.survey.selection import select
from avader.survey.services import Service
from avader.survey.sources import Columns, Source, open_source, read_unit

# Objects that make a shard, of files and tables, and of a survey service.
ROWS_PER_SHARD, ROWS_OF_SERVICE = 1000, 100


def run(settings: PackSettings) -> None:
    """Pack a source. Raises InputError for bad input before any work starts."""
    out, preprocessing = storage.absolute(settings.out), _preprocessing(settings)
    source, service = _open(settings), service_of(settings.service)
    if service is not None:
        check_service(service, source, preprocessing)
    plan = _plan(settings, source, preprocessing, service)
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
        witness = find_witness(service, plan.units, **asked)

    def prepare() -> list[Stage]:
        worker = PackUnit(preprocessing, columns, find_duplicates(plan.units))
        if service is None:
            return [Stage("pack", lambda: worker, pooled=True)]
        pace = SharedPace(settings.service.rate)

        def asking() -> PackUnit:
            return replace(worker, client=Client(service, pace, witness=witness, **asked))

        return [Stage("pack", asking, pooled=True)]

    written = finish_folder(
        plan,
        settings,
        opening=_opening(settings, source, plan, service),
        prepare=prepare,
        trial=_trial(settings, source, service, PackUnit(preprocessing, columns, Duplicates({}))),
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
    settings: PackSettings, source: Source, service: Service | None, worker: "PackUnit"
) -> Trial:
    rows = sum(source.rows) if source.taken is None else source.taken
    if service is not None:  # it is not asked for a dry run
        return Trial(rows, 0, pace=settings.service.rate)
    return Trial(
        rows, sum(source.sizes), lambda: partial(worker, source.units(TRIAL_ROWS)[0], None)
    )


def _opening(settings: PackSettings, source: Source, plan: Plan, service: Service | None) -> str:
    """The line said before work starts."""
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
    return f"packing {what} as {len(plan.units):,} shards into {settings.out}"


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


def _plan(
    settings: PackSettings,
    source: Source,
    preprocessing: Preprocessing,
    service: Service | None,
) -> Plan:
    usual = ROWS_PER_SHARD if service is None else ROWS_OF_SERVICE
    rows_per_shard = settings.rows_per_shard or usual
    units = source.units(rows_per_shard)
    return Plan(
        kind="cutouts",
        settings={
            "source": storage.public_uri(storage.absolute(settings.source)),
            "columns": settings.model_dump(
                include={"id_column", "ra_column", "dec_column", "image_column"}
            ),
            "selection": None
            if source.taken is None
            else settings.model_dump(include={"split", "min_votes", "votes_column"}),
            "rows_per_shard": rows_per_shard,
            "service": None if service is None else service.content,
            "preprocessing": preprocessing.model_dump(mode="json"),
            "shape": _shape(units, preprocessing, service),
            "writer": shards.WRITER,
            "versions": package_versions(),
        },
        units=units,
    )


def _shape(
    units: Sequence[Unit], preprocessing: Preprocessing, service: Service | None
) -> tuple[int, int, int]:
    """(C, H, W) of the packed pixels: where the bands are not declared, the service's, or the
    first good cutout's.

    Raises InputError where it needs a good cutout and there is none.
    """
    bands = output_bands(preprocessing)
    if bands is None and service is not None:
        bands = service.planes
    bands = bands or _first_bands(units, preprocessing)
    return bands, preprocessing.size, preprocessing.size


def _first_bands(units: Sequence[Unit], preprocessing: Preprocessing) -> int:
    last = "the source is empty"
    for unit in units:
        for row in _light_rows(read_unit(unit)):
            try:
                return len(read_cutout(row["image"] or b"", preprocessing).pixels)
            except CutoutError as error:
                last = str(error)
    raise InputError(
        f"wanted at least one usable cutout in the source, got none (the last one: {last}); look "
        "at the source and at --preprocessing.*"
    )


@dataclass(frozen=True)
class PackUnit:
    """Packs one unit: all that a worker process needs to know.

    client: the worker's own connections to a survey service, where images come from one.
    """

    preprocessing: Preprocessing
    schema: pa.Schema
    duplicates: Duplicates
    client: Client | None = None

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Read, check and prepare a unit's cutouts."""
        source = read_unit(unit)
        kept: list[int] = []
        cutouts: list[Cutout] = []
        rejects: list[rows.Reject] = []
        repeated = self.duplicates.of(unit.name)
        answers = self._ask(source, repeated)
        for number, row in enumerate(_light_rows(source)):
            try:
                self._check(row, repeated.get(number))
                cutouts.append(self._prepare(answers.get(number, row["image"])))
                kept.append(number)
            except CutoutError as error:
                rejects.append(rows.Reject(row["object_id"] or "", error.reason, error.detail))
        # Typed, since pyarrow takes an empty plain list for one of nulls.
        kept_rows = source.drop_columns(["image", "problem"]).take(pa.array(kept, pa.int64()))
        return UnitRows(
            rows_in=source.num_rows,
            table=self._table(kept_rows, cutouts),
            rejects=rows.reject_table(rejects, unit.name),
        )

    def _ask(self, source: pa.Table, repeated: Mapping[int, str]) -> dict[int, bytes | CutoutError]:
        """What the survey service gives for the rows that have nothing wrong so far, by row."""
        if self.client is None:
            return {}
        service, places, answers = self.client.service, {}, {}
        for number, row in enumerate(_light_rows(source, service.scale_column)):
            try:
                self._check(row, repeated.get(number))
                places[number] = place_of(row, service)
            except CutoutError as error:
                answers[number] = error
        came = self.client.cutouts(list(places.values()))
        return answers | dict(zip(places, came, strict=True))

    def _check(self, row: Mapping[str, Any], repeated: str | None) -> None:
        """Raise CutoutError with the first thing that is wrong with a row, but for its image."""
        if repeated is not None:
            raise CutoutError(Reason.DUPLICATE_ID, repeated)
        if not row["object_id"]:
            raise CutoutError(Reason.NO_ID, "wanted an id, got none")
        if row["problem"]:
            raise CutoutError.parse(row["problem"])
        if "ra" in row and (problem := position_problem(row["ra"], row["dec"])):
            none = any(row[axis] is None or not np.isfinite(row[axis]) for axis in ("ra", "dec"))
            raise CutoutError(Reason.NO_POSITION if none else Reason.BAD_POSITION, problem)

    def _prepare(self, image: bytes | CutoutError) -> Cutout:
        """The cutout in an image. Raises CutoutError with what is wrong with it."""
        if isinstance(image, CutoutError):
            raise image
        cutout = read_cutout(image, self.preprocessing)
        wanted = tuple(self.schema.field("image").type.shape)
        if cutout.pixels.shape != wanted:
            raise CutoutError(
                Reason.WRONG_BANDS, f"wanted {wanted[0]} bands, got {cutout.pixels.shape[0]}"
            )
        return cutout

    def _table(self, source: pa.Table, cutouts: list[Cutout]) -> pa.Table:
        tensor = self.schema.field("image").type
        pixels = [cutout.pixels for cutout in cutouts]
        columns = dict(zip(source.column_names, source.columns, strict=True))
        columns |= {
            "image": np.stack(pixels) if pixels else np.zeros((0, *tensor.shape), np.uint8),
            "limit_low": np.array([cutout.low for cutout in cutouts], np.float64),
            "limit_high": np.array([cutout.high for cutout in cutouts], np.float64),
            "flags": np.array([_flags(cutout) for cutout in cutouts], np.int32),
        }
        columns |= _source_columns(cutouts, self.schema)
        if "_healpix_29" in self.schema.names:
            columns["_healpix_29"] = healpix_29(source["ra"].to_numpy(), source["dec"].to_numpy())
        return rows.table(self.schema, columns)


def _source_columns(cutouts: Sequence[Cutout], wanted: pa.Schema) -> dict[str, np.ndarray]:
    """The optional columns about the central source, of those cutouts that have one."""
    turns = [cutout.orientation for cutout in cutouts if cutout.orientation is not None]
    masks = [cutout.source for cutout in cutouts if cutout.source is not None]
    columns: dict[str, np.ndarray] = {
        "orientation_angle": np.array([turn.angle for turn in turns], np.float32),
        "orientation_flips": np.array([turn.flips for turn in turns], np.uint8),
        "mask_fraction": np.array([mask.mean() for mask in masks], np.float32),
    }
    if "source_mask" in wanted.names:
        packed = [np.packbits(mask) for mask in masks]
        length = wanted.field("source_mask").type.list_size
        columns["source_mask"] = np.array(packed, np.uint8).reshape(len(masks), length)
    return columns


def _light_rows(source: pa.Table, extra: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows one by one, without the carried columns but one, where it is named."""
    needed = [
        name
        for name in ("object_id", "ra", "dec", "image", "problem", extra)
        if name in source.column_names
    ]
    for batch in source.select(needed).to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def _flags(cutout: Cutout) -> int:
    return (
        cutout.saturated * schema.Flag.SATURATED
        | cutout.touches_edge * schema.Flag.TOUCHES_EDGE
        | cutout.masked * schema.Flag.MASKED_PIXELS
    )
