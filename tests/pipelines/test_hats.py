"""`hats` on small skies by the real writers: rows, files, what is refused, and going on."""

import io
import shutil
from pathlib import Path

import cdshealpix.nested as nested
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table
from hats.io.validation import is_valid_catalog
from hats.pixel_math import get_margin

from avader.api import open_catalogue
from avader.catalogue.pixels import Pixel
from avader.cli import main
from avader.config import HatsSettings, VerifySettings
from avader.errors import InputError, VerificationError
from avader.io import local
from avader.io.manifest import read_manifest
from avader.pipelines import hats, verify
from tests.pipelines.test_kill import contents
from tests.skies import at, parts_of, patch, write_sky

pytestmark = pytest.mark.usefixtures("ray_session")
LIMIT, ROWS = 40, 300
ARCSEC = 10


def sky() -> pa.Table:
    """Rows where four base pixels meet, too many for parts of LIMIT, and a few far away."""
    positions = [patch(1200, ra=45, dec=0, width=0.15), patch(60, ra=200, dec=60, width=20, seed=1)]
    votes = pa.array([None if row % 7 == 0 else row for row in range(1260)], pa.uint64())
    return at(np.concatenate(positions, axis=1), votes=votes)


def made(catalogue: str, out: Path, **given) -> Path:
    hats.run(
        HatsSettings(
            **{"catalogue": catalogue, "out": str(out), "rows_per_pixel": ROWS, "workers": 1}
            | given
        )
    )
    return out


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> str:
    return write_sky(tmp_path_factory.mktemp("catalogue") / "sky", sky(), limit=LIMIT)


@pytest.fixture(scope="module")
def collection(catalogue, tmp_path_factory, ray_session) -> Path:
    return made(catalogue, tmp_path_factory.mktemp("hats") / "collection")


def tiles(folder: Path) -> dict[Pixel, Path]:
    """The files of rows of a HATS catalogue, by pixel."""
    found = {}
    for path in folder.glob("dataset/Norder=*/Dir=*/Npix=*"):
        order, group, number = (
            int(part.partition("=")[2].split(".")[0]) for part in path.parts[-3:]
        )
        assert group == number // 10_000 * 10_000
        found[Pixel(order, number)] = path / "000001.parquet" if path.is_dir() else path
    return found


def test_the_rows_are_the_catalogue_s(catalogue, collection):
    wanted = open_catalogue(catalogue).to_arrow()
    found = open_catalogue(str(collection)).to_arrow()
    assert found.schema == wanted.schema
    assert found.sort_by("object_id").equals(wanted.sort_by("object_id"))
    assert len(found) == 1260
    for pixel, path in tiles(collection / "avader").items():
        places = pq.read_table(path, columns=["_healpix_29"], partitioning=None)[0].to_numpy()
        assert (np.diff(places) >= 0).all()
        assert pixel.span[0] <= places[0] <= places[-1] < pixel.span[1]


def test_tiles_hold_whole_parts(catalogue, collection):
    """Every tile is small enough, or one part that was too large for its own limit."""
    rows = {
        pixel: pq.read_metadata(path).num_rows
        for pixel, path in tiles(collection / "avader").items()
    }
    parts = {pixel: len(part) for pixel, part in parts_of(sky(), limit=LIMIT).items()}
    assert max(parts.values()) > LIMIT
    assert all(count <= ROWS for count in rows.values())
    assert len(rows) < len(parts)
    listed = read_manifest(str(collection)).totals
    assert listed == {"rows_in": 1260, "rows": 1260, "rejects": 0}


def test_hats_own_strict_check(collection, tmp_path, caplog):
    assert is_valid_catalog(collection, strict=True)
    said = [record.message for record in caplog.records if record.levelname != "INFO"]
    assert said == ["Looking for catalog - found collection."]
    for folder in ("avader", "avader_10arcs"):
        assert is_valid_catalog(collection / folder, strict=True)
        broken = tmp_path / folder
        shutil.copytree(collection, broken)
        lost = next(iter(tiles(broken / folder).values()))
        lost.unlink()
        if lost.parent.name.startswith("Npix="):
            lost.parent.rmdir()
        assert not is_valid_catalog(broken, strict=True)


def test_the_margin_holds_what_is_around_each_tile(catalogue, collection):
    """Each margin against hats' own list of the pixels around it, over all rows."""
    table = open_catalogue(catalogue).to_arrow()
    places = table["_healpix_29"].to_numpy() >> 2 * (29 - 13)
    margins = tiles(collection / "avader_10arcs")
    own = set(tiles(collection / "avader"))
    assert own < margins.keys()  # and those without rows of their own
    total = 0
    for pixel, path in margins.items():
        around = get_margin(pixel.order, pixel.number, 13 - pixel.order)
        found = pq.read_table(path, partitioning=None)
        assert found.equals(table.filter(pa.array(np.isin(places, around))).sort_by("_healpix_29"))
        total += len(found)
    assert total == read_manifest(str(collection / "avader_10arcs")).totals["rows"] > 100


@pytest.mark.filterwarnings("ignore:No table..len..object_id found in metadata")
def test_one_file_in_other_tools(collection):
    path = max(tiles(collection / "avader").values(), key=lambda path: path.stat().st_size)
    arrow = pq.ParquetFile(path).read()
    table, frame = Table.read(path), pd.read_parquet(path, partitioning=None)
    assert table["probability"].shape == (len(arrow), 4)
    np.testing.assert_array_equal(table["probability"], np.stack(frame.probability))
    assert list(table["object_id"]) == frame.object_id.tolist() == arrow["object_id"].to_pylist()


def test_columns_are_described_in_the_common_metadata_alone(collection):
    dataset = collection / "avader" / "dataset"
    metadata = pq.read_schema(dataset / "_common_metadata").metadata
    assert metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"
    content = metadata[b"IVOA.VOTable-Parquet.content"]
    described = parse(io.BytesIO(content), verify="exception").get_first_table()
    columns = pq.read_schema(dataset / "_common_metadata").names
    assert [field.name for field in described.fields] == columns
    fields = {field.name: field for field in described.fields}
    assert (fields["ra"].unit.to_string(), fields["ra"].ucd) == ("deg", "pos.eq.ra;meta.main")
    assert (fields["probability"].datatype, fields["probability"].arraysize) == ("float", "4")
    assert (fields["object_id"].datatype, fields["object_id"].arraysize) == ("char", "*")
    assert fields["votes"].datatype == "long"
    assert fields["dec"].description == "declination, ICRS"
    assert b"Spindler" in content
    others = [dataset / "_metadata", *tiles(collection / "avader").values()]
    assert all(b"IVOA.VOTable" not in path.read_bytes() for path in others)


def test_the_sky_map_counts_the_rows(catalogue, collection):
    table = open_catalogue(catalogue).to_arrow(["ra", "dec"])
    from astropy.coordinates import Latitude, Longitude

    places = nested.lonlat_to_healpix(
        Longitude(table["ra"].to_numpy(), "deg"), Latitude(table["dec"].to_numpy(), "deg"), 8
    )
    pixels, counts = np.unique(places, return_counts=True)
    for name in ("skymap.fits", "point_map.fits"):
        found = fits.getdata(collection / "avader" / name, 1)
        assert dict(zip(found["PIXEL"], found["VALUE"], strict=True)) == dict(
            zip(pixels, counts, strict=True)
        )


def test_it_says_where_it_comes_from(catalogue, collection):
    text = (collection / "avader" / "hats.properties").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert lines["prov_progenitor"].startswith(
        f"avader catalogue, manifest sha256 {read_manifest(catalogue).digest}, model mmm"
    )
    assert lines["bib_reference"] == "2021MNRAS.502..985S"
    assert "Spindler" in lines["obs_ack"]
    assert (lines["hats_nrows"], lines["hats_max_rows"]) == ("1260", str(max(
        pq.read_metadata(path).num_rows for path in tiles(collection / "avader").values()
    )))  # fmt: skip
    assert "date" not in "".join(lines).replace("hats_release_date", "")
    held = read_manifest(str(collection))
    assert held.kind == "hats"
    assert held.provenance["catalogue"] == held.settings["catalogue"]
    assert held.facts["components"] == 4


def test_verify_looks_at_all_of_it(collection, tmp_path, caplog):
    caplog.set_level("INFO", logger="avader")
    verify.run(VerifySettings(catalogue=str(collection)))
    assert caplog.messages[-1].startswith("all checks passed")
    assert any("rows of margin" in line for line in caplog.messages)
    broken = tmp_path / "broken"
    shutil.copytree(collection, broken)
    (broken / "avader" / "skymap.fits").write_bytes(b"none")
    (broken / "avader" / "stranger").touch()
    max(tiles(broken / "avader_10arcs").values(), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(VerificationError, match=r"failed \(listing, digests, counts, digests\)"):
        verify.run(VerifySettings(catalogue=str(broken)))
    told = "\n".join(caplog.messages)
    assert "avader/stranger: not in the manifest" in told
    assert "avader/skymap.fits: its bytes are not those that were written" in told


def test_another_margin_is_seen(catalogue, collection, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(collection, broken)
    manifest = broken / "avader_10arcs" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(VerificationError, match=r"1 checks failed .margin."):
        verify.run(VerifySettings(catalogue=str(broken)))


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(catalogue, collection, tmp_path):
    begun = tmp_path / "begun"
    shutil.copytree(collection, begun)
    for folder in (begun, begun / "avader_10arcs"):
        (folder / "manifest.json").unlink()
        for path in sorted((folder / "rejects").iterdir())[::2]:
            path.unlink()
    for pixel, path in list(tiles(begun / "avader").items())[::3]:
        path.unlink()
        (begun / "rejects" / f"{pixel.name}.parquet").unlink(missing_ok=True)
    for name in ("hats.properties", "dataset/_metadata"):
        (begun / "avader" / name).write_bytes(b"half of it")
    asides = [
        "avader/dataset/._metadata",
        "avader/.skymap.fits",
        "avader_10arcs/dataset/._metadata",
    ]
    for aside in asides:
        (begun / f"{aside}.{local.this_machine()}-0.aaaa.tmp").touch()
    assert contents(begun) != contents(collection)
    assert contents(made(catalogue, begun)) == contents(collection)
    assert contents(made(catalogue, begun)) == contents(collection)


def test_without_a_margin_and_by_another_name(catalogue, tmp_path):
    out = made(catalogue, tmp_path / "plain", margin=0, name="gz-2", rows_per_pixel=10**6)
    assert is_valid_catalog(out, strict=True)
    assert sorted(path.name for path in out.iterdir()) == [
        *("collection.properties", "gz-2", "manifest.json", "plan.json", "rejects")
    ]
    # All rows would fit in one tile, and the sky has twelve.
    assert {pixel.order for pixel in tiles(out / "gz-2")} == {0}
    verify.run(VerifySettings(catalogue=str(out)))
    with pytest.raises(InputError, match=r"holds another plan: margin was 0.0 and is now 10.0"):
        made(catalogue, out, name="gz-2", rows_per_pixel=10**6)


def test_rows_of_it_can_be_exported(collection, tmp_path):
    asked = ["--cone", "45,0,200", "--out", str(tmp_path / "rows.fits")]
    assert main(["export", "--catalogue", str(collection), *asked]) == 0
    table = Table.read(tmp_path / "rows.fits")
    assert 100 < len(table) < 1200
