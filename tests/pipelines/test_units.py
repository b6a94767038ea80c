"""What happens to units of work, and to their failures on the way to whoever began the job."""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avader.catalogue import rows
from avader.config import CompactSettings
from avader.errors import InputError, UnfinishedError
from avader.io import shards
from avader.pipelines import stages, units
from avader.pipelines.cluster import Pool
from avader.pipelines.progress import Progress
from avader.pipelines.stages import Outcome, Stage, UnitRows, write_stage
from avader.pipelines.units import finish_units
from avader.plan import Plan, Unit

pytestmark = pytest.mark.usefixtures("ray_session")
COUNT = 4
BAD = "00000002"


def plan(count: int = COUNT) -> Plan:
    return Plan("cutouts", {}, tuple(Unit(f"{number:08d}", {}) for number in range(count)))


def finish(out, do=None, *, reading=None, count=COUNT, limit=60.0, apart=False):
    """Do the units: `reading` first, `do` in the pool; apart: in processes of their own."""
    stages = [
        Stage("read", lambda: reading or (lambda unit, _: unit.name)),
        Stage("make", lambda: do or content, pooled=True),
        write_stage(str(out), plan()),
    ]
    return finish_units(
        plan(count),
        str(out),
        stages=stages,
        pool=Pool(2, 0, apart),
        progress=Progress("done", None),
        limit=limit,
    )


def content(unit: Unit, read: str) -> UnitRows:
    assert read == unit.name
    return UnitRows(1, pa.table({"unit": [unit.name]}), rows.reject_table([], unit.name))


def test_rows_travel_without_being_pickled():
    """They are copied once on the way in, and not at all on the way out."""
    pixels = np.arange(300_000) % 251
    made = UnitRows(3, pa.table({"pixel": pixels, "name": ["a"] * 300_000}), pa.table({"x": [1]}))
    block = stages.block_of(Unit("u", {"path": "p"}), made)
    unit, opened = stages._opened(block)
    assert (unit, opened) == (Unit("u", {"path": "p"}), made)
    held = block["value"].chunk(0).buffers()[2]
    for column in opened.table.columns:
        for buffer in filter(None, column.chunk(0).buffers()):
            assert held.address <= buffer.address < held.address + held.size
            assert (buffer.address - held.address) % 64 == 0


def fails(folder: Path, how, *, times: int = 100):
    """A stage's function that fails so often for the bad unit, in whatever process."""

    def do(unit: Unit, read: str) -> UnitRows:
        if unit.name == BAD:
            marks = len(list(folder.glob("mark-*")))
            if marks < times:
                (folder / f"mark-{marks}").touch()
                how()
        return content(unit, read)

    return do


def marks(folder: Path) -> int:
    return len(list(folder.glob("mark-*")))


def bad_input():
    raise InputError("wanted a table that stays as it is, got another")


def trouble():
    raise RuntimeError("the disk is on fire")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def names(count: int = COUNT) -> list[str]:
    return [unit.name for unit in plan(count).units]


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.long)])
def test_bad_input_is_set_aside_and_all_else_is_done(out, tmp_path, apart):
    with pytest.raises(UnfinishedError) as told:
        finish(out, fails(tmp_path, bad_input), apart=apart)
    assert str(told.value) == (
        f"1 of 4 units were set aside, all others are done:\n  {BAD}: wanted a table that stays "
        "as it is, got another\nthe same command tries them again"
    )
    assert marks(tmp_path) == 1
    assert shards.done_units(str(out)) == {*names()} - {BAD}
    receipts = finish(out)
    assert [receipt.unit for receipt in receipts] == names()


@pytest.mark.parametrize("how", [trouble, pytest.param(die, marks=pytest.mark.long)])
def test_a_passing_failure_is_tried_again(out, tmp_path, how):
    receipts = finish(out, fails(tmp_path, how, times=2))
    assert [receipt.unit for receipt in receipts] == names()
    assert marks(tmp_path) == 2


@pytest.mark.long
def test_an_error_that_stays_is_set_aside(out, tmp_path):
    with pytest.raises(UnfinishedError, match=r"RuntimeError: the disk is on fire \(in make, 3 t"):
        finish(out, fails(tmp_path, trouble))
    assert marks(tmp_path) == 3
    assert shards.done_units(str(out)) == {*names()} - {BAD}


@pytest.mark.long
@pytest.mark.parametrize("stage", ["read", "make"])
def test_a_unit_that_kills_its_worker_is_set_aside(out, tmp_path, caplog, stage):
    caplog.set_level(logging.INFO, "avader")

    def deadly(unit, before):
        if unit.name == BAD:
            (tmp_path / f"mark-{marks(tmp_path)}").touch()
            die()
        return before if stage == "make" else unit.name

    given = {"reading": deadly} if stage == "read" else {"do": fails(tmp_path, die)}
    with pytest.raises(UnfinishedError, match=f"{BAD}: its worker was lost 3 times in {stage}"):
        finish(out, **given, apart=True)
    assert marks(tmp_path) == 3
    assert shards.done_units(str(out)) == {*names()} - {BAD}
    assert f"unit {BAD} lost its worker in {stage}: attempt 1 of 3" in caplog.text


@pytest.mark.long
def test_a_stalled_unit_is_named_and_tried_again(out, tmp_path, caplog):
    caplog.set_level(logging.INFO, "avader")
    receipts = finish(out, fails(tmp_path, partial(time.sleep, 600), times=1), limit=5.0)
    assert [receipt.unit for receipt in receipts] == names()
    assert f"unit {BAD} stalled for 5 s in make: attempt 1 of 3" in caplog.text


def test_where_no_unit_can_be_used_the_run_stops_with_the_reason(out, tmp_path):
    def refuse(unit, _):
        (tmp_path / unit.name).touch()
        bad_input()

    with pytest.raises(InputError, match=r"^wanted a table that stays as it is, got another$"):
        finish(out, reading=refuse, count=3)
    assert len(list(tmp_path.glob("0*"))) == 3


@pytest.mark.long
def test_a_folder_that_cannot_be_written_ends_the_run(out):
    (out / "parts").write_bytes(b"a file where the folder belongs")
    with pytest.raises(InputError, match=r"^cannot write .*check the path"):
        finish(out)


def test_so_many_unusable_units_before_a_good_one_end_the_run_early():
    bad = [Outcome(name, None, "wanted x", unusable=True) for name in names(units.HOPELESS)]
    units._check_hope(bad[:-1], {})
    units._check_hope(bad, {"00000100": None})
    units._check_hope([*bad[:-1], Outcome("1", None, "died", unusable=False)], {})
    with pytest.raises(InputError, match=r"^wanted x$"):
        units._check_hope(bad, {})


WATCHED = """
import sys, time
from avader.pipelines import stages

stages.gets_on()  # nothing is watched
with stages._watched(2.0):
    for _ in range(4):
        time.sleep(0.7)
        if sys.argv[1] == "gets on":
            stages.gets_on()
    if sys.argv[1] == "gets on":
        stages.gets_on(2.0)
        time.sleep(2.3)
stages.gets_on()
time.sleep(2.5)
"""


@pytest.mark.parametrize(("how", "code"), [("gets on", 0), ("stalls", 1)])
def test_a_unit_that_says_that_it_gets_on_has_not_stalled(how, code):
    ran = subprocess.run([sys.executable, "-c", WATCHED, how], capture_output=True, check=False)
    assert ran.returncode == code
    assert (b"most recent call first" in ran.stderr) == (how == "stalls")


@pytest.mark.long
def test_waves_do_every_unit_once(out, monkeypatch):
    monkeypatch.setattr(units, "WAVE", 3)
    assert [receipt.unit for receipt in finish(out, count=10)] == names(10)


def test_a_wave_begins_before_the_last_one_ends(monkeypatch):
    monkeypatch.setattr(units, "WAVE", 4)
    begun, seen = [], []

    class Blocks:
        """Stands for a wave's execution, whose last unit waits for the next wave's beginning."""

        def __init__(self, wave):
            self.wave = wave
            begun.append(wave[0].name)

        def iter_batches(self, **_):
            for number, unit in enumerate(self.wave):
                late = number == 3 and unit.name != "00000007"
                while late and len(begun) < 2:
                    time.sleep(0.01)
                yield units.block_of(unit, None)

    for outcome in units._outcomes(plan(8).units, Blocks, low=2):
        seen.append(outcome.unit)
    assert sorted(seen) == names(8)
    assert begun == ["00000000", "00000004"]


def test_what_a_wave_leaves_in_cycles_is_freed(monkeypatch):
    monkeypatch.setattr(units, "WAVE", 2)
    begun = []

    class Blocks:
        """Stands for a wave's execution, which Ray Data ties into knots."""

        def __init__(self, wave):
            self.wave, self.knot = wave, self
            begun.append(weakref.ref(self))

        def iter_batches(self, **_):
            return (units.block_of(unit, None) for unit in self.wave)

    gc.disable()
    try:
        assert len(list(units._outcomes(plan(6).units, Blocks, low=0))) == 6
        assert [seen() for seen in begun] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("given", "seconds", "limit"),
    [({}, "300", 1800), ({}, "7200", 14_400), ({"stall_limit": 5}, "7200", 5)],
)
def test_a_unit_that_waits_for_its_storage_has_not_stalled(monkeypatch, given, seconds, limit):
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", seconds)
    assert units._stall_limit(CompactSettings(data="d", out="o", **given)) == limit
