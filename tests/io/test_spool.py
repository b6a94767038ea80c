"""Repeated ids found on disk, against a dict that holds them all; and the memory that it takes."""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avader.catalogue.repeats import id_digests
from avader.errors import InputError
from avader.io.spool import IdSpool
from tests.catalogue.test_repeats import plain

NAMES = st.none() | st.text("ab1", max_size=4)
LARGE = """
import json
import time
from avader.catalogue.repeats import id_digests
from avader.io.spool import IdSpool
from tests.processes import peak_memory

count, step = 10**7, 10**4
with IdSpool() as spool:
    spool.add(id_digests(["warm"]))
    before, began = peak_memory(), time.perf_counter()
    for start in range(0, count, step):
        numbers = range(start, start + step)
        if start == count - step:  # the last 10,000 have the ids of 0, 5, 10, ...
            numbers = range(0, 5 * step, 5)
        spool.add(id_digests([f"{10**17 + number}" for number in numbers]))
    found = sorted(spool.repeats())
wanted = [(1 + count - step + n, 1 + 5 * n) for n in range(step)]
grown, took = peak_memory() - before, time.perf_counter() - began
print(json.dumps({"right": found == wanted, "MB": grown / 1e6, "seconds": took}))
"""


@given(st.lists(st.lists(NAMES, max_size=15), max_size=5))
def test_repeats_are_those_of_a_dict_whatever_the_pieces(pieces):
    with IdSpool() as spool:
        for piece in pieces:
            spool.add(id_digests(piece))
        found = sorted(spool.repeats())
    assert found == plain([name or None for piece in pieces for name in piece])


def test_ids_in_every_file():
    names = [f"g{number % 5000}" for number in range(12_000)]
    with IdSpool() as spool:
        for start in range(0, len(names), 700):
            spool.add(id_digests(names[start : start + 700]))
        found = sorted(spool.repeats())
        assert all(os.fstat(file.fileno()).st_size for file in spool._files)
    assert found == plain(names)


def test_digests_that_differ_in_one_word_alone():
    digests = np.array([[1, 2], [1, 3], [2, 2], [1, 2], [2, 2]], np.uint64)
    with IdSpool() as spool:
        spool.add(digests)
        assert sorted(spool.repeats()) == [(3, 0), (4, 2)]


def test_no_room_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"cannot write .*absent.*TMPDIR"), IdSpool():
        pass


@pytest.mark.long
def test_ten_million_ids_in_bounded_memory():
    ran = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(ran.stdout)
    assert measured["right"]
    assert measured["MB"] < 60  # all at once would take about 1,000
    assert measured["seconds"] < 200
