import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.catalogue import rows
from avader.errors import InputError
from avader.io import manifest, shards
from avader.plan import Plan, Unit, unit_name

UNITS = tuple(Unit(unit_name(number), {"number": number}) for number in range(3))
PLAN = Plan("cutouts", {"size": 8, "deep": {"a": [1]}}, UNITS)


def write(out: str, unit: Unit):
    number = unit.inputs["number"]
    table = pa.table({"object_id": [f"g{number}"], "x": [float(number)]})
    refused = rows.reject_table([rows.Reject("bad", "constant", "no light")] * number, unit.name)
    return shards.write_unit(out, unit, rows_in=1 + number, table=table, rejects=refused)


def test_units_are_done_when_their_rejects_are_written(tmp_path):
    out = str(tmp_path)
    receipts = [write(out, unit) for unit in UNITS]
    assert shards.done_units(out) == {unit.name for unit in UNITS}
    assert shards.read_receipts(out, [unit.name for unit in UNITS]) == receipts
    (tmp_path / "rejects" / "00000001.parquet").unlink()
    assert shards.done_units(out) == {"00000000", "00000002"}


def test_same_unit_same_bytes(tmp_path):
    first, second = write(str(tmp_path / "a"), UNITS[2]), write(str(tmp_path / "b"), UNITS[2])
    assert first == second
    for name in ("parts", "rejects"):
        path = f"{name}/00000002.parquet"
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_tensors_survive(tmp_path):
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    tensor = pa.fixed_shape_tensor(pa.uint8(), (3, 4, 4))
    table = pa.table({"image": rows.images(pixels, tensor)})
    (tmp_path / "x.parquet").write_bytes(shards.parquet_bytes(table))
    read = shards.read_part(str(tmp_path), "x.parquet")
    assert read["image"].type == tensor
    np.testing.assert_array_equal(rows.pixels(read["image"]), pixels)
    assert rows.pixels(read.slice(0, 0)["image"]).shape == (0, 3, 4, 4)
    np.testing.assert_array_equal(rows.pixels(read.slice(1)["image"]), pixels[1:])


def test_manifest_is_read_back(tmp_path):
    out = str(tmp_path)
    manifest.open_plan(out, PLAN)
    receipts = [write(out, unit) for unit in UNITS]
    written = manifest.write_manifest(out, PLAN, receipts, provenance={"seed": 1})
    assert written == manifest.read_manifest(out, kind="cutouts")
    assert written.totals == {"rows_in": 6, "rows": 3, "rejects": 3}
    assert written.fingerprint == PLAN.fingerprint
    assert pq.read_table(tmp_path / written.paths[0]).num_rows == 1


def test_another_plan_is_refused_with_what_differs(tmp_path):
    manifest.open_plan(str(tmp_path), PLAN)
    manifest.open_plan(str(tmp_path), PLAN)
    other = Plan("cutouts", {"size": 9, "deep": {"a": [2]}}, UNITS)
    with pytest.raises(InputError, match=r"another plan: deep.a was \[1\] and is now \[2\]; size"):
        manifest.open_plan(str(tmp_path), other)
    with pytest.raises(InputError, match="it is for cutouts, this one for classified"):
        manifest.open_plan(str(tmp_path), Plan("classified", {}, ()))
    with pytest.raises(InputError, match="its input has changed"):
        manifest.open_plan(str(tmp_path), Plan("cutouts", PLAN.settings, UNITS[:2]))


def test_a_folder_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "x").write_text("?")
    with pytest.raises(InputError, match="parts of unknown origin"):
        manifest.open_plan(str(tmp_path), PLAN)


def test_reading_what_is_not_finished(tmp_path):
    with pytest.raises(InputError, match="without one"):
        manifest.read_manifest(str(tmp_path))
    manifest.open_plan(str(tmp_path), PLAN)
    with pytest.raises(InputError, match="has not ended; repeat its command"):
        manifest.read_manifest(str(tmp_path))
    receipts = [write(str(tmp_path), unit) for unit in UNITS]
    manifest.write_manifest(str(tmp_path), PLAN, receipts, provenance={})
    with pytest.raises(InputError, match=r"wanted a folder of classified, got .* of cutouts"):
        manifest.read_manifest(str(tmp_path), kind="classified")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="wanted an avader manifest"):
        manifest.read_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="wanted JSON"):
        manifest.read_manifest(str(tmp_path))
