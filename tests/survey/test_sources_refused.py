"""Sources that are refused before any work."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.survey.samples import refused, table, write


class TestRefused:
    """InputError before any work: what was wanted, what came, what to do."""

    def test_nothing_there(self, tmp_path):
        text = refused(tmp_path / "gone")
        assert "wanted a folder or glob of .png" in text
        assert "gone: there is nothing; check the path" in text

    def test_empty_folder(self, tmp_path):
        assert "came none" in refused(tmp_path)

    def test_folder_of_other_files(self, tmp_path):
        write(tmp_path, "b.txt", "a.csv")
        assert "came 2 other files, such as a.csv" in refused(tmp_path)

    def test_glob_without_match(self, tmp_path):
        assert "nothing matches" in refused(tmp_path / "*.png")

    def test_unknown_scheme(self):
        assert "sftpx://host/x" in refused("sftpx://host/x")

    def test_file_that_is_no_parquet(self, tmp_path):
        write(tmp_path, "t.parquet")
        assert "wanted a Parquet table at" in refused(tmp_path / "t.parquet")

    def test_name_of_a_column_that_is_no_utf_8(self, tmp_path):
        path = tmp_path / "t.parquet"
        names = ["object_id", "image", "beauté"]
        pq.write_table(pa.table([["a"], [b"x"], [1]], names=names), path, store_schema=False)
        path.write_bytes(path.read_bytes().replace("beauté".encode(), b"beaut\xe9\xe9"))
        assert "can't decode byte 0xe9" in refused(path)

    def test_empty_file(self, tmp_path):
        (tmp_path / "t.parquet").touch()
        assert "wanted a Parquet table at" in refused(tmp_path / "t.parquet")

    def test_table_without_rows(self, tmp_path):
        assert "came a table with none" in refused(table(tmp_path / "t.parquet", 0))

    @pytest.mark.parametrize(
        ("columns", "option"),
        [
            ({"id": "objid"}, "--id-column"),
            ({"image": "jpeg"}, "--image-column"),
            ({"ra": "RA"}, "--ra-column"),
            ({"dec": "DEC"}, "--dec-column"),
        ],
    )
    def test_missing_column_lists_those_there_are(self, tmp_path, columns, option):
        text = refused(table(tmp_path / "t.parquet"), **columns)
        assert f"wanted a column {next(iter(columns.values()))!r}" in text
        assert "came columns object_id, ra, dec, image, label" in text
        assert text.endswith(option)

    def test_one_coordinate_alone(self, tmp_path):
        text = refused(table(tmp_path / "t.parquet", drop=["dec"]), ra="ra")
        assert "wanted both coordinates, came 'ra' alone" in text
        assert "--dec-column" in text

    @pytest.mark.parametrize(
        ("column", "values", "wanted"),
        [
            ("object_id", np.arange(5.0), "the id: wanted strings or integers, came double"),
            ("ra", list("abcde"), "right ascension: wanted numbers, degrees, came string"),
            ("image", np.arange(5), "the image: wanted bytes (binary) or paths (string), came int"),
            ("image", [{"bytes": b"x"}] * 5, "came struct<bytes: binary>"),
        ],
    )
    def test_wrong_types(self, tmp_path, column, values, wanted):
        assert wanted in refused(table(tmp_path / "t.parquet", **{column: values}))

    def test_reserved_names_are_all_listed(self, tmp_path):
        uri = table(tmp_path / "t.parquet", component=range(5), problem=range(5), objid=range(5))
        assert "came component, problem in" in refused(uri)
        assert "came object_id, component, problem in" in refused(uri, id="objid")

    def test_ra_without_dec_is_no_position_and_no_carried_column(self, tmp_path):
        assert "came ra in" in refused(table(tmp_path / "t.parquet", drop=["dec"]))

    def test_one_column_for_two_things(self, tmp_path):
        assert "wanted different columns" in refused(table(tmp_path / "t.parquet"), id="image")

    def test_column_twice(self, tmp_path):
        names = ["object_id", "image", "label", "label"]
        twice = pa.table([["a"], [b"x"], [1], [2]], names=names)
        pq.write_table(twice, tmp_path / "t.parquet")
        assert "came label twice" in refused(tmp_path / "t.parquet")

    def test_tables_that_differ(self, tmp_path):
        table(tmp_path / "a.parquet")
        table(tmp_path / "b.parquet", label=np.arange(5), extra=np.arange(5))
        text = refused(tmp_path)
        assert "b.parquet unlike" in text
        assert "no label int8, also extra int64, also label int64; pack them apart" in text

    def test_position_columns_asked_of_image_files(self, tmp_path):
        assert "image files, which have no columns" in refused(write(tmp_path, "a.png"), ra="ra")

    def test_many_columns_are_not_all_listed(self, tmp_path):
        extra = {f"x{number}": range(5) for number in range(60)}
        text = refused(table(tmp_path / "t.parquet", **extra), id="nope")
        assert "and 35 more" in text
