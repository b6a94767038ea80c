"""Every script in benchmarks/ answers in a minute with --quick, its figures in its last line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "common")
)


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick(script):
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
    assert any(name.endswith("_ratio") and value > 0 for name, value in figures.items())
    assert time.monotonic() - began < 120  # 60 s on a quiet machine
