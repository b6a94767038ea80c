"""Every script in benchmarks/ answers in a minute with --quick, its figures in its last line."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.common import real_data
from benchmarks.training import kept

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "common", "training")
)
NEEDS_REAL_DATA = {"galaxies", "mnist_clustering"}


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick(script):
    if script in NEEDS_REAL_DATA and real_data() is None:
        pytest.skip("wants AVADER_REAL_DATA")
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout.splitlines()[-1])
    measured = [value for value in figures.values() if isinstance(value, float)]
    assert len(measured) > 2
    assert all(math.isfinite(value) and value > -1 for value in measured)
    assert time.monotonic() - began < 600  # 60 s on a quiet machine; others run beside it here


def test_the_gpu_script_needs_no_ray():
    code = "import sys; sys.modules['ray'] = None; import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_finished_run_is_kept_until_its_settings_change(tmp_path):
    runs = []

    def work():
        runs.append(1)
        return {"accuracy": float(len(runs))}

    assert kept(tmp_path, "ours-0", ("epochs", 3), work) == {"accuracy": 1.0}
    assert kept(tmp_path, "ours-0", ("epochs", 3), work) == {"accuracy": 1.0}
    assert kept(tmp_path, "ours-0", ("epochs", 4), work) == {"accuracy": 2.0}
    assert kept(tmp_path, "ours-1", ("epochs", 4), work) == {"accuracy": 3.0}
    about = json.loads((tmp_path / "ours-0.json").read_text())
    assert set(about) == {"scores", "settings", "machine", "commit", "date"}
    assert about["machine"]
