"""Data sets that hold files as they came: the same catalogues, and models of any preprocessing."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import avader
from avader.api import Catalogue
from avader.config import (
    ClassifySettings,
    CompactSettings,
    PackSettings,
    ReportSettings,
    VerifySettings,
)
from avader.errors import InputError
from avader.io.manifest import read_manifest
from avader.io.models import read_model
from avader.pipelines import classify, compact, matching, pack, report, verify
from avader.pipelines.packing.adding import Increment
from avader.pipelines.packing.planning import plan_packing
from avader.pipelines.training.images import StreamedImages, load_images
from avader.recipe import Preprocessing
from avader.survey.sources import Columns, open_source
from avader.survey.stored import pixel_reader
from avader.training.data import Sequence
from tests.tiny import PREPROCESSING, png_bytes, write_table, write_tiny_model
from tests.training.tiny import RECIPE

COUNT = 30
MASKED = PREPROCESSING.model_copy(update={"source_mask": True})


def packed(source: str, out: Path, **settings) -> str:
    chosen = {"rows_per_shard": 8, "workers": 1, "preprocessing": MASKED, **settings}
    pack.run(PackSettings(source=source, out=str(out), **chosen))
    return str(out)


def classified(model: str, data: str, out: Path) -> Catalogue:
    classify.run(ClassifySettings(model=model, data=data, out=str(out), workers=1))
    verify.run(VerifySettings(catalogue=str(out)))
    return avader.open_catalogue(str(out))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """A table with broken cutouts among good ones."""
    images = [png_bytes(number) for number in range(COUNT)]
    images[4], images[20] = b"not an image", None
    path = tmp_path_factory.mktemp("survey") / "table.parquet"
    return write_table(path, COUNT, image=images)


@pytest.fixture(scope="module")
def pixels(source, tmp_path_factory, ray_session) -> str:
    return packed(source, tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def files(source, tmp_path_factory, ray_session) -> str:
    return packed(source, tmp_path_factory.mktemp("files"), store="bytes")


def test_files_stay_as_they_came_and_all_else_is_as_with_pixels(files, pixels):
    verify.run(VerifySettings(catalogue=files))
    one, other = avader.open_catalogue(files), avader.open_catalogue(pixels)
    table = one.to_arrow()
    numbers = [int(name[1:]) for name in table["object_id"].to_pylist()]
    assert table["image"].to_pylist() == [png_bytes(number) for number in numbers]
    assert table.drop_columns("image").equals(other.to_arrow().drop_columns("image"))
    assert one.rejects().equals(other.rejects())
    assert one.rejects().num_rows == 2
    rows = [5, 0, 27, 5]
    np.testing.assert_array_equal(one.images(rows), other.images(rows))
    assert one.image_shape == (1, 16, 16)
    assert one.images([]).shape == (0, 1, 16, 16)


def test_the_catalogue_is_that_of_pixels(files, pixels, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    one, other = (
        classified(model, data, tmp_path / name)
        for name, data in {"files": files, "pixels": pixels}.items()
    )
    assert one.to_arrow().equals(other.to_arrow())
    assert "mask_fraction" in one.dataset.schema.names


@pytest.mark.long
def test_a_model_of_another_preprocessing_needs_no_other_packing(source, files, tmp_path):
    """As if the data set had been packed for it; what it can't take is a reject of classify."""
    wanted = Preprocessing(
        size=16, crop=14, stretch="asinh", orientation="canonical", dtype="float16"
    )
    model = write_tiny_model(tmp_path / "model", preprocessing=wanted)
    found = classified(model, files, tmp_path / "files")
    like = packed(source, tmp_path / "like", preprocessing=Preprocessing(), like=model)
    assert found.to_arrow().equals(classified(model, like, tmp_path / "pixels").to_arrow())
    assert len(set(found.to_arrow()["orientation_angle"].to_pylist())) > 20
    for data, catalogue in ((files, "files"), (like, "pixels")):
        settings = {"model": model, "catalogue": str(tmp_path / catalogue), "data": data}
        report.run(ReportSettings(**settings, out=str(tmp_path / "report" / catalogue)))
    one, other = (
        re.findall(r"data:image/[^\"]*", (tmp_path / "report" / name / "index.html").read_text())
        for name in ("files", "pixels")
    )
    assert len(one) > 24
    assert one == other

    large = write_tiny_model(tmp_path / "large", preprocessing=Preprocessing(size=16, crop=17))
    none = classified(large, files, tmp_path / "none")
    assert none.manifest.totals == {"rows_in": COUNT - 2, "rows": 0, "rejects": COUNT - 2}
    assert set(none.rejects()["reason"].to_pylist()) == {"too_small"}


def test_which_extensions_hold_the_image_is_the_files_affair(files, tmp_path):
    model = read_model(write_tiny_model(tmp_path / "m", preprocessing=Preprocessing(size=16)))
    data = read_manifest(files)
    data.settings["preprocessing"]["extensions"] = ["SCI"]
    assert matching.preparation(data, model).extensions == ("SCI",)
    assert matching.check_match(data, model) == {}


def test_training_sees_the_same_images(files, pixels):
    recipe = RECIPE.model_copy(update={"outside_weight": 0.5})
    one, other = (load_images(read_manifest(uri), recipe) for uri in (files, pixels))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.masks, other.masks)
    streamed = StreamedImages(read_manifest(files), recipe, limit=2**20, world=1)
    assert streamed.mean_pixel == pytest.approx(one.mean_pixel, rel=1e-12)
    for part in streamed.parts(Sequence(seed=0, epoch=0, batch=7)):
        np.testing.assert_array_equal(part.pixels, one.pixels[part.share.rows])
        np.testing.assert_array_equal(part.masks, one.masks[part.share.rows])


@pytest.mark.long
def test_an_increment_is_stored_as_the_first(source, files, ray_session, tmp_path):
    folder = Path(packed(source, tmp_path / "grown", store="bytes"))
    more = write_table(tmp_path / "more.parquet", 9, object_id=[f"h{n}" for n in range(9)])
    with pytest.raises(InputError, match=r"store is bytes there, pixels in the command"):
        packed(more, folder, add=True, store="pixels")
    packed(more, folder, add=True)
    grown = avader.open_catalogue(str(folder))
    assert grown.to_arrow()["image"].to_pylist()[-9:] == [png_bytes(n) for n in range(9)]

    compact.run(CompactSettings(data=str(folder), out=str(tmp_path / "one"), workers=1))
    whole = avader.open_catalogue(str(tmp_path / "one"))
    assert whole.manifest.totals == grown.manifest.totals
    by_id = whole.to_arrow().sort_by("object_id")
    assert by_id.equals(grown.to_arrow().sort_by("object_id"))
    verify.run(VerifySettings(catalogue=str(tmp_path / "one")))


def test_a_stored_file_that_can_no_longer_be_prepared(files, tmp_path):
    """It was good when it was packed: the folder is broken, which is no image's fault."""
    held = read_manifest(files)
    column = pa.chunked_array([pa.array([b"GIF"], pa.large_binary())])
    with pytest.raises(InputError, match=r"wanted stored images .* run `avader verify`"):
        pixel_reader(held.settings)(column)


def test_shards_are_cut_by_the_size_of_files(source, tmp_path, ray_session):
    """Where they have positions, as many as are 128 MB."""
    table = pq.read_table(source).slice(0, 4)
    padded = [image + bytes(1_000_000) for image in table["image"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("image"), "image", pa.array(padded))
    pq.write_table(table, tmp_path / "t.parquet")
    settings = PackSettings(source=str(tmp_path / "t.parquet"), out="out", store="bytes")
    opened = open_source(settings.source, columns=Columns())
    plan, stored = plan_packing(settings, opened, PREPROCESSING, None, Increment("out"))
    assert plan.settings["rows_per_shard"] == 128_000_000 // stored
    assert stored == len(padded[0])
