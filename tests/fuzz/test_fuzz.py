"""A part of the fuzz, and that its watch sees what it is there for."""

import hashlib
import os
import subprocess
import sys

import pytest

from tests.fuzz import watch
from tests.fuzz.cases import FAMILIES, case
from tests.fuzz.largest import MAKERS

QUICK, LONG = 240, 1500


def done(first: int, stop: int) -> watch.Tally:
    tally = watch.fuzz(first, stop, jobs=2)
    assert not tally.failures, "\n".join(tally.failures)
    assert sum(tally.outcomes.values()) == stop - first
    return tally


def test_some_mutated_files_end_in_a_cutout_or_a_reason():
    tally = done(0, QUICK)
    for family in FAMILIES:
        kinds = [name for name in tally.outcomes if name.startswith(family)]
        assert len(kinds) > 2, f"the cases of {family} all end alike: {kinds}"


@pytest.mark.long
def test_many_mutated_files_end_in_a_cutout_or_a_reason():
    done(QUICK, LONG)


@pytest.mark.long
def test_the_largest_images_and_bombs_keep_to_time_and_memory(monkeypatch):
    monkeypatch.setattr(watch, "WORK", "tests.fuzz.largest")
    for name in ("MOST_CPU", "MOST_MIB"):  # largest.py leaves out what it takes to make them
        monkeypatch.setattr(watch, name, float("inf"))
    tally = watch.fuzz(0, len(MAKERS), jobs=1)
    assert not tally.failures, "\n".join(tally.failures)
    assert len(tally.outcomes) == len(MAKERS)


def test_a_case_is_a_function_of_its_number():
    code = "from tests.fuzz.test_fuzz import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == digest()


def digest() -> str:
    """Of some cases."""
    return hashlib.sha256(b"".join(case(number).data for number in range(40))).hexdigest()


def test_the_watch_sees_deaths_hangs_and_memory(monkeypatch):
    monkeypatch.setattr(watch, "WORK", "tests.fuzz.faulty")
    monkeypatch.setattr(watch, "HANG", 8.0)
    monkeypatch.setattr(watch, "MOST_MIB", 200)
    tally = watch.fuzz(0, 10, jobs=1)
    dead, hung, swollen, raised = tally.failures
    assert dead == "case 2: its process ended with -6"
    assert hung == "case 4: no answer in 8 s"
    assert swollen.startswith("case 6: took ")
    assert raised.startswith("case 8: Traceback")
    assert tally.summary.startswith("10 cases: 6 good, 0 refused with a reason, 4 failed; ")
