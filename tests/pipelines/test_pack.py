import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import avader
from avader.catalogue.pixels import healpix_29
from avader.config import PackSettings, VerifySettings
from avader.errors import InputError
from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.io.manifest import read_manifest
from avader.pipelines import pack, verify
from avader.recipe import Preprocessing
from avader.survey.selection import select
from avader.survey.sources import Columns, open_source, read_ids
from tests.tiny import (
    PREPROCESSING,
    galaxy,
    png_bytes,
    write_pngs,
    write_table,
    write_tiny_model,
)

COUNT = 40


def packed(source: str, out, *, preprocessing: Preprocessing = PREPROCESSING, **settings):
    chosen = {"rows_per_shard": 16, "workers": 1, **settings}
    pack.run(PackSettings(source=source, out=str(out), preprocessing=preprocessing, **chosen))
    return avader.open_catalogue(str(out))


def parts(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """A table with duplicates, broken cutouts and bad positions among good rows."""
    images = [png_bytes(number) for number in range(COUNT)]
    images[4], images[20], images[21] = b"not an image", images[20][:60], None
    names = [f"g{number:04d}" for number in range(COUNT)]
    names[7] = names[3]
    names[33] = names[3]
    names[35] = ""
    dec = np.linspace(-5, 5, COUNT)
    dec[9] = 95
    path = tmp_path_factory.mktemp("survey") / "table.parquet"
    return write_table(path, COUNT, image=images, object_id=names, dec=dec)


@pytest.fixture(scope="module")
def catalogue(table, tmp_path_factory, ray_session):
    return packed(table, tmp_path_factory.mktemp("packed"))


def test_rows_in_are_rows_and_rejects(catalogue):
    assert catalogue.manifest.totals == {"rows_in": COUNT, "rows": COUNT - 7, "rejects": 7}
    verify.run(VerifySettings(catalogue=catalogue.manifest.uri))


def test_every_reject_has_its_reason(catalogue):
    found = sorted((row["object_id"], row["reason"]) for row in catalogue.rejects().to_pylist())
    assert found == [
        ("", "no_id"),
        ("g0003", "duplicate_id"),
        ("g0003", "duplicate_id"),
        ("g0004", "text"),
        ("g0009", "bad_position"),
        ("g0020", "truncated"),
        ("g0021", "no_image"),
    ]
    details = {row["object_id"]: row["detail"] for row in catalogue.rejects().to_pylist()}
    assert "row 3 of table.parquet" in details["g0003"]
    assert "95" in details["g0009"]


def test_without_positions_shards_are_in_source_order(table, ray_session, tmp_path):
    pq.write_table(pq.read_table(table).drop_columns(["ra", "dec"]), tmp_path / "table.parquet")
    catalogue = packed(str(tmp_path / "table.parquet"), tmp_path / "out")
    assert catalogue.manifest.paths == [f"parts/{number:08d}.parquet" for number in range(3)]
    names = catalogue.to_arrow()["object_id"].to_pylist()
    assert names == sorted(names)
    found = {(row["object_id"], row["unit"]) for row in catalogue.rejects().to_pylist()}
    assert found == {
        ("g0003", "00000000"),
        ("g0004", "00000000"),
        ("g0020", "00000001"),
        ("g0021", "00000001"),
        ("g0003", "00000002"),
        ("", "00000002"),
    }


def test_pixels_positions_and_carried_columns(catalogue):
    table = catalogue.to_arrow()
    names = table["object_id"].to_pylist()
    assert table["votes"].to_pylist() == [int(name[1:]) for name in names]
    ra, dec = table["ra"].to_numpy(), table["dec"].to_numpy()
    np.testing.assert_array_equal(table["_healpix_29"].to_numpy(), healpix_29(ra, dec))
    images = catalogue.images(range(len(names)))
    for name, image in zip(names, images, strict=True):
        light = galaxy(int(name[1:])).astype(float)
        stretched = (light - light.min()) / (light.max() - light.min())
        np.testing.assert_allclose(image[0], np.rint(255 * stretched), atol=1)
        row = names.index(name)
        assert table["limit_low"][row].as_py() == light.min()
        assert table["limit_high"][row].as_py() == light.max()


def test_the_same_for_any_number_of_workers(table, catalogue, tmp_path):
    packed(table, tmp_path / "two", workers=2)
    assert parts(tmp_path / "two") == parts(Path(catalogue.manifest.uri))


def test_folder_of_files_has_paths_as_ids(ray_session, tmp_path):
    write_pngs(tmp_path / "survey" / "a", 3)
    write_pngs(tmp_path / "survey" / "b", 2, start=7)
    catalogue = packed(str(tmp_path / "survey"), tmp_path / "out")
    names = catalogue.to_arrow()["object_id"].to_pylist()
    assert names == ["a/g0000", "a/g0001", "a/g0002", "b/g0007", "b/g0008"]
    assert "ra" not in catalogue.dataset.schema.names


@pytest.mark.long
def test_like_takes_the_models_preprocessing(ray_session, tmp_path):
    wanted = Preprocessing(size=16, stretch="asinh", softening=0.2, dtype="float16")
    model = write_tiny_model(tmp_path / "model", preprocessing=wanted)
    source = write_pngs(tmp_path / "survey", 3)
    settings = PackSettings(
        source=source,
        out=str(tmp_path / "out"),
        like=model,
        preprocessing={"softening": 0.3},
    )
    pack.run(settings)
    held = read_manifest(str(tmp_path / "out")).settings["preprocessing"]
    assert held == wanted.model_copy(update={"softening": 0.3}).model_dump(mode="json")
    image = avader.open_catalogue(str(tmp_path / "out")).images([0])
    assert image.dtype == np.float16


def test_ids_that_cannot_be_read_are_told_in_plain_words(ray_session, tmp_path):
    path = tmp_path / "t.parquet"
    names = [f"g{number:04d}" for number in range(5)]
    columns = {"object_id": names, "image": [png_bytes(0)] * 5}
    pq.write_table(pa.table(columns), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"g0003", b"g\xff003", 1))
    with pytest.raises(InputError) as caught:
        packed(str(path), tmp_path / "out")
    assert str(caught.value).startswith(f"cannot read rows 0 to 5 of {path}: ")
    assert "ray" not in str(caught.value)


def test_a_finished_folder_needs_no_ray(catalogue, table, monkeypatch):
    monkeypatch.setattr("avader.pipelines.units.cluster", None)
    before = parts(Path(catalogue.manifest.uri))
    packed(table, catalogue.manifest.uri)
    assert parts(Path(catalogue.manifest.uri)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "absent"}, "there is nothing; check the path"),
        ({"source": "empty"}, r"wanted a folder or glob of .png.* came none"),
        ({"image_column": "picture"}, r"wanted a column 'picture'.*came columns object_id, ra"),
        ({"preprocessing": Preprocessing(size=16, crop=99)}, "at least one usable cutout"),
    ],
)
def test_bad_input_is_told_before_any_work(table, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("avader.pipelines.units.cluster", None)
    with pytest.raises(InputError, match=message):
        packed(**({"source": table, "out": tmp_path / "out"} | change))
    assert not (tmp_path / "out").exists()


def test_a_carried_column_of_our_name_is_refused(tmp_path):
    source = write_table(tmp_path / "t.parquet", 3, probability=[0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="came probability in"):
        packed(source, tmp_path / "out")


def test_another_plan_in_the_folder_is_refused(catalogue, table):
    with pytest.raises(InputError, match=r"preprocessing\.stretch was 'linear' and is now 'log'"):
        packed(table, catalogue.manifest.uri, preprocessing=Preprocessing(size=16, stretch="log"))


def test_shard_reads_elsewhere_as_a_typed_tensor(catalogue):
    path = f"{catalogue.manifest.uri}/{catalogue.manifest.paths[0]}"
    field = pq.read_schema(path).field("image")
    assert field.type == pa.fixed_shape_tensor(pa.uint8(), (1, 16, 16))


def test_a_replaced_file_is_another_plan(ray_session, tmp_path):
    source = write_pngs(tmp_path / "survey", 3)
    packed(source, tmp_path / "out")
    (tmp_path / "survey" / "g0001.png").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match="its input has changed"):
        packed(source, tmp_path / "out")


class TestSource:
    """The columns about the central source, where the settings ask for them."""

    TURNED = PREPROCESSING.model_copy(update={"orientation": "canonical"})
    MASKED = PREPROCESSING.model_copy(update={"source_mask": True})

    def names(self, source, out, preprocessing) -> set[str]:
        catalogue = packed(source, out, preprocessing=preprocessing)
        verify.run(VerifySettings(catalogue=str(out)))
        return set(catalogue.dataset.schema.names)

    @pytest.mark.long
    def test_columns_are_those_asked_for(self, ray_session, tmp_path):
        source = write_pngs(tmp_path / "survey", 6)
        plain = self.names(source, tmp_path / "plain", PREPROCESSING)
        turned = self.names(source, tmp_path / "turned", self.TURNED)
        masked = self.names(source, tmp_path / "masked", self.MASKED)
        assert turned - plain == {"orientation_angle", "orientation_flips", "mask_fraction"}
        assert masked - plain == {"mask_fraction", "source_mask"}

    def test_values_are_those_of_the_preparation(self, ray_session, tmp_path):
        both = self.TURNED.model_copy(update={"source_mask": True, "size": 19})
        source = write_pngs(tmp_path / "survey", 20)
        catalogue = packed(source, tmp_path / "out", preprocessing=both)
        table, images = catalogue.to_arrow(), catalogue.images(range(20))
        assert table.schema.field("source_mask").type == pa.list_(pa.uint8(), -(-19 * 19 // 8))
        for row, values in enumerate(table.drop_columns("image").to_pylist()):
            data = (tmp_path / "survey" / f"{values['object_id']}.png").read_bytes()
            wanted = prepare(decode_image(data), both)
            np.testing.assert_array_equal(images[row], wanted.pixels)
            assert values["orientation_angle"] == wanted.orientation.angle
            assert values["orientation_flips"] == wanted.orientation.flips
            assert values["mask_fraction"] == pytest.approx(wanted.source.mean())
            bits = np.unpackbits(np.array(values["source_mask"], np.uint8), count=19 * 19)
            np.testing.assert_array_equal(bits.reshape(19, 19), wanted.source)

    def test_a_shard_of_rejects_alone(self, ray_session, tmp_path):
        source = write_table(tmp_path / "t.parquet", 3, image=[b"x", b"y", png_bytes(1)])
        both = self.TURNED.model_copy(update={"source_mask": True})
        catalogue = packed(source, tmp_path / "out", preprocessing=both, rows_per_shard=2)
        assert catalogue.manifest.totals == {"rows_in": 3, "rows": 1, "rejects": 2}
        verify.run(VerifySettings(catalogue=str(tmp_path / "out")))


def test_a_part_of_a_table(ray_session, tmp_path, monkeypatch):
    """What is not selected is neither packed nor refused; rows keep their place in the table."""
    votes = np.where(np.arange(COUNT) < 4, 36, 37)
    source = write_table(tmp_path / "t.parquet", COUNT, total_classifications=votes)
    asked = {"votes_column": "total_classifications", "min_votes": 37, "part": "validation"}
    chosen = select(open_source(source, columns=Columns()), **asked)
    (name,) = [name for unit in chosen.units(COUNT) for name in read_ids(unit)]
    row = int(name[1:])
    # Once more in the last row: both are of the same part.
    names = [f"g{number:04d}" for number in range(COUNT)]
    names[-1] = name
    assert row < COUNT - 1
    write_table(tmp_path / "t.parquet", COUNT, object_id=names, total_classifications=votes)
    said = []
    monkeypatch.setattr("avader.pipelines.units.say", said.append)
    catalogue = packed(source, tmp_path / "out", split="validation", min_votes=37)
    verify.run(VerifySettings(catalogue=str(tmp_path / "out")))
    assert catalogue.manifest.totals == {"rows_in": 2, "rows": 1, "rejects": 1}
    assert catalogue.to_arrow()["object_id"].to_pylist() == [name]
    (reject,) = catalogue.rejects().to_pylist()
    assert reject["detail"] == f"the same id came first in row {row} of t.parquet"
    assert "packing 2 of 40 rows as 1 shards, HEALPix pixels of order 0, into" in said[0]
    held = catalogue.manifest.settings["selection"]
    assert held == {
        "split": "validation",
        "min_votes": 37,
        "votes_column": "total_classifications",
    }


def test_like_and_what_overrides_it_may_not_go_together(tmp_path):
    model = write_tiny_model(
        tmp_path / "model", preprocessing=Preprocessing(size=16, bands=(0, 1), weights=(0.5, 0.5))
    )
    given = {"source": write_pngs(tmp_path / "pngs", 2), "out": str(tmp_path / "out")}
    message = r"--like and what .*: --preprocessing\.weights: wanted one per kept band \(1\)"
    with pytest.raises(InputError, match=message):
        pack.run(PackSettings(**given, like=model, preprocessing={"bands": (0,)}))
    assert not (tmp_path / "out").exists()


def test_what_was_refused_is_said_by_reason(ray_session, tmp_path, caplog):
    caplog.set_level(logging.INFO, "avader")
    folder = Path(write_pngs(tmp_path / "pngs", 3))
    for name in ("text1.png", "text2.png"):
        (folder / name).write_bytes(b"<html>")
    (folder / "empty.png").write_bytes(b"")
    packed(str(folder), tmp_path / "out")
    said = [record.getMessage() for record in caplog.records]
    assert said[-3:] == [
        f"packed 3 cutouts of 6 (3 rejects) into {tmp_path}/out",
        "  rejects: 2 text",
        "  rejects: 1 empty_file",
    ]
    assert "no positions, which a table of paths may have: without," in caplog.text


def test_columns_that_look_like_positions_are_named(tmp_path):
    """They may be of another kind, so they are not taken for it."""
    table = pq.read_table(write_table(tmp_path / "table.parquet", 3))
    table = table.rename_columns(["object_id", "RA", "Dec", "image", "votes"])
    pq.write_table(table, tmp_path / "table.parquet")
    source = open_source(str(tmp_path / "table.parquet"), columns=Columns(id="object_id"))
    assert pack._without_positions(source) == (
        "\n  no positions; its columns RA and Dec are named by --ra-column RA --dec-column Dec: "
        "without, there is no cone search and no HATS"
    )


def test_ids_as_astropy_writes_them(tmp_path):
    table = pq.read_table(write_table(tmp_path / "table.parquet", 3))
    ids = table["object_id"].cast(pa.binary())
    pq.write_table(table.set_column(0, "object_id", ids), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match=r"came binary; astropy's Table\.convert_bytestring_to"):
        packed(str(tmp_path / "bytes.parquet"), tmp_path / "out")
