"""`pack` by the sky: tables in any order become pixels, against a recount by hand."""

import math
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import avader
from avader.api import Catalogue
from avader.catalogue.pixels import healpix_29, named_pixel
from avader.config import ClassifySettings, PackSettings, VerifySettings
from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.pipelines import classify, pack, verify
from avader.pipelines.packing.adding import Increment
from avader.pipelines.packing.planning import describe_scatter, plan_packing
from avader.recipe import Preprocessing
from avader.survey.sky import times_read
from avader.survey.sources import Columns, open_source, read_ids
from tests.healpix import pixel_of
from tests.tiny import PREPROCESSING, png_bytes, write_table, write_tiny_model

COUNT, LIMIT = 60, 10


def packed(source, out, **settings) -> Catalogue:
    chosen = {"rows_per_shard": LIMIT, "workers": 1, "preprocessing": PREPROCESSING, **settings}
    pack.run(PackSettings(source=str(source), out=str(out), **chosen))
    return avader.open_catalogue(str(out))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Path:
    """Three tables in no order, with all that may be wrong; rows 5, 20 and 50 are one galaxy."""
    folder = tmp_path_factory.mktemp("survey")
    generator = np.random.default_rng(4)
    ra, dec = generator.uniform(0, 360, COUNT), generator.uniform(-80, 80, COUNT)
    names = [f"g{number:04d}" for number in generator.permutation(COUNT)]
    images = [png_bytes(number) for number in range(COUNT)]
    ra[5], dec[5] = 300.0, -70.0  # in one of the last pixels
    ra[20], dec[20] = 46.0, 1.0
    names[20] = names[50] = names[5]
    dec[50] = 91.0
    ra[30], dec[41] = math.nan, -100.0
    names[12], images[33] = "", b"not an image"
    ra[40], dec[40] = ra[2], dec[2]  # the same place: source order
    for number, (start, stop) in enumerate([(0, 25), (25, 35), (35, COUNT)]):
        write_table(
            folder / f"{number}.parquet",
            stop - start,
            object_id=names[start:stop],
            image=images[start:stop],
            ra=ra[start:stop],
            dec=dec[start:stop],
            votes=np.arange(start, stop),
        )
    return folder


@pytest.fixture(scope="module")
def catalogue(survey, tmp_path_factory, ray_session) -> Catalogue:
    return packed(survey, tmp_path_factory.mktemp("packed"))


def recount(survey: Path, catalogue: Catalogue) -> tuple[dict[str, list[int]], dict[int, tuple]]:
    """Rows of each unit, and the rejects as (id, unit, reason) by row: one by one, by the book."""
    names = [PurePath(path).stem for path in catalogue.manifest.paths]
    pixels = {name: pixel for name in names if (pixel := named_pixel(name))}
    kept: dict[str, list[int]] = {name: [] for name in names}
    refused, seen = {}, set()
    whole = pa.concat_tables(pq.read_table(path) for path in sorted(survey.glob("*.parquet")))
    for number, row in enumerate(whole.to_pylist()):
        good = abs(row["ra"]) <= 360 and abs(row["dec"]) <= 90
        (unit,) = (
            [n for n, p in pixels.items() if pixel_of(row["ra"], row["dec"], p.order) == p.number]
            if good
            else [name for name in names if name not in pixels]
        )
        if row["object_id"] in seen:
            refused[number] = (row["object_id"], unit, "duplicate_id")
        elif not row["object_id"]:
            refused[number] = ("", unit, "no_id")
        elif not good:
            kind = "bad_position" if np.isfinite([row["ra"], row["dec"]]).all() else "no_position"
            refused[number] = (row["object_id"], unit, kind)
        elif row["image"] == b"not an image":
            refused[number] = (row["object_id"], unit, "text")
        else:
            kept[unit].append(number)
        seen |= {row["object_id"]} - {""}
    return kept, refused


def test_every_object_is_in_its_pixel_or_refused_there(survey, catalogue):
    kept, refused = recount(survey, catalogue)
    assert len(kept) > 8
    assert catalogue.manifest.totals == {"rows_in": COUNT, "rows": COUNT - 6, "rejects": 6}
    for path, part in zip(catalogue.manifest.paths, catalogue.manifest.parts, strict=True):
        name = PurePath(path).stem
        found = pq.read_table(Path(catalogue.manifest.uri) / path)["votes"].to_pylist()
        assert sorted(found) == kept[name]
        assert part["rejects"] == sum(unit == name for _, unit, _ in refused.values())
        assert part["rows_in"] <= LIMIT
    found = [
        (row["object_id"], row["unit"], row["reason"]) for row in catalogue.rejects().to_pylist()
    ]
    assert sorted(found) == sorted(refused.values())
    verify.run(VerifySettings(catalogue=catalogue.manifest.uri))


def test_rows_are_in_nested_order_and_equal_ones_in_source_order(catalogue):
    table = catalogue.to_arrow()
    pixels = table["_healpix_29"].to_numpy()
    assert (np.diff(pixels) >= 0).all()
    for ra, dec, pixel in zip(table["ra"], table["dec"], pixels, strict=True):
        assert pixel_of(ra.as_py(), dec.as_py(), 20) == pixel >> 18
    numbers = table["votes"].to_pylist()
    assert numbers.index(40) == numbers.index(2) + 1


def test_images_stay_with_their_rows(survey, catalogue):
    numbers = catalogue.to_arrow()["votes"].to_pylist()
    for number, image in zip(numbers, catalogue.images(range(len(numbers))), strict=True):
        wanted = prepare(decode_image(png_bytes(number)), PREPROCESSING).pixels
        np.testing.assert_array_equal(image, wanted)


def test_the_first_in_source_order_is_kept_wherever_it_is(catalogue):
    """The one that is refused comes before it in the sky, the other has no place there."""
    details = [
        row["detail"] for row in catalogue.rejects().to_pylist() if row["reason"] == "duplicate_id"
    ]
    assert details == ["the same id came first in row 5 of 0.parquet"] * 2
    numbers = catalogue.to_arrow()["votes"].to_pylist()
    assert 5 in numbers
    assert not {20, 50} & set(numbers)


def test_workers_and_an_interruption_change_no_byte(survey, catalogue, tmp_path):
    packed(survey, tmp_path / "out", workers=2)
    whole = contents(Path(catalogue.manifest.uri))
    assert contents(tmp_path / "out") == whole
    (tmp_path / "out" / "manifest.json").unlink()
    for path in [*(tmp_path / "out" / "rejects").iterdir()][::2]:
        path.unlink()
    packed(survey, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_classified_units_keep_their_names(catalogue, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    out = str(tmp_path / "out")
    classify.run(ClassifySettings(model=model, data=catalogue.manifest.uri, out=out, workers=1))
    classified = avader.open_catalogue(out)
    assert classified.manifest.paths == catalogue.manifest.paths
    for name in ("object_id", "_healpix_29", "votes"):
        assert classified.to_arrow()[name].equals(catalogue.to_arrow()[name])
    verify.run(VerifySettings(catalogue=out))


def test_a_part_of_a_table_by_the_sky(survey, ray_session, tmp_path):
    """What is not selected is neither packed nor refused, and no reason to refuse another."""
    catalogue = packed(survey, tmp_path / "out", min_votes=6, votes_column="votes")
    totals = {"rows_in": COUNT - 6, "rows": COUNT - 6 - 5, "rejects": 5}
    assert catalogue.manifest.totals == totals
    (detail,) = [
        row["detail"] for row in catalogue.rejects().to_pylist() if row["reason"] == "duplicate_id"
    ]
    assert detail == "the same id came first in row 20 of 0.parquet"
    verify.run(VerifySettings(catalogue=str(tmp_path / "out")))


class TestPlan:
    """How many objects a shard has where nobody says, and what is said."""

    def plan(self, source: str, preprocessing: Preprocessing, **settings):
        settings = PackSettings(source=source, out="out", **settings)
        opened = open_source(source, columns=Columns())
        return plan_packing(settings, opened, preprocessing, None, Increment("out"))[0]

    @pytest.mark.parametrize(
        ("preprocessing", "rows"),
        [
            (Preprocessing(size=64, bands=(0,)), 1000),
            (Preprocessing(size=256, bands=(0, 1, 2)), 651),  # 196,608 bytes each
            (Preprocessing(size=256, bands=(0, 1, 2), dtype="float16"), 325),
            (Preprocessing(size=4096, bands=tuple(range(8))), 1),
        ],
    )
    def test_by_bytes_of_what_is_packed(self, tmp_path, preprocessing, rows):
        source = write_table(tmp_path / "t.parquet", 5)
        assert self.plan(source, preprocessing).settings["rows_per_shard"] == rows

    def test_a_large_source_has_larger_shards(self, tmp_path):
        generator = np.random.default_rng(0)
        count = 200_000
        columns = {"object_id": np.arange(count), "image": pa.nulls(count, pa.binary())}
        columns |= {"ra": generator.uniform(0, 360, count), "dec": np.zeros(count)}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        plan = self.plan(str(tmp_path / "t.parquet"), Preprocessing(size=64, bands=(0,)))
        assert plan.settings["rows_per_shard"] == count // 64
        assert len(plan.units) >= 64
        assert sum(unit.inputs["count"] for unit in plan.units) == count

    def test_scattered_rows_are_told_and_counted(self, tmp_path):
        """Each shard reads every row group that has a row of it."""
        generator = np.random.default_rng(0)
        ra, dec = generator.uniform(0, 360, 500), generator.uniform(-60, 60, 500)
        order = np.argsort(healpix_29(ra, dec))
        told = {}
        for name, rows in {"scattered": np.arange(500), "sorted": order}.items():
            uri = str(tmp_path / f"{name}.parquet")
            names, image = np.arange(500), pa.nulls(500, pa.binary())
            columns = {"object_id": names, "ra": ra[rows], "dec": dec[rows], "image": image}
            pq.write_table(pa.table(columns), uri, row_group_size=50)
            plan = self.plan(uri, Preprocessing(bands=(0,)), rows_per_shard=20)
            source = open_source(uri, columns=Columns())
            pairs = {(unit.name, int(n) // 50) for unit in plan.units for n in read_ids(unit)}
            assert times_read(source, plan.units) == len(pairs) * 50 / 500
            assert describe_scatter(source, plan) == ""
            told[name] = describe_scatter(replace(source, sizes=(10**9,)), plan)
        assert " GiB: sorted by position, in row groups of at most 20 rows" in told["scattered"]
        assert told["sorted"] == ""


@pytest.mark.long
def test_the_real_sky(real_data, ray_session, tmp_path):
    """7,911 cutouts of SDSS: each in the pixel that its position says, sorted, none missing."""
    source = real_data / "sdss_cutouts_200.parquet"
    preprocessing = Preprocessing(size=32)
    catalogue = packed(source, tmp_path / "out", rows_per_shard=0, preprocessing=preprocessing)
    verify.run(VerifySettings(catalogue=str(tmp_path / "out")))
    original = pq.read_table(source, columns=["object_id", "ra", "dec"]).to_pylist()
    wanted = {row["object_id"]: (row["ra"], row["dec"]) for row in original}
    assert catalogue.manifest.totals["rows_in"] == len(wanted) == 7911
    found, last = [], -1
    for path in catalogue.manifest.paths:
        pixel = named_pixel(PurePath(path).stem)
        table = pq.read_table(tmp_path / "out" / path, columns=["object_id", "ra", "dec"])
        for row in table.to_pylist():
            position = row["ra"], row["dec"]
            assert position == wanted[row["object_id"]]
            assert pixel_of(*position, pixel.order) == pixel.number
            place = pixel_of(*position, 22)
            assert place >= last
            last = place
            found.append(row["object_id"])
    for row in catalogue.rejects().to_pylist():
        pixel = named_pixel(row["unit"])
        assert pixel_of(*wanted[row["object_id"]], pixel.order) == pixel.number
        found.append(row["object_id"])
    assert sorted(found) == sorted(wanted)
