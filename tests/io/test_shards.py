import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.catalogue import rows
from avader.catalogue.selection import Cone, Selection
from avader.errors import InputError
from avader.io import manifest, shards, storage
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


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.uint8(), 256), pa.fixed_shape_tensor(pa.uint8(), (1, 16, 16))]
)
def test_pixels_are_kept_as_differences(kind):
    """But a plan of an earlier version goes on with the bytes that it began with."""
    noise = np.random.default_rng(0).normal(10, 2, (64, 256))
    pixels = (noise + 200 * np.hanning(256)).astype(np.uint8)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 256)
    column = flat if kind == flat.type else pa.ExtensionArray.from_storage(kind, flat)
    table = pa.table(
        {"image": column, "latent": pa.array([[0.5, 1.5]] * 64, pa.list_(pa.float32(), 2))}
    )
    old = {name: value for name, value in shards.WRITER.items() if name != "pixels"}
    files = [shards.parquet_bytes(table, writer) for writer in (old, shards.WRITER)]
    for data, encoding in zip(files, ("PLAIN", "DELTA_BINARY_PACKED"), strict=True):
        image, latent = (
            pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(at) for at in (0, 1)
        )
        assert encoding in image.encodings
        assert "PLAIN" in latent.encodings
        assert image.is_stats_set == (encoding == "PLAIN")
        assert pq.read_table(pa.BufferReader(data)).equals(table)
    assert len(files[1]) < 0.8 * len(files[0])


def test_manifest_is_read_back(tmp_path):
    out = str(tmp_path)
    manifest.open_plan(out, PLAN)
    receipts = [write(out, unit) for unit in UNITS]
    written = manifest.write_manifest(out, PLAN, receipts, provenance={"seed": 1})
    assert written == manifest.read_manifest(out, kind="cutouts")
    assert written.totals == {"rows_in": 6, "rows": 3, "rejects": 3}
    assert written.fingerprint == PLAN.fingerprint
    assert pq.read_table(tmp_path / written.paths[0]).num_rows == 1


def test_a_plan_is_not_written_over_by_who_looked_before_it_was_there(tmp_path, monkeypatch):
    """Two commands for one folder in one moment: one of them has it."""
    other, out = Plan("cutouts", {"size": 9, "deep": {"a": [1]}}, UNITS), str(tmp_path)
    exists = storage.exists

    def look(uri):
        there = exists(uri)
        monkeypatch.setattr(storage, "exists", exists)
        manifest.open_plan(out, PLAN)  # the other command, right after this one's look
        return there

    monkeypatch.setattr(storage, "exists", look)
    with pytest.raises(InputError, match="another plan"):
        manifest.open_plan(out, other)
    assert manifest.check_plan(out, PLAN)


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


def spoiled(tmp_path, *, keep):
    """A part of 10,000 rows in 5 row groups, with garbage in all column chunks but those kept."""
    count = 10_000
    table = pa.table(
        {
            "object_id": [f"g{number:05d}" for number in range(count)],
            "ra": np.linspace(10, 20, count),
            "dec": np.zeros(count),
            "x": np.arange(count),
        }
    )
    data = bytearray(shards.parquet_bytes(table))
    metadata = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata
    assert metadata.num_row_groups == 5
    for group in range(5):
        for at in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(at)
            if (group, chunk.path_in_schema) not in keep:
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                data[start : start + chunk.total_compressed_size] = b"\xff" * (
                    chunk.total_compressed_size
                )
    (tmp_path / "part.parquet").write_bytes(data)
    return table


def test_a_selection_reads_no_more_than_it_must(tmp_path):
    """What is not to be read is garbage: reading it would fail."""
    asked = {(3, name) for name in ("ra", "dec", "x")}
    table = spoiled(tmp_path, keep=asked)
    cone = Selection("object_id", cone=Cone(17.0, 0.0, 36.0))  # rows of the fourth group alone
    found = shards.select_rows(str(tmp_path), "part.parquet", cone, ["x", "ra"])
    near = np.abs(table["ra"].to_numpy() - 17.0) <= 0.01
    assert found.equals(table.filter(pa.array(near)).select(["x", "ra"]))
    assert found.num_rows == 20
    with pytest.raises(OSError, match=r"."):
        shards.select_rows(str(tmp_path), "part.parquet", cone, ["object_id"])
    other = Selection("object_id", cone=Cone(11.0, 0.0, 36.0))
    with pytest.raises(OSError, match=r"."):
        shards.select_rows(str(tmp_path), "part.parquet", other, ["x"])


def test_the_rest_is_read_only_where_a_row_is_wanted(tmp_path):
    """Statistics let the ids of groups 0 and 1 through; only group 1 has one of them."""
    keep = {(0, "object_id"), (1, "object_id"), (1, "x")}
    spoiled(tmp_path, keep=keep)
    wanted = Selection("object_id", ids=pa.array(["g00000x", "g02001", "g03000"]))
    found = shards.select_rows(str(tmp_path), "part.parquet", wanted, ["x"])
    assert found["x"].to_pylist() == [2001, 3000]


def test_a_selection_of_nothing_and_of_all(tmp_path):
    table = spoiled(tmp_path, keep={(g, name) for g in range(5) for name in ("object_id", "x")})
    nothing = Selection("object_id", ids=pa.array(["a", "z"]))
    found = shards.select_rows(str(tmp_path), "part.parquet", nothing, ["x", "object_id"])
    assert found.num_rows == 0
    assert found.schema == table.select(["x", "object_id"]).schema
    everything = shards.select_rows(str(tmp_path), "part.parquet", Selection("object_id"), ["x"])
    assert everything.equals(table.select(["x"]))
    assert shards.read_schema(str(tmp_path), "part.parquet").names == table.column_names


def test_a_finished_folder_is_that_of_the_same_work_by_other_versions(tmp_path):
    out, old = str(tmp_path), {"size": 8, "versions": {"torch": "1"}, "writer": {"level": 1}}
    new = {"size": 8, "versions": {"torch": "2"}, "writer": {"level": 3}}
    plans = [Plan("classified", settings, UNITS) for settings in (old, new)]
    manifest.open_plan(out, plans[0])
    # A run under way is gone on with by what it began with alone.
    with pytest.raises(InputError, match=r"versions\.torch was '1' and is now '2'"):
        manifest.check_plan(out, plans[1])
    manifest.write_manifest(out, plans[0], [write(out, unit) for unit in UNITS], provenance={})
    assert manifest.check_plan(out, plans[1])
    with pytest.raises(InputError, match="size was 8 and is now 9"):
        manifest.check_plan(out, Plan("classified", {**new, "size": 9}, UNITS))
    others = tuple(Unit(unit.name, {"number": 7}) for unit in UNITS)
    for units in (UNITS[:2], others):
        with pytest.raises(InputError, match="holds another plan"):
            manifest.check_plan(out, Plan("classified", new, units))


def test_rows_of_large_images_are_selected_some_at_a_time(tmp_path, monkeypatch):
    """The rows are the same in however many batches a row group is decoded."""
    count, kind = 50, pa.list_(pa.uint8(), 64)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64), np.uint8)
    table = rows.table(
        pa.schema([("object_id", pa.string()), ("component", pa.int16()), ("image", kind)]),
        {
            "object_id": np.array([f"g{number:02d}" for number in range(count)], object),
            "component": np.arange(count) % 3,
            "image": pixels,
        },
    )
    (tmp_path / "x.parquet").write_bytes(
        shards.parquet_bytes(table, {**shards.WRITER, "row_group_size": 20})
    )
    decoded, iter_batches = [], pq.ParquetFile.iter_batches

    def watched(self, size, **options):
        for batch in iter_batches(self, size, **options):
            decoded.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    monkeypatch.setattr(shards, "AT_ONCE", 500)
    chosen = Selection("object_id", components=(1,))
    found = shards.select_rows(str(tmp_path), "x.parquet", chosen, ["image", "object_id"])
    wanted = table.filter(pa.array(np.arange(count) % 3 == 1)).select(["image", "object_id"])
    assert found.equals(wanted)
    assert max(decoded) < 10
    none = Selection("object_id", components=(7,))
    assert shards.select_rows(str(tmp_path), "x.parquet", none, ["image"]).num_rows == 0
    decoded.clear()
    assert shards.read_group(str(tmp_path), "x.parquet", 2, ["image"]).num_rows == 10
    assert max(decoded) < 10


def test_rows_are_taken_by_row_groups(tmp_path, monkeypatch):
    """In the order given, repeats too; groups without them are not read."""
    table = pa.table({"x": np.arange(100), "y": np.arange(100) * 2})
    data = shards.parquet_bytes(table, {**shards.WRITER, "row_group_size": 30})
    (tmp_path / "x.parquet").write_bytes(data)
    read, filtered = [], shards._filtered

    def watched(file, group, *of):
        read.append(group)
        return filtered(file, group, *of)

    monkeypatch.setattr(shards, "_filtered", watched)
    rows_ = np.array([95, 0, 29, 95, 30])
    taken = shards.take_rows(str(tmp_path), "x.parquet", rows_, ["y", "x"])
    assert taken.to_pydict() == {"y": (rows_ * 2).tolist(), "x": rows_.tolist()}
    assert read == [0, 1, 3]
