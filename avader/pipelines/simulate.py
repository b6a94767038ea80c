"""simulate: a mock survey of galaxies with known truth, as files and a table."""

import io
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avader.config import SimulateSettings
from avader.errors import InputError
from avader.io import storage
from avader.pipelines.cores import cores
from avader.pipelines.progress import Progress, say
from avader.plan import canonical_json, ranges
from avader.survey.mock import load_galsim
from avader.survey.mock_files import image_path, make_cutout, survey_table

TABLE = "survey.parquet"
_STEP = 50  # galaxies that a process draws at a time
_ALONE = 100  # up to so many galaxies no other process is started


def run(settings: SimulateSettings) -> None:
    """Draw the survey; the table is written last, so its presence means that all is there.

    Raises InputError where GalSim is missing, the folder cannot be written, or it holds another
    survey. The same survey is left as it is.
    """
    load_galsim()
    table = storage.join(settings.out, TABLE)
    if storage.exists(table):
        _check_same(table, settings=settings)
        say(f"this survey is there already: {storage.public_uri(table)}")
        return
    rows: list[dict[str, Any]] = []
    progress = Progress("drew", settings.count, noun="galaxies")
    for drawn in _draw(settings):
        rows += drawn
        progress.add(len(drawn))
    storage.write_bytes(table, _parquet(survey_table(rows, settings=_recorded(settings))))
    broken = sum(row["truth_broken"] != "" for row in rows)
    say(f"wrote {len(rows):,} cutouts, {broken} broken, and {storage.public_uri(table)}")


def _draw(settings: SimulateSettings) -> Iterator[list[dict[str, Any]]]:
    """Rows of the table, chunk by chunk in order; the cutouts are written on the way."""
    chunks = ranges(settings.count, _STEP)
    if settings.count <= _ALONE:
        yield from (_write_cutouts(settings, start=start, stop=stop) for start, stop in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context) as pool:
        yield from pool.map(_write_chunk, [(settings, *chunk) for chunk in chunks])


def _write_chunk(work: tuple[SimulateSettings, int, int]) -> list[dict[str, Any]]:
    settings, start, stop = work
    return _write_cutouts(settings, start=start, stop=stop)


def _write_cutouts(settings: SimulateSettings, *, start: int, stop: int) -> list[dict[str, Any]]:
    rows = []
    for index in range(start, stop):
        row, data = make_cutout(settings.seed, index, size=settings.size, broken=settings.broken)
        storage.write_bytes(storage.join(settings.out, image_path(index)), data)
        rows.append(row)
    return rows


def _recorded(settings: SimulateSettings) -> str:
    """What decides the survey's content, as JSON."""
    return canonical_json(settings.model_dump(include={"count", "size", "seed", "broken"}))


def _check_same(table: str, *, settings: SimulateSettings) -> None:
    """Raise InputError where the table that is there belongs to another survey."""
    try:
        found = pq.read_schema(pa.BufferReader(storage.read_bytes(table))).metadata or {}
    except pa.ArrowInvalid:
        found = {}
    there = found.get(b"avader.simulate", b"no mock survey").decode()
    wanted = _recorded(settings)
    if there != wanted:
        raise InputError(
            f"{storage.public_uri(table)} holds another survey (wanted {wanted}, got {there}); "
            "give another --out, or remove that folder"
        )


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()
