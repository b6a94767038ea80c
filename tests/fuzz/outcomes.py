"""What becomes of a case: python -m tests.fuzz.outcomes FIRST STOP does some, a line for each."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from avader.catalogue import schema
from avader.catalogue.columns import RESERVED, source_names
from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout, read_cutout
from avader.pipelines.duplicates import Duplicates
from avader.pipelines.packing.worker import PackUnit
from avader.recipe import Preprocessing
from avader.survey.sky import sky_units
from avader.survey.sources import Columns, open_source, read_ids
from avader.survey.stored import prepared
from tests.fuzz.cases import Case, case
from tests.fuzz.work import work

# The canonical frame takes every step of the sky's frame, and more.
SETTINGS = {"crop": 16, "size": 16, "missing": "median", "max_missing": 1.0}
SETTINGS |= {"orientation": "canonical", "source_mask": True}
ROWS_PER_UNIT = 5


def do_case(number: int, folder: Path) -> str:
    """The outcome of a case, after its family; raises where it is none that there may be."""
    given = case(number)
    try:
        if given.family == "parquet":
            return f"parquet: {table_outcome(given, folder)}"
        return f"{given.family}: {image_outcome(given)}"
    except BaseException as error:
        error.add_note(given.name)
        raise


def image_outcome(given: Case) -> str:
    """The reason that an image is refused for, or "cutout"."""
    settings = Preprocessing(**SETTINGS, extensions=given.extensions)
    found = _read(given.data, settings)
    if given.number % 16 < 4:  # some of every family are read twice
        again = _read(given.data, settings)
        assert _text(found) == _text(again), "another outcome the second time"
    return _checked(found)


def _read(data: bytes, settings: Preprocessing) -> Cutout | CutoutError:
    try:
        return read_cutout(data, settings)
    except CutoutError as error:
        return error


def _text(found: Cutout | CutoutError) -> str:
    return str(found) if isinstance(found, CutoutError) else f"{found.pixels.tobytes()!r} {found}"


def _checked(found: Cutout | CutoutError) -> str:
    if isinstance(found, CutoutError):
        assert isinstance(found.reason, Reason)
        assert 0 < len(found.detail) <= 300
        assert " at 0x" not in found.detail
        return str(found.reason)
    assert found.low < found.high
    assert np.isfinite([found.low, found.high]).all()
    assert found.pixels.shape[1:] == (16, 16)
    assert found.source is not None
    return "cutout"


def table_outcome(given: Case, folder: Path) -> str:
    """Rows and rejects of a table, or that it is refused, as a whole or in part."""
    path = folder / "table.parquet"
    path.write_bytes(given.data)
    try:
        source = open_source(str(path), columns=Columns(), reserved=RESERVED)
        sky = source.has_positions and given.number % 16 == 3
        units = sky_units(source, limit=ROWS_PER_UNIT) if sky else source.units(ROWS_PER_UNIT)
    except InputError as error:
        return _refused(error, "table refused")
    settings = Preprocessing(**SETTINGS, weights=(1.0,), bands=(0,))
    shape, files = (1, 16, 16), given.number % 16 == 5
    columns = schema.cutout_schema(
        shape,
        dtype=settings.dtype,
        positions=source.has_positions,
        optional=source_names(settings),
        carried=source.carried,
        files=files,
    )
    outcome = "table packed"
    for unit in units:
        try:
            count = len(read_ids(unit))
            made = PackUnit(settings, shape, columns, Duplicates({}))(unit, None)
        except InputError as error:
            outcome = _refused(error, "unit refused")
            continue
        planned = unit.inputs.get("count", sum(piece[3] for piece in unit.inputs["pieces"]))
        assert planned == count == made.rows_in
        assert made.rows_in == made.table.num_rows + made.rejects.num_rows, "a row is lost"
        made.table.validate(full=True)
        if files:
            again, refused = prepared(made.table, settings, shape)
            assert (again.num_rows, refused) == (made.table.num_rows, [])
        assert set(made.rejects["reason"].to_pylist()) <= set(Reason)
    return outcome


def _refused(error: BaseException, outcome: str) -> str:
    """The outcome, unless what was refused is what memory there was not."""
    cause: BaseException | None = error
    while cause is not None:
        assert not isinstance(cause, pa.ArrowMemoryError), cause
        cause = cause.__cause__
    assert str(error)
    return outcome


if __name__ == "__main__":
    work(do_case)
