"""A data set that grows: packed, added to, classified where it is new, and read as one."""

import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.io.validation import is_valid_catalog
from PIL import Image

import avader
from avader.catalogue.pixels import named_pixel
from avader.config import (
    ClassifySettings,
    CompactSettings,
    ExportSettings,
    HatsSettings,
    PackSettings,
    ReportSettings,
    VerifySettings,
)
from avader.errors import InputError, StorageError
from avader.io import growth, storage
from avader.io.models import read_model
from avader.pipelines import classify, closing, compact, export, hats, pack, report, verify
from avader.pipelines.packing import planning as packing_planning
from avader.pipelines.tiling import versions as tiling_versions
from avader.recipe import Preprocessing
from tests.pipelines.test_kill import contents
from tests.tiny import PREPROCESSING, galaxy, png_bytes, write_table, write_tiny_model

FIRST, LATER = 40, 30


def later_table(path) -> str:
    """Thirty more, among the first ones and beside them; three of them were there before."""
    numbers = np.arange(LATER)
    return write_table(
        path,
        LATER,
        object_id=[f"g{n:04d}" if n < 3 else f"h{n:04d}" for n in numbers],
        ra=np.linspace(15, 40, LATER),
        dec=np.linspace(0, 30, LATER),
        image=[png_bytes(1000 + n) for n in numbers],
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory, ray_session):
    """Folders of a data set and its catalogue, each of two increments; and the second source."""
    folder = tmp_path_factory.mktemp("grown")
    data, out = str(folder / "packed"), str(folder / "catalogue")
    model = write_tiny_model(folder / "model")
    source = write_table(folder / "first.parquet", FIRST)
    more = later_table(folder / "later.parquet")
    settings = PackSettings(
        source=source, out=data, rows_per_shard=10, preprocessing=PREPROCESSING, workers=1
    )
    pack.run(settings)
    classify.run(ClassifySettings(model=model, data=data, out=out, workers=1))
    before = storage.read_bytes(f"{out}/manifest.json")
    pack.run(PackSettings(source=more, out=data, add=True, workers=1))
    classify.run(ClassifySettings(model=model, data=data, out=out, workers=1))
    assert storage.read_bytes(f"{out}/manifest.json") == before
    return data, out, model, more


def test_the_catalogue_is_of_both(grown):
    data, out, _, _ = grown
    catalogue = avader.open_catalogue(out)
    ids = catalogue.dataset.to_table(columns=["object_id"])["object_id"].to_pylist()
    wanted = {f"g{n:04d}" for n in range(FIRST)} | {f"h{n:04d}" for n in range(3, LATER)}
    assert sorted(ids) == sorted(wanted)
    assert catalogue.manifest.totals["rows"] == FIRST + LATER - 3
    packed = growth.read_whole(data)
    assert packed.totals == {"rows_in": FIRST + LATER, "rows": FIRST + LATER - 3, "rejects": 3}
    for folder in (data, out):
        verify.run(VerifySettings(catalogue=folder))


def test_a_file_of_the_catalogue_names_the_data_of_both(grown, tmp_path):
    data, out, _, _ = grown
    file = tmp_path / "rows.vot"
    export.run(ExportSettings(catalogue=out, out=str(file)))
    text = file.read_text(errors="replace")
    digests = [held.digest for held in growth.read_increments(data)]
    assert len(digests) == 2
    assert ", ".join(digests) in text


@pytest.mark.long
def test_a_hats_collection_is_of_both(grown, tmp_path):
    _, out, *_ = grown
    collection = str(tmp_path / "hats")
    hats.run(HatsSettings(catalogue=out, out=collection, rows_per_pixel=20, workers=1))
    verify.run(VerifySettings(catalogue=collection))
    assert is_valid_catalog(collection, strict=True)
    wanted, found = (avader.open_catalogue(uri).to_arrow() for uri in (out, collection))
    assert found.sort_by("object_id").equals(wanted.sort_by("object_id"))


def test_what_was_there_is_refused_by_name(grown):
    data, *_ = grown
    rejects = avader.open_catalogue(data).rejects()
    assert sorted(rejects["object_id"].to_pylist()) == ["g0000", "g0001", "g0002"]
    assert set(rejects["reason"].to_pylist()) == {"duplicate_id"}
    assert all("the data set has already" in text for text in rejects["detail"].to_pylist())


def test_pixels_of_before_stay(grown):
    data, *_ = grown
    first, second = (
        {named_pixel(path[len("parts/") : -len(".parquet")]) for path in held.paths}
        for held in growth.read_increments(data)
    )
    assert first & second, "nothing was added to a pixel of before"
    owners = np.zeros(12 * 4**10, int)
    for pixel in first | second:
        owners[pixel.finest] += 1
    assert owners.max() == 1


def test_the_same_commands_again_do_nothing(grown, caplog):
    data, out, model, more = grown
    with caplog.at_level(logging.INFO, "avader"):
        pack.run(PackSettings(source=more, out=data, add=True, workers=1))
        classify.run(ClassifySettings(model=model, data=data, out=out, workers=1))
    assert "is increment 2 of" in caplog.text
    assert "finished already: nothing to do" in caplog.text
    assert growth.latest(data) == growth.latest(out) == 2


def test_a_run_that_was_stopped_before_it_was_published(grown):
    data, _, _, more = grown
    storage.remove(f"{data}/latest.json")
    assert growth.read_whole(data).totals["rows"] == FIRST
    pack.run(PackSettings(source=more, out=data, add=True, workers=1))
    assert growth.latest(data) == 2


def test_what_does_not_fit_is_refused(grown, tmp_path):
    data, _, _, more = grown
    with pytest.raises(InputError, match="size is 16 there, 20 in the command"):
        pack.run(
            PackSettings(source=more, out=data, add=True, preprocessing=Preprocessing(size=20))
        )
    table = pq.read_table(more)
    pq.write_table(table.append_column("colour", table["ra"]), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="also colour double"):
        pack.run(PackSettings(source=str(tmp_path / "other.parquet"), out=data, add=True))
    with pytest.raises(InputError, match=r"wanted a finished .*; the first time leave out --add"):
        pack.run(PackSettings(source=more, out=str(tmp_path / "none"), add=True))
    assert growth.latest(data) == 2


def test_a_new_model_makes_a_new_version_beside_the_old(grown, tmp_path, caplog):
    """The same command, once its model has been replaced."""
    data, _, model, _ = grown
    place = tmp_path / "current"
    settings = ClassifySettings(
        model=str(place), data=data, out=str(tmp_path / "catalogue-{model}"), workers=1
    )
    shutil.copytree(model, place)
    classify.run(settings)
    (old,) = tmp_path.glob("catalogue-*")
    before = contents(old)
    shutil.rmtree(place)
    write_tiny_model(place, seed=1)
    classify.run(settings)
    assert contents(old) == before
    (new,) = set(tmp_path.glob("catalogue-*")) - {old}
    one, other = (avader.open_catalogue(str(each)).manifest for each in (old, new))
    assert new.name == f"catalogue-{other.settings['model'][:12]}"
    assert one.settings["model"] != other.settings["model"]
    assert one.totals == other.totals
    with caplog.at_level(logging.INFO, "avader"):
        classify.run(settings)
    assert f"{new} is finished already: nothing to do" in caplog.text


def test_other_versions_of_packages_add_to_what_is_there(tmp_path, ray_session, monkeypatch):
    """Nightly runs outlive an upgrade: what is finished stays, what is new is done."""
    data, out, collection = (str(tmp_path / name) for name in ("packed", "catalogue", "hats"))
    model = write_tiny_model(tmp_path / "model")
    first = write_table(tmp_path / "first.parquet", 12)
    tiled = HatsSettings(catalogue=out, out=collection, workers=1)
    classifying = ClassifySettings(model=model, data=data, out=out, workers=1)
    pack.run(PackSettings(source=first, out=data, preprocessing=PREPROCESSING, workers=1))
    classify.run(classifying)
    hats.run(tiled)
    before = contents(tmp_path / "catalogue")
    for module in (classify, packing_planning, tiling_versions):
        monkeypatch.setattr(module, "package_versions", lambda *_: {"pillow": "99"})
    more = later_table(tmp_path / "later.parquet")
    pack.run(PackSettings(source=more, out=data, add=True, workers=1))
    classify.run(classifying)
    hats.run(tiled)
    after = contents(tmp_path / "catalogue")
    assert all(after[path] == before[path] for path in before)
    assert growth.latest(out) == growth.latest(collection) == 2
    found = growth.read_increments(out)
    assert found[0].settings["versions"] != found[1].settings["versions"] == {"pillow": "99"}
    for folder in (data, out, collection):
        verify.run(VerifySettings(catalogue=folder))


def test_columns_in_another_order_are_added_in_the_first_ones(tmp_path, ray_session):
    data, out = str(tmp_path / "packed"), str(tmp_path / "joined")
    source = write_table(tmp_path / "first.parquet", 12, mag=np.arange(12.0))
    pack.run(PackSettings(source=source, out=data, preprocessing=PREPROCESSING, workers=1))
    table = pq.read_table(write_table(tmp_path / "more.parquet", 9, mag=np.arange(9.0)))
    ids = pa.array([f"m{number}" for number in range(9)])
    table = table.set_column(0, pa.field("object_id", pa.string(), nullable=False), ids)
    other = table.select(["mag", "votes", "image", "dec", "ra", "object_id"])
    fields = [field.with_nullable(field.name != "mag") for field in other.schema]
    pq.write_table(other.cast(pa.schema(fields)), tmp_path / "more.parquet")
    pack.run(PackSettings(source=str(tmp_path / "more.parquet"), out=data, add=True, workers=1))
    verify.run(VerifySettings(catalogue=data))
    compact.run(CompactSettings(data=data, out=out, workers=1))
    found = avader.open_catalogue(out).to_arrow().select(["object_id", "votes", "mag"])
    assert len(found) == 21
    added = [row for row in found.to_pylist() if row["object_id"].startswith("m")]
    assert all(row["mag"] == row["votes"] == int(row["object_id"][1:]) for row in added)


def test_images_of_other_bands_are_refused(tmp_path, ray_session):
    """Where files are stored as they came, the column of images is the same for all."""
    data = str(tmp_path / "packed")
    for name, mode in (("grey", "L"), ("red", "RGB")):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(4):
            pixels = Image.fromarray(galaxy(number)).convert(mode)
            pixels.save(folder / f"{name}{number}.png")
    first = PackSettings(
        source=str(tmp_path / "red"), out=data, store="bytes", preprocessing=PREPROCESSING
    )
    pack.run(first)
    with pytest.raises(InputError, match=r"wanted images of 3 bands as in .*, came 1"):
        pack.run(PackSettings(source=str(tmp_path / "grey"), out=data, add=True))


def test_a_summary_that_fails_comes_after_the_catalogue_is_published(
    grown, tmp_path, ray_session, monkeypatch
):
    data, _, model, _ = grown

    def fail(*_, **__):
        raise StorageError("no answer")

    monkeypatch.setattr(closing, "close", fail)
    out = str(tmp_path / "catalogue")
    settings = ClassifySettings(model=model, data=data, out=out, workers=1)
    for _ in growth.read_increments(data):
        with pytest.raises(StorageError):
            classify.run(settings)
    assert growth.latest(out) == 2


def test_a_report_is_of_all_increments(grown):
    data, out, model, _ = grown
    made, packed = growth.read_increments(out), growth.read_increments(data)
    settings = ReportSettings(model=model, catalogue=out, out="unused")
    told = report._provenance(settings, made, packed, read_model(model))
    facts = {title: {fact.name: fact.value for fact in found} for title, found in told.items()}
    sources = [held.settings["source"] for held in packed]
    assert all(source in facts["Cutouts"]["source"] for source in sources)
    digests = [held.digest for held in packed]
    assert all(digest in facts["Catalogue"]["data"] for digest in digests)
    assert facts["Catalogue"]["model"] == made[0].settings["model"]
    assert facts["Versions"]["numpy"] == np.__version__
