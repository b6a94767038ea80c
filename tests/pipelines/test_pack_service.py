"""`pack` from a survey service, which a local server plays."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import avader
from avader.api import Catalogue
from avader.config import PackSettings, VerifySettings
from avader.errors import InputError
from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.pipelines import pack, verify
from avader.recipe import Preprocessing
from tests.processes import run_here
from tests.survey import server
from tests.survey.server import schedule

COUNT, PER_SHARD = 30, 5
PREPROCESSING = Preprocessing(size=16, crop=48)


@pytest.fixture
def web():
    service = server.Service()
    yield service
    service.stop()


def write_positions(path: Path, **changes) -> str:
    """A table of ids, positions and radii, without images; its path."""
    columns = {
        "object_id": [f"g{number:04d}" for number in range(COUNT)],
        "ra": np.linspace(10, 20, COUNT),
        "dec": np.linspace(-5, 5, COUNT),
        "petroR90_r": np.linspace(5, 20, COUNT),
        "votes": np.arange(COUNT),
    }
    pq.write_table(pa.table(columns | changes), path)
    return str(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """With a repeated id, none, a bad position, bad scales and one place outside the survey."""
    names = [f"g{number:04d}" for number in range(COUNT)]
    names[7], names[8] = names[3], ""
    dec, radius = np.linspace(-5, 5, COUNT), np.linspace(5, 20, COUNT)
    dec[9], dec[17] = 95, -60
    radius[11], radius[12] = -9999, np.nan
    path = tmp_path_factory.mktemp("positions") / "table.parquet"
    return write_positions(path, object_id=names, dec=dec, petroR90_r=radius)


def packed(source: str, out, web, *, service=(), **settings):
    chosen = {"name": "sdss", "url": web.url, "size": 64, "rate": 200.0, "patience": 20.0}
    chosen |= {"scale": 0.02, "scale_column": "petroR90_r", **dict(service)}
    given = {"rows_per_shard": PER_SHARD, "workers": 2, "preprocessing": PREPROCESSING, **settings}
    pack.run(PackSettings(source=source, out=str(out), service=chosen, **given))
    return avader.open_catalogue(str(out))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Undisturbed:
    """A packing without faults: its folder, catalogue, and the requests that it made."""

    folder: Path
    catalogue: Catalogue
    requests: list


@pytest.fixture(scope="module")
def whole(ray_session, table, tmp_path_factory) -> Undisturbed:
    folder, service = tmp_path_factory.mktemp("whole") / "out", server.Service()
    catalogue = packed(table, folder, service)
    service.stop()
    return Undisturbed(folder, catalogue, service.requests)


def test_pixels_are_those_of_the_service(whole):
    catalogue = whole.catalogue
    found = catalogue.to_arrow()
    radius = found["petroR90_r"].to_numpy()
    np.testing.assert_array_equal(radius[:3], np.linspace(5, 20, COUNT)[:3])
    images = catalogue.images(range(found.num_rows))
    for row, (ra, dec) in enumerate(zip(found["ra"], found["dec"], strict=True)):
        place = (float(f"{ra.as_py():.7f}"), float(f"{dec.as_py():.7f}"))
        scale = float(f"{0.02 * radius[row]:.8g}")
        wanted = prepare(decode_image(server.jpeg(server.sky(*place, scale, 64))), PREPROCESSING)
        np.testing.assert_array_equal(images[row], wanted.pixels)
    verify.run(VerifySettings(catalogue=str(whole.folder)))


def test_rejects_and_what_is_never_asked(whole):
    catalogue = whole.catalogue
    assert catalogue.manifest.totals == {"rows_in": COUNT, "rows": COUNT - 6, "rejects": 6}
    assert {row["object_id"]: row["reason"] for row in catalogue.rejects().to_pylist()} == {
        "g0003": "duplicate_id",
        "": "no_id",
        "g0009": "bad_position",
        "g0011": "bad_scale",
        "g0012": "bad_scale",
        "g0017": "outside_footprint",
    }
    witness = whole.requests[0][2]["ra"]
    asked = [float(query["ra"]) for _, _, query, _ in whole.requests if query["ra"] != witness]
    rows = set(range(1, COUNT)) - {7, 8, 9, 11, 12}
    np.testing.assert_allclose(sorted(asked), np.linspace(10, 20, COUNT)[sorted(rows)], atol=1e-6)


@pytest.mark.long
def test_faults_workers_and_rate_change_no_byte(table, whole, web, tmp_path):
    web.faults = schedule(11, 2)
    packed(table, tmp_path / "out", web, workers=1, service={"rate": 150.0, "patience": 60.0})
    assert len(web.requests) > 1.3 * COUNT
    assert contents(tmp_path / "out") == contents(whole.folder)


def test_the_plan_holds_what_decides_content(whole):
    assert whole.catalogue.manifest.settings["service"] == {
        "name": "sdss",
        "layer": "dr17",
        "size": 64,
        "format": "jpeg",
        "bands": "",
        "scale": 0.02,
        "scale_column": "petroR90_r",
    }
    assert "127.0.0.1" not in (whole.folder / "manifest.json").read_text()


@pytest.mark.long
def test_a_service_that_goes_down_keeps_what_is_packed(table, whole, web, tmp_path):
    # The last but one of the pixels holds rows 25 to 29: from it on nothing comes any more.
    late = [f"{ra:.7f}" for ra in np.linspace(10, 20, COUNT)[25:]]
    web.faults = lambda place, number: "status:503" if place.partition(",")[0] in late else ""
    with pytest.raises(InputError, match=r"is down: .*503.*repeat the same command"):
        packed(table, tmp_path / "out", web, workers=1, service={"patience": 0.5})
    done = {path.stem for path in (tmp_path / "out").glob("rejects/*.parquet")}
    units = [Path(path).stem for path in whole.catalogue.manifest.paths]
    assert set(units[:7]) <= done <= {*units[:7], *units[8:]}
    web.faults = lambda place, number: ""
    web.requests.clear()
    packed(table, tmp_path / "out", web)
    asked = [query["ra"] for _, _, query, _ in web.requests]
    assert sorted(ra for ra in asked if ra in late) == late
    # The witness, and the one place of the pixel after it, which may not have been done either.
    assert {*asked} - {*late} <= {whole.requests[0][2]["ra"], f"{10 + 170 / 29:.7f}"}
    assert contents(tmp_path / "out") == contents(whole.folder)
    web.requests.clear()
    packed(table, tmp_path / "out", web)
    assert web.requests == []


@pytest.mark.long
def test_legacy_fits_keeps_its_bands_and_workers_the_rate(ray_session, web, tmp_path):
    source = write_positions(tmp_path / "t.parquet")
    asked = {"name": "legacy", "format": "fits", "bands": "griz", "rate": 20.0}
    asked |= {"scale": 0.3, "scale_column": None}
    catalogue = packed(source, tmp_path / "out", web, service=asked)
    assert catalogue.manifest.totals["rows"] == COUNT
    assert catalogue.images([0]).shape == (1, 4, 16, 16)
    assert {query["pixscale"] for _, _, query, _ in web.requests} == {"0.3"}
    times = sorted(when for when, *_ in web.requests[1:])  # the first is the driver's
    # A rate for each of the two workers would halve the time; a busy machine's first is late.
    assert times[-1] - times[0] > 0.75 * (len(times) - 1) / 20


@pytest.mark.parametrize(
    ("changes", "service", "message"),
    [
        ({"preprocessing": Preprocessing(size=16, crop=99)}, {}, "at most the 64 px of"),
        ({"preprocessing": Preprocessing(size=16, bands=(3,))}, {}, "some of the 3 bands"),
        ({"preprocessing": Preprocessing(size=16, weights=(1, 2))}, {}, "a weight for each"),
        ({}, {"scale_column": "petroR90"}, r"wanted a column 'petroR90', came columns petroR90_r"),
        ({}, {"scale_column": None, "scale": 0.01}, r"0\.015 to 60 arcsec/px of sdss, got 0\.01"),
        ({}, {"scale_column": "name"}, "wanted numbers, arcsec, in 'name', came string"),
        ({"ra_column": "alpha"}, {}, "wanted a column 'alpha'"),
        ({}, {"layer": "dr99"}, r"none for 5 objects of the table.*404"),
    ],
)
def test_bad_settings_are_told_before_any_work(
    web, tmp_path, monkeypatch, changes, service, message
):
    monkeypatch.setattr("avader.pipelines.units.cluster", None)
    source = write_positions(tmp_path / "t.parquet", name=[str(n) for n in range(COUNT)])
    with pytest.raises(InputError, match=message):
        packed(source, tmp_path / "out", web, service=service, **changes)
    assert not (tmp_path / "out").exists()


def test_a_table_without_positions(web, tmp_path):
    source = write_positions(tmp_path / "t.parquet")
    pq.write_table(pq.read_table(source).drop_columns(["ra", "dec"]), source)
    with pytest.raises(InputError, match=r"columns of positions for --service\.name sdss"):
        packed(source, tmp_path / "out", web)


@pytest.mark.long
def test_killed_driver(ray_session, table, web, tmp_path):
    packed(table, tmp_path / "whole", web, rows_per_shard=2)
    web.faults = schedule(3, 1)
    killed = tmp_path / "killed"
    command = [
        *[sys.executable, "-m", "avader", "pack", "--source", table, "--out", str(killed)],
        *["--rows-per-shard", "2", "--workers", "2"],
        *["--preprocessing.size", "16", "--preprocessing.crop", "48"],
        *["--service.name", "sdss", "--service.url", web.url, "--service.size", "64"],
        *["--service.scale", "0.02", "--service.scale-column", "petroR90_r"],
        *["--service.rate", "10"],
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("rejects/*.parquet"))) < 4:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.json").exists()
    said = run_here(*command[3:])
    assert "going on:" in said
    assert f"packing cutouts of {COUNT} positions from {web.url}, at most 10 a" in said
    assert contents(killed) == contents(tmp_path / "whole")


def test_a_place_is_found_where_few_rows_are_selected(web, tmp_path):
    """In a part of the table that a few looks, spread over it, miss."""
    count = 3000
    columns = {
        "object_id": [f"g{number:04d}" for number in range(count)],
        "ra": np.linspace(10, 20, count),
        "dec": np.linspace(-5, 5, count),
        "petroR90_r": np.full(count, 8.0),
        "votes": np.where(np.arange(count) == 1234, 50, 1),
    }
    source = write_positions(tmp_path / "table.parquet", **columns)
    found = packed(source, tmp_path / "out", web, min_votes=37, votes_column="votes")
    assert found.to_arrow()["object_id"].to_pylist() == ["g1234"]


def test_images_that_the_table_has_are_left(web, tmp_path):
    """The service's are asked for."""
    source = write_positions(tmp_path / "table.parquet", image=[b"not a picture"] * COUNT)
    found = packed(source, tmp_path / "out", web)
    assert found.manifest.totals["rows"] == COUNT
