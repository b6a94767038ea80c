"""`hats` of a catalogue that grew: what was there stays, what is new is added, others read it."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hats.io.validation import is_valid_catalog
from hats.pixel_math import get_margin

from avader.api import open_catalogue
from avader.catalogue.pixels import Pixel
from avader.catalogue.tiles import overlapping
from avader.config import HatsSettings, VerifySettings
from avader.errors import InputError, VerificationError
from avader.io import growth, local
from avader.pipelines import hats, verify
from tests.pipelines.test_kill import contents
from tests.skies import at, grow_sky, numbered, parts_of, patch, write_parts, write_sky

pytestmark = pytest.mark.usefixtures("ray_session")
LIMIT, ROWS = 40, 150
FIRST = 560
NEWEST = "avader_10arcs_000002"


def sky() -> pa.Table:
    """Rows of a patch where four base pixels meet, then more in it, around it and elsewhere."""
    return at(
        np.concatenate(
            [
                patch(500, ra=45, dec=0, width=0.12),
                patch(60, ra=200, dec=60, width=20, seed=1),
                patch(200, ra=45, dec=0, width=0.2, seed=2),
                patch(40, ra=300, dec=-50, width=9, seed=3),
            ],
            axis=1,
        )
    )


def made(catalogue: str, out: Path, **given) -> Path:
    options = {"rows_per_pixel": ROWS, "workers": 1} | given
    hats.run(HatsSettings(catalogue=catalogue, out=str(out), **options))
    return out


@pytest.fixture(scope="module")
def grown(tmp_path_factory, ray_session) -> tuple[str, Path, dict[str, bytes]]:
    """A catalogue of two increments, its collection, and what that held before the second."""
    folder = tmp_path_factory.mktemp("grown")
    catalogue = write_sky(folder / "sky", numbered(sky(), 0, FIRST), limit=LIMIT)
    out = made(catalogue, folder / "collection")
    before = contents(out)
    grow_sky(catalogue, numbered(sky(), FIRST), limit=LIMIT)
    return catalogue, made(catalogue, out), before


def tiles(folder: Path) -> dict[Pixel, list[Path]]:
    """The files of rows of a HATS catalogue, by pixel, in order of increment."""
    found: dict[Pixel, list[Path]] = {}
    for path in sorted(folder.glob("dataset/Norder=*/Dir=*/Npix=*")):
        order, number = (int(path.parts[at].partition("=")[2].split(".")[0]) for at in (-3, -1))
        found[Pixel(order, number)] = sorted(path.iterdir()) if path.is_dir() else [path]
    return found


def rows_of(files: list[Path]) -> list[pa.Table]:
    return [pq.ParquetFile(path).read() for path in files]


def test_what_was_there_stays(grown):
    _, out, before = grown
    after = contents(out)
    rewritten = {
        *("avader/dataset/_common_metadata", "avader/hats.properties", "avader/properties"),
        *("avader/partition_info.csv", "avader/point_map.fits", "avader/skymap.fits"),
        "collection.properties",
    }
    gone = {"avader/dataset/_metadata"}
    assert before.keys() - after.keys() == gone
    changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    assert changed <= rewritten
    assert changed >= {"collection.properties", "avader/hats.properties", "avader/skymap.fits"}
    new = {path.split("/")[0] for path in after.keys() - before.keys()}
    assert new == {"avader", NEWEST, "increments", "versions", "latest.json"}


def test_every_row_is_in_its_tile(grown):
    catalogue, out, _ = grown
    wanted = open_catalogue(catalogue).to_arrow()
    found = open_catalogue(str(out)).to_arrow()
    assert found.sort_by("object_id").equals(wanted.sort_by("object_id"))
    assert len(found) == 800
    assert wanted.sort_by("object_id").equals(sky().sort_by("object_id"))
    held = tiles(out / "avader")
    assert overlapping(held) is None
    for tile, files in held.items():
        for path, table in zip(files, rows_of(files), strict=True):
            places = table["_healpix_29"].to_numpy()
            assert (np.diff(places) >= 0).all()
            assert tile.span[0] <= places[0] <= places[-1] < tile.span[1]
            first = path.name == "000001.parquet"
            numbers = np.array(table["object_id"].to_pylist(), int) - 10**17
            assert ((numbers < FIRST) == first).all()


def test_tiles_of_before_take_what_lies_in_them(grown):
    _, out, before = grown
    held = tiles(out / "avader")
    names = {tile: [path.name for path in files] for tile, files in held.items()}
    both, new = (
        [tile for tile in names if names[tile] == wanted]
        for wanted in (["000001.parquet", "000002.parquet"], ["000002.parquet"])
    )
    old = [tile for tile in names if "000001.parquet" in names[tile]]
    assert len(both) > 3
    assert len(new) > 3
    assert len(old) == sum(path.endswith("/000001.parquet") for path in before)
    assert len(old) + len(new) == len(names)
    for tile in new:
        assert pq.read_metadata(held[tile][0]).num_rows <= ROWS


def test_the_collection_s_own_files_tell_of_all(grown):
    catalogue, out, _ = grown
    held = tiles(out / "avader")
    listed = (out / "avader" / "partition_info.csv").read_text().split()[1:]
    assert sorted(listed) == sorted(f"{tile.order},{tile.number}" for tile in held)
    text = (out / "avader" / "hats.properties").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert lines["hats_nrows"] == "800"
    rows = [sum(len(table) for table in rows_of(files)) for files in held.values()]
    assert lines["hats_max_rows"] == str(max(rows))
    assert lines["hats_npix_suffix"] == "/"
    assert "hats_cols_sort" not in lines
    assert growth.read_whole(catalogue).digest in lines["prov_progenitor"]
    counts = fits.getdata(out / "avader" / "skymap.fits", 1)
    places, wanted = np.unique(sky()["_healpix_29"].to_numpy() >> 2 * 21, return_counts=True)
    assert dict(zip(counts["PIXEL"], counts["VALUE"], strict=True)) == dict(
        zip(places, wanted, strict=True)
    )
    assert f"all_margins={NEWEST}" in (out / "collection.properties").read_text()


def test_the_newest_margin_is_of_all_rows(grown):
    """Each margin against hats' own list of the pixels around it, over all rows."""
    _, out, _ = grown
    table = sky()
    places = table["_healpix_29"].to_numpy() >> 2 * (29 - 13)
    margins, total = tiles(out / NEWEST), 0
    assert margins.keys() - tiles(out / "avader").keys()  # those without rows of their own
    for pixel in margins.keys() | tiles(out / "avader").keys():
        around = get_margin(pixel.order, pixel.number, 13 - pixel.order)
        found = rows_of(margins[pixel])[0] if pixel in margins else table.slice(0, 0)
        wanted = table.filter(pa.array(np.isin(places, around)))
        assert found.sort_by("object_id").equals(wanted.sort_by("object_id"))
        assert (np.diff(found["_healpix_29"].to_numpy()) >= 0).all()
        total += len(found)
    assert total == open_catalogue(str(out / NEWEST)).manifest.totals["rows"] > 50


def test_others_and_verify_find_it_whole(grown, tmp_path):
    _, out, _ = grown
    assert is_valid_catalog(out, strict=True)
    verify.run(VerifySettings(catalogue=str(out)))
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    shutil.rmtree(next(iter(tiles(broken / "avader").values()))[0].parent)
    assert not is_valid_catalog(broken, strict=True)
    shutil.rmtree(broken)
    shutil.copytree(out, broken)
    last = next(files[1] for files in tiles(broken / "avader").values() if len(files) > 1)
    last.write_bytes(last.read_bytes()[:-1])
    (last.parent / "000003.parquet").touch()
    with pytest.raises(VerificationError, match=r"checks failed .listing, counts, digests"):
        verify.run(VerifySettings(catalogue=str(broken)))


def test_the_same_command_again_does_nothing(grown, caplog):
    catalogue, out, _ = grown
    before = contents(out)
    with caplog.at_level("INFO", "avader"):
        made(catalogue, out)
    assert caplog.messages == [f"{out} is finished already: nothing to do"]
    assert contents(out) == before
    with pytest.raises(InputError, match="rows_per_pixel was 150 and is now 151"):
        made(catalogue, out, rows_per_pixel=151)


@pytest.mark.long
def test_made_at_once_it_is_the_same(grown, tmp_path):
    """Both increments by one command, where none was there before."""
    catalogue, out, _ = grown
    assert contents(made(catalogue, tmp_path / "at-once")) == contents(out)


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(grown, tmp_path):
    catalogue, out, before = grown
    begun = tmp_path / "begun"
    shutil.copytree(out, begun)
    for folder in (begun / "increments" / "000002", begun / NEWEST):
        (folder / "manifest.json").unlink()
        for path in sorted((folder / "rejects").iterdir())[::2]:
            path.unlink()
    shutil.rmtree(begun / "versions")
    (begun / "latest.json").unlink()
    (begun / "avader" / "hats.properties").write_bytes(b"half of it")
    (begun / "avader/dataset/_metadata").write_bytes(before["avader/dataset/_metadata"])
    folder = next(files[0].parent for files in tiles(begun / "avader").values() if files[1:])
    (folder / "000002.parquet").unlink()
    (folder / f".000002.parquet.{local.this_machine()}-0.aaaa.tmp").touch()
    assert growth.read_whole(str(begun)).totals["rows"] == FIRST
    assert contents(made(catalogue, begun)) == contents(out)


@pytest.mark.long
def test_increments_elsewhere_and_without_rows(tmp_path):
    """No tile has several files: all is as of one increment. Then nothing is added at all."""
    table = sky()
    first, elsewhere = numbered(table, 0, 500), numbered(table, 760)
    catalogue = write_sky(tmp_path / "sky", first, limit=LIMIT)
    grow_sky(catalogue, elsewhere, limit=LIMIT)
    grow_sky(catalogue, table.slice(0, 0), limit=LIMIT)
    out = made(catalogue, tmp_path / "collection", margin=0)
    assert all(len(files) == 1 for files in tiles(out / "avader").values())
    assert len(open_catalogue(str(out)).to_arrow()) == 540
    assert growth.latest(str(out)) == 3
    assert pq.read_metadata(out / "avader/dataset/_metadata").num_rows == 540
    assert is_valid_catalog(out, strict=True)
    verify.run(VerifySettings(catalogue=str(out)))


def test_increments_that_hold_parts_of_before_are_refused(tmp_path):
    first = numbered(sky(), 0, 500)
    catalogue = write_sky(tmp_path / "sky", first, limit=LIMIT)
    pixel = next(iter(parts_of(first, limit=LIMIT)))
    outer = pixel.at(pixel.order - 1)
    write_parts(growth.folder(catalogue, 2), {outer.name: first.slice(0, 3)})
    growth.publish(catalogue, 2)
    with pytest.raises(InputError) as raised:
        made(catalogue, tmp_path / "collection")
    wanted = f"parts/{pixel.name}.parquet and increments/000002/parts/{outer.name}.parquet"
    assert f"wanted parts that do not overlap, got {wanted}" in str(raised.value)


def test_a_dry_run_is_of_what_is_new(grown, tmp_path, caplog):
    catalogue, out, _ = grown
    begun = tmp_path / "begun"
    shutil.copytree(out, begun)
    for folder in ("increments", "versions"):
        shutil.rmtree(begun / folder)
    (begun / "latest.json").unlink()
    before = contents(begun)
    with caplog.at_level("INFO", "avader"):
        made(catalogue, begun, dry_run=True)
    units = sum(path.name == "000002.parquet" for path in out.rglob("dataset/**/*.parquet"))
    assert f"  {units} units; 240 objects to do" in caplog.messages
    assert contents(begun) == before
