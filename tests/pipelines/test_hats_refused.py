"""What `hats` refuses, and what it says."""

import pyarrow as pa
import pytest

from avader import config
from avader.catalogue.pixels import Pixel
from avader.config import HatsSettings
from avader.errors import InputError
from avader.io.manifest import read_manifest
from avader.pipelines import hats
from avader.pipelines.tiling.versions import sky_parts
from avader.pipelines.tiling.work import join_parts, tile_unit
from tests.catalogues import classified, write_folder
from tests.skies import UNPLACED, at, parts_of, patch, write_parts, write_sky


def refused(catalogue: str, out) -> str:
    settings = HatsSettings(catalogue=catalogue, out=str(out / "hats"), workers=1)
    with pytest.raises(InputError) as raised:
        hats.run(settings)
    return str(raised.value)


@pytest.fixture
def parts() -> dict[str, pa.Table]:
    table = at(patch(60, ra=10, dec=10, width=3))
    return {pixel.name: part for pixel, part in parts_of(table, limit=20).items()}


def test_parts_that_are_no_pixels(tmp_path):
    catalogue = write_folder(tmp_path / "plain", classified(30), per_part=10)
    said = refused(catalogue, tmp_path)
    assert "wanted a catalogue whose parts are pixels of the sky, got" in said
    assert "parts/00000000.parquet; pack its cutouts again with positions" in said
    assert not (tmp_path / "hats").exists()


def test_a_synthetic_sky_without_positions(tmp_path):
    catalogue = write_folder(tmp_path / "plain", classified(30), per_part=10, kind="synthetic")
    said = refused(catalogue, tmp_path)
    assert "parts/00000000.parquet; generate it again over a region of the sky (--cone" in said


def test_folders_that_are_no_catalogue(tmp_path):
    other = write_sky(tmp_path / "other", at(patch(9, ra=1, dec=1, width=1)), limit=5, kind="hats")
    said = refused(other, tmp_path)
    assert "wanted a classified or synthetic catalogue, got a folder of hats in" in said
    none = write_parts(tmp_path / "none", {UNPLACED: classified(0)})
    assert "wanted a catalogue with rows, got" in refused(none, tmp_path)


def test_parts_that_overlap(tmp_path, parts):
    first = next(iter(parts))
    inner = f"o{int(first[1:3]) + 1:02d}-{4 * int(first[4:]) + 2:010d}"
    said = refused(write_parts(tmp_path / "sky", {**parts, inner: parts[first]}), tmp_path)
    assert f"got parts/{first}.parquet and parts/{inner}.parquet in" in said


@pytest.mark.parametrize("how", ["as they are", "unsorted", "elsewhere"])
def test_rows_that_are_not_in_order(tmp_path, parts, how):
    first, second = list(parts)[:2]
    if how == "unsorted":
        parts[first] = parts[first].take(list(range(len(parts[first])))[::-1])
    elif how == "elsewhere":
        parts[first], parts[second] = parts[second], parts[first]
    held = read_manifest(write_parts(tmp_path / "sky", parts))
    pixel, part = next(iter(sky_parts(held.uri, [held])[0].items()))
    unit = tile_unit(pixel, [part])
    if how == "as they are":
        assert join_parts(held.uri, unit, None).table.equals(parts[first])
        return
    with pytest.raises(InputError, match=f"sorted by _healpix_29 within tile {first}, got others"):
        join_parts(held.uri, unit, None)


def test_a_part_that_was_changed(tmp_path, parts):
    held = read_manifest(write_parts(tmp_path / "sky", parts))
    unit = tile_unit(Pixel(0, 4), list(sky_parts(held.uri, [held])[0].values()))
    path = tmp_path / "sky" / unit.inputs["parts"][1]["path"]
    path.write_bytes((tmp_path / "sky" / unit.inputs["parts"][0]["path"]).read_bytes())
    with pytest.raises(InputError, match="as its manifest lists it, got other bytes"):
        join_parts(held.uri, unit, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--name", "two words"], "--name: wanted a letter, then letters, digits"),
        (["--name", "rejects"], "and not rejects, increments, versions, which are taken, got"),
        (["--name", "increments"], "which are taken, got 'increments'"),
        (["--margin", "61"], "--margin: wanted less than or equal to 60"),
        (["--margin", "-1"], "--margin: wanted greater than or equal to 0"),
        (["--rows-per-pixel", "-1"], "--rows-per-pixel: wanted greater than or equal to 0"),
    ],
)
def test_settings(given, message):
    with pytest.raises(InputError, match=message):
        config.parse(
            "hats", ["--catalogue", "c", "--out", "o", *given], read_text=str, recipe_text=str
        )


def test_a_dry_run_counts_and_writes_nothing(tmp_path, caplog):
    caplog.set_level("INFO", logger="avader")
    catalogue = write_sky(tmp_path / "sky", at(patch(60, ra=10, dec=10, width=3)), limit=20)
    hats.run(HatsSettings(catalogue=catalogue, out=str(tmp_path / "hats"), dry_run=True))
    assert "  1 units; 60 objects to do" in caplog.messages
    assert any(line.startswith("  reads ") for line in caplog.messages)
    assert not (tmp_path / "hats").exists()
