import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avader.plan import Plan, Receipt, Unit, canonical_json, ranges, tile_on, unit_name


def plan(**settings) -> Plan:
    return Plan("cutouts", settings, (Unit("00000000", {"rows": [0, 5]}),))


def test_fingerprint_depends_on_content_alone():
    assert plan(a=1, b=(2, 3)).fingerprint == plan(b=[2, 3], a=1).fingerprint
    assert plan(a=1).fingerprint != plan(a=2).fingerprint
    assert plan(a=1).fingerprint != Plan("cutouts", {"a": 1}, ()).fingerprint


def test_a_catalogues_tile_is_for_the_device_that_made_it():
    assert tile_on("cpu", {"tile": 5, "device": "cpu"}) == 5
    assert tile_on("cpu", {"tile": 5}) == 5
    assert tile_on("gpu", {"tile": 5}) == 0
    assert tile_on("cpu", {"tile": 300, "device": "gpu"}) == 0


def test_remaining_keeps_the_order():
    units = tuple(Unit(unit_name(number), {}) for number in range(5))
    left = Plan("cutouts", {}, units).remaining({"00000003", "00000000", "stranger"})
    assert [unit.name for unit in left] == ["00000001", "00000002", "00000004"]


@given(total=st.integers(0, 500), step=st.integers(1, 60))
def test_ranges_cover_everything_once(total, step):
    covered = [i for start, stop in ranges(total, step) for i in range(start, stop)]
    assert covered == list(range(total))
    assert all(0 < stop - start <= step for start, stop in ranges(total, step))


def test_a_receipt_that_loses_rows_is_refused():
    with pytest.raises(AssertionError, match="rows lost"):
        Receipt("u", rows_in=3, rows=1, rejects=1, size=0, sha256="", rejects_sha256="")


def test_canonical_json_is_json():
    assert json.loads(canonical_json({"b": (1, 2), "a": None})) == {"a": None, "b": [1, 2]}
    with pytest.raises(TypeError, match="not a JSON value"):
        canonical_json({"a": object()})


def test_data_may_be_moved():
    """Where it was is told, and is no part of what the work is."""
    here, there = (Plan("classified", {"data": "d", "data_uri": uri}) for uri in ("a", "b"))
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != Plan("classified", {"data": "e", "data_uri": "a"}).fingerprint
