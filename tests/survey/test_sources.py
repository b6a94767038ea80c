"""Sources: what is found, in which order, and what is refused before any work."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.errors import InputError, StorageError
from avader.io import storage
from avader.survey import image_files, reading
from avader.survey.sources import describe_row, read_ids, read_objects, read_unit, row_numbers
from tests.survey.samples import everything, opened, refused, table, write

BIG = 1_237_668_296_598_749_280  # an SDSS objID; float64 would change its last digits


def _raising(error):
    def fail(*args, **options):
        raise error

    return fail


class TestFiles:
    NAMES = ("b.png", "a/2.jpg", "a/1.FITS", "a/1.fits.gz", "a.b/c.jpeg", "z.fit", "a-b.png")

    def test_folder_is_searched_to_its_depths_in_order_of_path(self, tmp_path):
        write(tmp_path, *self.NAMES, "notes.txt", ".hidden.png", "truth.csv")
        source = opened(tmp_path)
        assert [storage.public_uri(f) for f in source.files] == [
            str(tmp_path / name) for name in sorted(self.NAMES)
        ]
        found = everything(source)
        assert found.column_names == ["object_id", "source_row", "image", "problem"]
        assert found["source_row"].to_pylist() == list(range(7))
        assert found["object_id"].to_pylist() == ["a-b", "a.b/c", "a/1", "a/1", "a/2", "b", "z"]
        assert found["image"].to_pylist() == [name.encode() for name in sorted(self.NAMES)]
        assert found["problem"].null_count == 7
        assert (source.has_positions, source.carried.names) == (False, [])

    def test_id_is_the_path_below_the_source_even_with_a_slash_at_its_end(self, tmp_path):
        write(tmp_path, "deep/er/x.png")
        assert everything(opened(f"{tmp_path}/deep/"))["object_id"].to_pylist() == ["er/x"]

    def test_glob(self, tmp_path):
        write(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/1.txt", "b/c/3.png")
        ids = everything(opened(f"{tmp_path}/*/1.*"))["object_id"].to_pylist()
        assert ids == ["a/1", "b/1"]
        deep = everything(opened(f"{tmp_path}/b/**/*.png"))["object_id"].to_pylist()
        assert "c/3" in deep

    def test_folder_whose_name_looks_like_a_glob(self, tmp_path):
        write(tmp_path / "run[1]", "a.png")
        assert everything(opened(tmp_path / "run[1]"))["object_id"].to_pylist() == ["a"]

    def test_one_file(self, tmp_path):
        write(tmp_path, "a.png", "b.png")
        assert everything(opened(tmp_path / "b.png"))["object_id"].to_pylist() == ["b"]

    def test_relative_path(self, tmp_path, monkeypatch):
        write(tmp_path, "in/a.png")
        monkeypatch.chdir(tmp_path)
        assert everything(opened("in"))["object_id"].to_pylist() == ["a"]

    def test_units(self, tmp_path):
        write(tmp_path, *(f"{number}.png" for number in range(7)))
        units = opened(tmp_path).units(3)
        assert [unit.name for unit in units] == ["00000000", "00000001", "00000002"]
        assert [len(read_ids(unit)) for unit in units] == [3, 3, 1]
        assert describe_row(units[1], 5) == "5.png"

    def test_images_before_tables_beside_them(self, tmp_path):
        write(tmp_path, "a.png")
        table(tmp_path / "survey.parquet")
        assert everything(opened(tmp_path))["object_id"].to_pylist() == ["a"]

    def test_large_files_are_held_some_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(image_files, "HELD_BYTES", 2500)
        for number in range(10):
            (tmp_path / f"{number}.png").write_bytes(bytes([number]) * 1000)
        (unit,) = opened(tmp_path).units(100)
        held = list(read_objects(unit))
        assert [objects.num_rows for objects in held] == [3, 3, 3, 1]
        found = pa.concat_tables(held)
        assert found["object_id"].to_pylist() == [str(number) for number in range(10)]
        assert found["source_row"].to_pylist() == list(range(10))
        assert [image[0] for image in found["image"].to_pylist()] == list(range(10))

    def test_file_that_vanished_is_a_row_with_a_problem(self, tmp_path):
        write(tmp_path, "a.png", "b.png", "c.png")
        source = opened(tmp_path)
        (tmp_path / "b.png").unlink()
        found = everything(source)
        assert found["object_id"].to_pylist() == ["a", "b", "c"]
        assert found["image"].to_pylist() == [b"a.png", None, b"c.png"]
        assert found["problem"].to_pylist() == [
            None,
            "no_file: cannot read b.png: no such file",
            None,
        ]

    def test_file_without_permission_is_a_row_with_a_problem(self, tmp_path, monkeypatch):
        write(tmp_path, "a.png")
        unit = opened(tmp_path).units(1)[0]
        monkeypatch.setattr("builtins.open", _raising(PermissionError(13, "Permission denied")))
        assert read_unit(unit)["problem"].to_pylist() == [
            "unreadable: cannot read a.png: Permission denied"
        ]

    def test_file_too_large_for_a_cutout_is_not_read_whole(self, tmp_path, monkeypatch):
        write(tmp_path, "a.png", "long-name.png")
        monkeypatch.setattr(image_files, "MAX_BYTES", 6)
        assert everything(opened(tmp_path))["problem"].to_pylist() == [
            None,
            "file_too_large: long-name.png is larger than 6 bytes, too large for a cutout",
        ]

    def test_error_of_the_machine_stops_the_unit(self, tmp_path, monkeypatch):
        """Too many open files, say, must not turn good galaxies into rejects."""
        write(tmp_path, "a.png")
        unit = opened(tmp_path).units(1)[0]
        monkeypatch.setattr("builtins.open", _raising(OSError(24, "Too many open files")))
        with pytest.raises(InputError, match="Too many open files"):
            read_unit(unit)


class TestTable:
    def test_columns_in_order_with_carried_ones_last(self, tmp_path):
        source = opened(table(tmp_path / "t.parquet", votes=[[1, 2]] * 5))
        found = everything(source)
        assert found.column_names == [
            "object_id",
            "source_row",
            "ra",
            "dec",
            "image",
            "problem",
            "label",
            "votes",
        ]
        assert source.carried == pa.schema({"label": pa.int8(), "votes": pa.list_(pa.int64())})
        assert found.schema.field("label").type == pa.int8()
        assert source.has_positions
        assert found["image"][3].as_py() == b"bytes 3"
        assert found["problem"].null_count == 5

    @pytest.mark.parametrize("per_shard", [1, 3, 4, 7, 100])
    @pytest.mark.parametrize("group", [2, 3, 100])
    def test_any_cut_gives_the_same_rows(self, tmp_path, per_shard, group):
        whole = pq.read_table(table(tmp_path / "t.parquet", 10, group=group))
        found = everything(opened(tmp_path / "t.parquet"), per_shard)
        for name in whole.column_names:
            assert found[name].to_pylist() == whole[name].to_pylist()

    def test_only_the_row_groups_of_a_unit_are_read(self, tmp_path, monkeypatch):
        uri = table(tmp_path / "t.parquet", 100, group=10)
        unit = opened(uri).units(15)[2]  # rows 30 to 45
        read = []
        whole = pq.ParquetFile.iter_batches

        def watched(self, *args, row_groups, columns, **options):
            read.append((row_groups, columns))
            return whole(self, *args, row_groups=row_groups, columns=columns, **options)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
        assert read_ids(unit) == [f"g{number}" for number in range(30, 45)]
        assert read == [([3], ["object_id"]), ([4], ["object_id"])]

    @pytest.mark.parametrize("group", [100, 5000])
    def test_objects_of_a_unit_come_some_at_a_time(self, tmp_path, group):
        """A unit may be large; its images are never held together."""
        source = opened(table(tmp_path / "t.parquet", 3000, group=group))
        parts = [part["source_row"].to_pylist() for part in read_objects(source.units(3000)[0])]
        assert [row for part in parts for row in part] == list(range(3000))
        assert max(map(len, parts)) < 1024

    def test_several_tables_in_order_of_path(self, tmp_path):
        table(tmp_path / "b.parquet", 3)
        table(tmp_path / "a.parquet", 4)
        table(tmp_path / "c.parquet", 0)
        source = opened(tmp_path / "*.parquet")
        assert [Path(file).name for file in source.files] == ["a.parquet", "b.parquet", "c.parquet"]
        units = source.units(3)
        assert [describe_row(unit, int(row_numbers(unit)[0])) for unit in units] == [
            "row 0 of a.parquet",
            "row 3 of a.parquet",
            "row 0 of b.parquet",
        ]
        found = everything(opened(tmp_path), 3)
        assert found["label"].to_pylist() == [0, 1, 2, 3, 0, 1, 2]
        assert found["source_row"].to_pylist() == list(range(7))

    def test_other_names(self, tmp_path):
        uri = table(tmp_path / "t.parquet", drop=["object_id", "ra", "dec", "image"])
        whole = pq.read_table(uri)
        for name in ("objid", "ALPHA", "DELTA"):
            whole = whole.append_column(name, pa.array(range(5), pa.int32()))
        pq.write_table(whole.append_column("jpeg", pa.array([b"x"] * 5, pa.large_binary())), uri)
        found = everything(opened(uri, id="objid", ra="ALPHA", dec="DELTA", image="jpeg"))
        assert found["object_id"].to_pylist() == ["0", "1", "2", "3", "4"]
        assert found["ra"].type == pa.float64()
        assert found["image"].type == pa.binary()

    @pytest.mark.parametrize(
        "kind", [pa.int64(), pa.uint64(), pa.dictionary(pa.int32(), pa.int64()), pa.string()]
    )
    def test_long_ids_keep_every_digit(self, tmp_path, kind):
        ids = pa.array([BIG, BIG + 1, BIG + 2]).cast(
            kind.value_type if pa.types.is_dictionary(kind) else kind
        )
        ids = ids.dictionary_encode() if pa.types.is_dictionary(kind) else ids
        found = everything(opened(table(tmp_path / "t.parquet", 3, object_id=ids)))
        assert found["object_id"].to_pylist() == [str(BIG + number) for number in range(3)]

    def test_greatest_unsigned_id(self, tmp_path):
        ids = pa.array([2**64 - 1], pa.uint64())
        assert read_ids(opened(table(tmp_path / "t.parquet", 1, object_id=ids)).units(9)[0]) == [
            "18446744073709551615"
        ]

    @pytest.mark.parametrize("ids", [["a", None, ""], pa.array([1, None, None], pa.int64())])
    def test_missing_ids_keep_their_rows(self, tmp_path, ids):
        found = everything(opened(table(tmp_path / "t.parquet", 3, object_id=ids)))
        assert found["object_id"].to_pylist()[1:] == ["", ""]
        assert found["problem"].to_pylist() == [None] + ["no_id: the id is null or empty"] * 2
        assert found["image"].null_count == 0

    def test_null_images_and_null_positions_keep_their_rows(self, tmp_path):
        uri = table(tmp_path / "t.parquet", 3, image=[b"x", None, b""], ra=[1.0, 2.0, None])
        found = everything(opened(uri))
        assert found["problem"].to_pylist() == [None, "no_image: the image is null", None]
        assert found["ra"].to_pylist() == [1.0, 2.0, None]

    def test_position_alone_in_degrees_is_float64(self, tmp_path):
        uri = table(tmp_path / "t.parquet", 2, ra=pa.array([1, 2], pa.float32()))
        assert everything(opened(uri))["ra"].type == pa.float64()

    def test_table_without_positions(self, tmp_path):
        source = opened(table(tmp_path / "t.parquet", drop=["ra", "dec"]))
        assert not source.has_positions
        names = everything(source).column_names
        assert names == ["object_id", "source_row", "image", "problem", "label"]

    def test_table_that_changed_since(self, tmp_path):
        uri = table(tmp_path / "t.parquet", 10)
        units = opened(uri).units(4)
        table(tmp_path / "t.parquet", 9)
        with pytest.raises(InputError, match=r"rows 8 to 10 of .* came 1: the table has changed"):
            read_unit(units[2])

    def test_corrupt_pages(self, tmp_path):
        uri = table(tmp_path / "t.parquet", 2000, image=[os.urandom(50) for _ in range(2000)])
        unit = opened(uri).units(2000)[0]
        data = bytearray(Path(uri).read_bytes())
        data[4:9000] = bytes(8996)
        Path(uri).write_bytes(data)
        with pytest.raises(InputError, match=r"rows 0 to 2000 of .*t\.parquet"):
            read_unit(unit)

    def test_text_that_is_no_utf_8(self, tmp_path):
        uri = table(tmp_path / "t.parquet", 2, object_id=["naïve", "plain"])
        unit = opened(uri).units(2)[0]
        data = Path(uri).read_bytes()
        assert "naïve".encode() in data
        Path(uri).write_bytes(data.replace("naïve".encode(), b"na\xefve!"))
        for read in (read_ids, read_unit):
            with pytest.raises(InputError, match="Invalid UTF8 sequence at string index 0"):
                read(unit)

    def test_checksums_of_pages_are_asked(self, tmp_path):
        columns = pa.table({"object_id": ["a", "b"], "image": [b"first", b"second"]})
        path = tmp_path / "t.parquet"
        pq.write_table(columns, path, compression="none", write_page_checksum=True)
        unit = opened(path).units(2)[0]
        path.write_bytes(path.read_bytes().replace(b"second", b"sEcond"))
        with pytest.raises(InputError, match="CRC checksum"):
            read_unit(unit)

    def test_a_bomb_of_one_value_in_a_dictionary_is_held_in_pieces(self, tmp_path, monkeypatch):
        """2 KB that unpack to 200 MB, which are never held together."""
        monkeypatch.setattr(reading, "HELD_BYTES", 2**22)
        value, indices = pa.array([bytes(2**20)], pa.binary()), pa.array([0] * 200, pa.int32())
        columns = {"object_id": [f"g{number}" for number in range(200)]}
        columns |= {"image": pa.DictionaryArray.from_arrays(indices, value)}
        pq.write_table(
            pa.table(columns), tmp_path / "t.parquet", compression="zstd", store_schema=False
        )
        assert (tmp_path / "t.parquet").stat().st_size < 2**14
        (unit,) = opened(tmp_path / "t.parquet").units(1000)
        held = [(objects.num_rows, objects.nbytes) for objects in read_objects(unit)]
        assert sum(rows for rows, _ in held) == 200
        assert max(size for _, size in held) < 2**22 + (reading.IMAGES + 1) * 2**20


class TestTableOfPaths:
    def paths(self, tmp_path, paths, **extra):
        write(tmp_path / "meta", "img/a.png", "b.png")
        write(tmp_path, "c.png")
        return table(tmp_path / "meta" / "t.parquet", len(paths), image=paths, **extra)

    def test_relative_to_the_table(self, tmp_path):
        uri = self.paths(tmp_path, ["b.png", "img/a.png", "../c.png"])
        found = everything(opened(uri))
        assert found["image"].to_pylist() == [b"b.png", b"img/a.png", b"c.png"]
        assert found["object_id"].to_pylist() == ["g0", "g1", "g2"]
        assert found["label"].to_pylist() == [0, 1, 2]

    def test_held_some_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(image_files, "HELD_BYTES", 5)
        uri = self.paths(tmp_path, ["b.png", "img/a.png", "gone.png", "../c.png", "b.png"])
        (unit,) = opened(uri).units(100)
        held = list(read_objects(unit))
        assert [objects.num_rows for objects in held] == [1, 1, 2, 1]
        found = pa.concat_tables(held)
        assert found["image"].to_pylist() == [b"b.png", b"img/a.png", None, b"c.png", b"b.png"]
        assert found["label"].to_pylist() == found["source_row"].to_pylist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("gone.png", "cannot read gone.png: no such file"),
            ("b.png/x", "cannot read b.png/x: Not a directory"),
            ("img", "cannot read img: Is a directory"),
            (None, "the path of the image is null or empty"),
            ("", "the path of the image is null or empty"),
            ("/etc/x.png", "wanted a path relative to the table's folder, came /etc/x.png"),
            ("s3://b/x.png", "wanted a path relative to the table's folder, came s3://b/x.png"),
            ("x" * 260, "File name too long"),
            ("nul\0.png", "cannot read nul?.png: "),
        ],
    )
    def test_unreadable_paths_are_rows_with_a_problem(self, tmp_path, path, problem):
        found = everything(opened(self.paths(tmp_path, ["b.png", path, "b.png"])))
        assert found["image"].to_pylist() == [b"b.png", None, b"b.png"]
        assert problem in found["problem"][1].as_py()
        assert found["problem"].null_count == 2


class TestS3:
    def test_folder_glob_and_table_of_paths(self, s3_uri, tmp_path):
        for name in ("in/a/1.png", "in/b.png"):
            storage.write_bytes(storage.join(s3_uri, name), name.encode())
        local = table(tmp_path / "t.parquet", 3, image=["a/1.png", "b.png", "gone.png"])
        storage.write_bytes(storage.join(s3_uri, "in/t.parquet"), Path(local).read_bytes())
        found = everything(opened(storage.join(s3_uri, "in")))
        assert found["object_id"].to_pylist() == ["a/1", "b"]
        assert found["image"].to_pylist() == [b"in/a/1.png", b"in/b.png"]
        assert everything(opened(storage.join(s3_uri, "in/*.png")))["object_id"].to_pylist() == [
            "b"
        ]
        rows = everything(opened(storage.join(s3_uri, "in/t.parquet")), 2)
        assert rows["image"].to_pylist() == [b"in/a/1.png", b"in/b.png", None]
        assert rows["problem"].to_pylist()[2] == "no_file: cannot read gone.png: no such file"

    def test_nothing_there(self, s3_uri):
        assert "there is nothing" in refused(storage.join(s3_uri, "gone"))

    def test_wrong_key_is_not_a_reject(self, s3_uri, monkeypatch):
        """Credentials that end in mid-run stop the unit; they make no rejects."""
        import s3fs

        storage.write_bytes(storage.join(s3_uri, "in/a.png"), b"x")
        unit = opened(storage.join(s3_uri, "in")).units(1)[0]
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match="credentials"):
            read_unit(unit)

    def test_a_storage_that_is_away_makes_no_rejects(self, s3_uri, monkeypatch):
        import s3fs

        storage.write_bytes(storage.join(s3_uri, "in/a.png"), b"x")
        unit = opened(storage.join(s3_uri, "in")).units(1)[0]
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match="cannot read s3://"):
            read_unit(unit)


def test_units_of_real_tables(real_data):
    source = opened(real_data / "sdss_cutouts_200.parquet")
    units = source.units(1000)
    assert (len(units), source.has_positions, source.carried.names) == (8, True, [])
    whole = pq.read_table(real_data / "sdss_cutouts_200.parquet", columns=["object_id", "ra"])
    ids = [name for unit in units for name in read_ids(unit)]
    assert ids == [str(name) for name in whole["object_id"].to_pylist()]
    last = read_unit(units[-1])
    assert last["ra"].to_pylist() == whole["ra"].to_pylist()[7000:]


def test_threads_read_in_order(tmp_path):
    names = [f"{number:03d}.png" for number in range(100)]
    write(tmp_path, *names)
    before = threading.active_count()
    assert everything(opened(tmp_path))["image"].to_pylist() == [name.encode() for name in names]
    assert threading.active_count() <= before + 1


def test_import_is_light():
    """A worker that only reads sources loads neither torch nor ray."""
    code = "import sys, avader.survey.sources; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_that_are_no_utf8_or_look_like_a_chain(tmp_path):
    """An id is text; fsspec takes `a::b` for a file within a file."""
    names = [b"gal\xe1.png", b"a::b.png", b"plain.png"]
    for name in names:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(name)
    found = everything(opened(tmp_path))
    ids = dict(zip(found["object_id"].to_pylist(), found["image"].to_pylist(), strict=True))
    assert ids == {"gal\\xe1": names[0], "a::b": names[1], "plain": names[2]}
    assert found["problem"].null_count == 3
