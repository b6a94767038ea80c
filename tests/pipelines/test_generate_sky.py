"""A synthetic sky on a region: where objects lie, addressed as ever, laid out as HATS."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from cdshealpix.nested import lonlat_to_healpix

import avader
from avader.api import Catalogue
from avader.catalogue.pixels import named_pixel
from avader.config import ExportSettings, GenerateSettings, HatsSettings, VerifySettings
from avader.errors import InputError
from avader.pipelines import export, generate, hats, verify
from avader.recipe import Preprocessing
from tests.tiny import write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")
CONE = (359.5, 40.0, 2 * 3600.0)  # across RA 0
COUNT = 90


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def drawn(model, out, **settings):
    given = {"count": COUNT, "seed": 4, "rows_per_shard": 20, "workers": 1, "cone": CONE}
    generate.run(GenerateSettings(model=model, out=str(out), **{**given, **settings}))
    verify.run(VerifySettings(catalogue=str(out)))
    return avader.open_catalogue(str(out))


@pytest.fixture(scope="module")
def sky(model, tmp_path_factory):
    return drawn(model, tmp_path_factory.mktemp("sky") / "sky")


def test_objects_lie_in_the_cone_pixel_by_pixel(sky):
    table = sky.to_arrow()
    places = SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg")
    assert places.separation(SkyCoord(*CONE[:2], unit="deg")).arcsec.max() < CONE[2]
    cells = lonlat_to_healpix(places.ra, places.dec, 29)
    np.testing.assert_array_equal(table["_healpix_29"].to_numpy(), cells)
    assert sorted(table["index"].to_pylist()) == list(range(COUNT))
    assert len(sky.manifest.parts) > 3
    for part, path in zip(sky.manifest.parts, sky.manifest.paths, strict=True):
        first, stop = named_pixel(path.split("/")[-1].removesuffix(".parquet")).span
        own = sky.dataset.filter((field("_healpix_29") >= first) & (field("_healpix_29") < stop))
        assert own.count_rows() == part["rows"]


def field(name):
    import pyarrow.dataset as ds

    return ds.field(name)


@pytest.mark.parametrize("store", ["images", pytest.param("recipe", marks=pytest.mark.long)])
def test_objects_are_addressed_by_index(model, tmp_path, sky, store):
    there = sky if store == "images" else drawn(model, tmp_path / "c", store=store)
    plain = drawn(model, tmp_path / "plain", cone=())
    indices = [89, 0, 44, 0]
    np.testing.assert_array_equal(there.images(indices), plain.images(indices))
    truth, wanted = there.truth(indices), plain.truth(indices)
    for name, values in wanted.items():
        np.testing.assert_array_equal(truth[name], values, err_msg=name)
    again = avader.regenerate(there, indices)
    table = sky.to_arrow().sort_by("index").take(indices)
    for name in ("ra", "dec", "_healpix_29"):
        np.testing.assert_array_equal(again[name], table[name].to_numpy())
        np.testing.assert_array_equal(truth[name], table[name].to_numpy())
    batches = list(avader.torch_dataset(there, batch=32))
    order = np.concatenate([batch["index"].numpy() for batch in batches])
    assert sorted(order) == list(range(COUNT))
    images = np.concatenate([batch["image"].numpy() for batch in batches])
    np.testing.assert_array_equal(images, plain.images(order))


def test_counts_are_exact_and_spread_over_the_region(model, tmp_path):
    catalogue = drawn(model, tmp_path / "c", count=0, counts={0: 50, 3: 40})
    table = catalogue.to_arrow().sort_by("index")
    assert table["component"].to_pylist() == [0] * 50 + [3] * 40
    dec = table["dec"].to_numpy()
    assert abs(dec[:50].mean() - dec[50:].mean()) < 0.8  # 2 degrees of radius
    np.testing.assert_array_equal(
        catalogue.images([60]), avader.regenerate(catalogue, [60])["image"]
    )


@pytest.mark.long
def test_a_sky_grows_in_place(model, tmp_path):
    first = drawn(model, tmp_path / "c", count=50)
    more = drawn(model, tmp_path / "c", add=True)
    before, after = (each.to_arrow().sort_by("index") for each in (first, more))
    assert after.slice(0, 50).equals(before)
    np.testing.assert_array_equal(more.images([70, 3]), avader.regenerate(more, [70, 3])["image"])
    with pytest.raises(InputError, match="region was"):
        drawn(model, tmp_path / "c", count=200, add=True, cone=(10.0, 40.0, 3600.0))


def test_a_moc_and_a_file_that_is_none(model, tmp_path):
    moc = tmp_path / "moc.json"
    moc.write_text(json.dumps({"3": [100, 101]}))
    catalogue = drawn(model, tmp_path / "c", cone=(), region=str(moc))
    moc.unlink()
    cells = catalogue.to_arrow()["_healpix_29"].to_numpy() >> 2 * 26
    assert set(cells) == {100, 101}
    assert np.isfinite(avader.regenerate(catalogue, [5])["ra"]).all()
    moc.write_text("galaxies")
    with pytest.raises(InputError, match="wanted a region of the sky in ICRS"):
        drawn(model, tmp_path / "d", cone=(), region=str(moc))
    assert not (tmp_path / "d").exists()


def test_a_map_of_densities(model, tmp_path):
    """Three objects in one pixel of order 3 for each in another, none elsewhere."""
    values = np.zeros(768)
    values[[100, 500]] = 1.0, 3.0
    columns = [fits.Column("DENSITY", "D", array=values)]
    made = fits.BinTableHDU.from_columns(columns)
    made.header.update(PIXTYPE="HEALPIX", ORDERING="NESTED", NSIDE=8, COORDSYS="C")
    made.writeto(tmp_path / "map.fits")
    catalogue = drawn(
        model, tmp_path / "c", count=400, store="recipe", cone=(), region=str(tmp_path / "map.fits")
    )
    cells = catalogue.to_arrow()["_healpix_29"].to_numpy() >> 2 * 26
    found = dict(zip(*np.unique(cells, return_counts=True), strict=True))
    assert set(found) == {100, 500}
    assert abs(found[500] - 300) < 5 * np.sqrt(400 * 0.75 * 0.25)


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_hats(sky, tmp_path):
    import lsdb

    out = tmp_path / "hats"
    hats.run(HatsSettings(catalogue=sky.manifest.uri, out=str(out), name="synthetic", workers=1))
    verify.run(VerifySettings(catalogue=str(out)))
    verify.run(VerifySettings(catalogue=str(out / "synthetic_10arcs")))
    export.run(
        ExportSettings(catalogue=str(out), out=str(tmp_path / "some.fits"), ids="89,3", cone=CONE)
    )
    assert sorted(Table.read(tmp_path / "some.fits")["index"]) == [3, 89]
    collected = avader.open_catalogue(str(out))
    index = collected.to_arrow(["index"])["index"].to_numpy()
    np.testing.assert_array_equal(collected.images([0, 50]), sky.images(index[[0, 50]]))
    found = lsdb.open_catalog(str(out))
    near = found.cone_search(ra=0.5, dec=40, radius_arcsec=3600).compute()
    table = sky.to_arrow(["index", "ra", "dec"]).to_pandas()
    places = SkyCoord(table["ra"], table["dec"], unit="deg")
    wanted = table["index"][places.separation(SkyCoord(0.5, 40, unit="deg")).deg < 1]
    assert sorted(near["index"]) == sorted(wanted)


def test_an_object_is_made_again_without_the_rows(sky, model, tmp_path):
    """By what an appendix can give: the folder without rows and rejects, and the model, moved."""
    indices, folder = [89, 3], tmp_path / "given"
    left_out = shutil.ignore_patterns("parts", "rejects")
    shutil.copytree(sky.manifest.uri, folder, ignore=left_out)
    moved = shutil.copytree(model, tmp_path / "moved")
    away = {**sky.manifest.settings, "model_uri": "/nowhere"}
    held = replace(sky.manifest, settings=away, uri=str(folder))
    found = avader.regenerate(Catalogue(held), indices, model=str(moved))
    for name, values in avader.regenerate(sky, indices).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    with pytest.raises(InputError, match=r"without config\.json.* say with model= where it is now"):
        avader.regenerate(Catalogue(held), indices)


def test_a_sky_of_objects_that_all_lie_along_x_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "avader")
    canonical = Preprocessing(size=16, orientation="canonical")
    model = write_tiny_model(tmp_path / "model", preprocessing=canonical)
    for given in ({}, {"cone": ()}, {"orientation": "random"}):
        caplog.clear()
        settings = {"model": model, "out": str(tmp_path / "out"), "count": 5, "cone": CONE}
        generate.run(GenerateSettings(**(settings | given), dry_run=True))
        assert ("every object lies along x" in caplog.text) == (given == {})
