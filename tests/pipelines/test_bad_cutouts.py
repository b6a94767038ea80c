"""Every kind of bad cutout is a reject with its own reason, and the good ones beside it stay."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.catalogue import schema
from avader.images.checks import REASON_MEANINGS, Reason, reason_table
from avader.images.cutouts import read_cutout
from avader.pipelines.duplicates import Duplicates
from avader.pipelines.packing.worker import PackUnit
from avader.recipe import Preprocessing
from avader.survey.sources import Columns, open_source
from tests.pipelines.bad_cutouts import KINDS

ROOT = Path(__file__).resolve().parents[2]
# Reasons that want more than a table: where they are tested.
ELSEWHERE = {
    Reason.DUPLICATE_ID: "tests/pipelines/test_pack.py",
    Reason.FILE_TOO_LARGE: "tests/images/test_limits.py",
    Reason.TIME_LIMIT: "tests/images/test_limits.py",
    Reason.BAD_SCALE: "tests/survey/test_client.py",
    Reason.SERVICE_REFUSED: "tests/survey/test_client.py",
    Reason.OUTSIDE_FOOTPRINT: "tests/survey/test_client.py",
    Reason.WRONG_SIZE: "tests/survey/test_client.py",
    Reason.NOT_FINITE: "tests/pipelines/test_classify.py",
}


def packed(folder: Path, kind):
    """What becomes of a table of a good row, the bad one and another good one."""
    good, paths = kind.good, isinstance(kind.image, str)
    if paths:
        (folder / "good.png").write_bytes(good)
        (folder / "folder.png").mkdir()
    rows = [
        {"object_id": name, "ra": 10.0, "dec": 5.0, "image": "good.png" if paths else good}
        for name in ("first", "bad", "last")
    ]
    rows[1] |= {"image": kind.image, **kind.row}
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    source = open_source(str(folder / "table.parquet"), columns=Columns())
    preprocessing = Preprocessing(**{"size": 16, **kind.settings})
    shape = read_cutout(good, preprocessing).pixels.shape
    columns = schema.cutout_schema(shape, dtype="uint8", positions=True)
    (unit,) = source.units(10)
    return PackUnit(preprocessing, shape, columns, Duplicates({}))(unit, None)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_row_is_a_reject_and_the_good_ones_stay(tmp_path, name):
    kind = KINDS[name]
    made = packed(tmp_path, kind)
    assert made.table["object_id"].to_pylist() == ["first", "last"]
    (reject,) = made.rejects.to_pylist()
    assert reject["reason"] == kind.reason, reject["detail"]
    assert kind.words in reject["detail"]
    assert reject["object_id"] == (kind.row.get("object_id", "bad") or "")
    # No address in memory: the same text in every run.
    assert " at 0x" not in reject["detail"]


def test_every_reason_is_met():
    here = {kind.reason for kind in KINDS.values()}
    assert here | set(ELSEWHERE) == set(Reason)
    assert not here & set(ELSEWHERE)
    assert len(here) >= 25
    for reason, path in ELSEWHERE.items():
        text = (ROOT / path).read_text()
        assert reason.name in text or f'"{reason}"' in text, f"{reason} in {path}"


def test_every_reason_has_a_meaning_of_its_own():
    assert list(REASON_MEANINGS) == list(Reason)
    assert len(set(REASON_MEANINGS.values())) == len(Reason)
    assert all(reason.value == reason.name.lower() for reason in Reason)
    assert reason_table() in (ROOT / "README.md").read_text()
