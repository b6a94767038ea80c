"""`hats` killed in mid-run, on local disk and on S3: the same bytes, which others open."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from hats.io.validation import is_valid_catalog
from upath import UPath

from avader.config import VerifySettings
from avader.io import storage
from avader.io.shards import done_units
from avader.pipelines import verify
from tests.processes import run_here
from tests.skies import at, grow_sky, numbered, patch, write_sky

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
COUNT, ROWS = 700, 40


@dataclass
class Place:
    """A root URI, and the environment of who works there."""

    root: str
    environment: dict[str, str]

    def command(self, out: str) -> list[str]:
        given = ["--catalogue", f"{self.root}/sky", "--out", f"{self.root}/{out}"]
        return ["hats", *given, "--rows-per-pixel", str(ROWS), "--workers", "2"]

    def begin(self, out: str, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "avader", *self.command(out)],
            env=os.environ | self.environment,
            text=True,
            **options,
        )

    def run(self, out: str) -> str:
        if not self.environment:  # which the workers of a Ray that is up would not have
            return run_here(*self.command(out))
        process = self.begin(out, stdout=subprocess.PIPE)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said

    def whole(self) -> dict[str, bytes]:
        """What a run that nobody kills writes."""
        self.run("whole")
        return self.contents("whole")

    def contents(self, out: str) -> dict[str, bytes]:
        below = storage.list_below(self.root, out)
        return {
            path.removeprefix(f"{out}/"): storage.read_bytes(f"{self.root}/{path}")
            for path in below
        }


def killed(place: Place, folder: str, whole: dict[str, bytes]) -> None:
    """Kill a run's driver once some units of a folder are done; the same command makes the rest."""
    units = sum(path.startswith(f"{folder}/rejects/") for path in whole)
    uri = f"{place.root}/killed/{folder}"
    process = place.begin("killed", stdout=subprocess.DEVNULL)
    while process.poll() is None and len(done_units(uri)) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not storage.exists(f"{uri}/manifest.json")
    assert 0 < len(done_units(uri)) < units
    assert "going on:" in place.run("killed")
    assert place.contents("killed") == whole
    verify.run(VerifySettings(catalogue=f"{place.root}/killed"))
    options = {"anon": False} if place.environment else {}
    assert is_valid_catalog(UPath(f"{place.root}/killed", **options), strict=True)


@pytest.fixture
def place(request, tmp_path, s3) -> Place:
    if request.param == "S3":
        return Place(request.getfixturevalue("s3_uri"), s3.environment())
    request.getfixturevalue("ray_session")
    return Place(str(tmp_path), {})


@pytest.mark.parametrize("place", ["S3"], indirect=True)
def test_killed_in_its_margin(place):
    write_sky(f"{place.root}/sky", at(patch(COUNT, ra=45, dec=0, width=0.19)), limit=ROWS)
    killed(place, "avader_10arcs", place.whole())


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_killed_in_its_tiles_as_it_grows(place):
    table = at(patch(500, ra=45, dec=0, width=0.16))
    write_sky(f"{place.root}/sky", numbered(table, 0, 250), limit=ROWS)
    before = place.whole()
    for path, data in before.items():
        storage.write_bytes(f"{place.root}/killed/{path}", data)
    grow_sky(f"{place.root}/sky", numbered(table, 250), limit=ROWS)
    killed(place, "increments/000002", place.whole())
    after = place.contents("killed")
    assert all(after[path] == before[path] for path in before if path.endswith(".parquet"))
