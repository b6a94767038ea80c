"""kill -9 of the driver in mid-run, then the same command again: nothing lost, nothing doubled."""

import os
import signal
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


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def command(request, tmp_path, ray_session) -> list[str]:
    """A verb with its options, but for --out."""
    preprocessing = Preprocessing(size=64)
    model = write_tiny_model(tmp_path / "model", network=NETWORK, preprocessing=preprocessing)
    given = [request.param, "--model", model, "--workers", "2"]
    if request.param == "generate":
        return [*given, "--count", str(COUNT), "--rows-per-shard", str(ROWS)]
    source, data = write_table(tmp_path / "table.parquet", COUNT), str(tmp_path / "packed")
    settings = PackSettings(
        source=source, out=data, rows_per_shard=ROWS, preprocessing=preprocessing, workers=1
    )
    pack.run(settings)
    return [*given, "--data", data]


@pytest.mark.parametrize(
    "command", ["classify", pytest.param("generate", marks=pytest.mark.long)], indirect=True
)
def test_killed_driver(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(*command, "--out", str(whole))
    again = [*command, "--out", str(killed)]
    units = len(done(whole))
    assert units >= 40
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "avader", *again], **quiet) as process:
        while process.poll() is None and len(done(killed)) < 8:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert 0 < len(done(killed)) < units, "the driver was not killed in mid-run"
    assert not (killed / "manifest.json").exists()
    said = run_here(*again)
    assert "taking over from process" in said
    assert "going on:" in said
    assert contents(killed) == contents(whole)
    assert avader.open_catalogue(str(killed)).manifest.totals["rows"] == COUNT
    verify.run(VerifySettings(catalogue=str(killed)))


def done(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("rejects/*.parquet")]
