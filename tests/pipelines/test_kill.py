"""kill -9 of the driver in mid-run, then the same command again: nothing lost, nothing doubled."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import avader
from avader.config import PackSettings, VerifySettings
from avader.pipelines import pack, verify
from avader.recipe import Network, Preprocessing
from tests.processes import run_here
from tests.tiny import write_table, write_tiny_model

# Slow enough that a run lasts some seconds after its workers are up.
NETWORK = Network(size=64, latent=3, filters=(32, 32), kernels=(5, 5), decoder_kernels=(5, 5))
COUNT, ROWS = 400, 10
SMALL_COUNT = 20 * COUNT
"""Of a recipe, whose units are done at once: there are more of them."""
CONE = ("generate", "--cone", "359.9,30,3600")
COMMANDS = {
    "classify": ("classify",),
    "images": ("generate",),
    "sky": (*CONE, "--orientation", "random", "--psf-fwhm", "2", "--store", "encoded"),
    "recipe": (*CONE, "--store", "recipe", "--count", str(SMALL_COUNT)),
    "more": ("generate", "--add"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def command(request, tmp_path, ray_session) -> list[str]:
    """A verb with its options, but for --out."""
    verb, *options = COMMANDS[request.param]
    preprocessing = Preprocessing(size=64)
    model = write_tiny_model(tmp_path / "model", network=NETWORK, preprocessing=preprocessing)
    given = [verb, "--model", model, "--workers", "2"]
    if verb == "generate":
        return [*given, "--count", str(COUNT), "--rows-per-shard", str(ROWS), *options]
    source, data = write_table(tmp_path / "table.parquet", COUNT), str(tmp_path / "packed")
    settings = PackSettings(
        source=source, out=data, rows_per_shard=ROWS, preprocessing=preprocessing, workers=1
    )
    pack.run(settings)
    return [*given, "--data", data]


@pytest.mark.parametrize(
    "command",
    [
        kind if kind == "classify" else pytest.param(kind, marks=pytest.mark.long)
        for kind in COMMANDS
    ],
    indirect=True,
)
def test_killed_driver(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    before = 0
    if "--add" in command:
        first = [part for part in command if part != "--add"]
        for out in (whole, killed):
            run_here(*first, "--count", str(5 * ROWS), "--out", str(out))
        before = len(done(whole))
    run_here(*command, "--out", str(whole))
    again = [*command, "--out", str(killed)]
    units = len(done(whole)) - before
    assert units >= 35
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "avader", *again], **quiet) as process:
        while process.poll() is None and len(done(killed)) < before + 8:
            time.sleep(0.01)
        process.kill()
    assert 0 < len(done(killed)) - before < units, "the driver was not killed in mid-run"
    assert len(finished(killed)) < len(finished(whole))
    said = run_here(*again)
    assert "taking over from process" in said
    assert "going on:" in said
    assert contents(killed) == contents(whole)
    objects = SMALL_COUNT if "recipe" in command else COUNT
    assert avader.open_catalogue(str(killed)).manifest.totals["rows"] == objects
    verify.run(VerifySettings(catalogue=str(killed)))


def done(folder: Path) -> list[Path]:
    return [*folder.rglob("rejects/*.parquet")]


def finished(folder: Path) -> list[Path]:
    return [*folder.rglob("manifest.json")]
