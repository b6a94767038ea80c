"""What a run of units counts, read as Prometheus would: from the metrics port of a real Ray."""

import os
import re
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from avader.catalogue import rows
from avader.errors import InputError, UnfinishedError
from avader.pipelines.cluster import Pool
from avader.pipelines.progress import Progress
from avader.pipelines.stages import Stage, UnitRows, write_stage
from avader.pipelines.units import finish_units
from avader.plan import Plan, Unit

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.long]
SECONDS = 120
SAMPLE = re.compile(r"^(ray_avader_\w+)\{(.*)\} ([0-9.e+-]+)$", re.MULTILINE)
OURS = re.compile(r'(kind|result|stage|cause)="([^"]*)"')


def scraped() -> tuple[str, dict[tuple, float]]:
    """The text at this machine's metrics port, and our counters by name and labels."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[tuple, float] = {}
    for name, labels, value in SAMPLE.findall(text):
        key = (name, *(value for _, value in sorted(OURS.findall(labels))))
        found[key] = found.get(key, 0) + float(value)
    return text, found


def awaited(wanted) -> dict[tuple, float]:
    """Our counters, once they are as wanted; Ray takes them every 10 s."""
    until = time.monotonic() + SECONDS
    while True:
        _, found = scraped()
        if wanted(found) or time.monotonic() > until:
            return found
        time.sleep(1)


def test_a_run_is_counted(tmp_path):
    def count(unit: Unit, _: None) -> UnitRows:
        if unit.name == "bad":
            raise InputError("wanted a good unit")
        if unit.name == "deadly" and not Path(tmp_path, "died").exists():
            Path(tmp_path, "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while unit.name == "deadly" and not Path(tmp_path, "go").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        refused = rows.reject_table([rows.Reject("g0", "constant", "all 7")], unit.name)
        return UnitRows(4, pa.table({"unit": [unit.name] * 3}), refused)

    plan = Plan("counted", {}, tuple(Unit(name, {}) for name in ("a", "b", "bad", "deadly")))
    write = write_stage(str(tmp_path), plan)

    def run() -> None:
        with pytest.raises(UnfinishedError, match="1 of 4 units were set aside"):
            finish_units(
                plan,
                str(tmp_path),
                stages=[Stage("count", lambda: count, pooled=True), write],
                pool=Pool(2, 0),
                progress=Progress("counted", None),
                limit=60,
            )

    lost, seconds = (
        ("ray_avader_lost_attempts_total", "worker_lost", "count"),
        (
            "ray_avader_stage_seconds_total",
            "count",
        ),
    )
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        found = awaited(lambda found: lost in found and found.get(seconds, 0) >= 0.5)
        (tmp_path / "go").touch()
        ended.result()
    assert found.get(lost) == 1
    assert 0.5 <= found.get(seconds, 0) < 60
    sizes = [path.stat().st_size for path in (tmp_path / "parts").iterdir()]
    wanted = {
        ("ray_avader_units_total", "counted", "done"): 3,
        ("ray_avader_units_total", "counted", "set_aside"): 1,
        ("ray_avader_objects_total", "counted", "row"): 9,
        ("ray_avader_objects_total", "counted", "reject"): 3,
        ("ray_avader_written_bytes_total", "counted"): sum(sizes),
    }
    found = awaited(lambda found: wanted.items() <= found.items())
    assert {key: found.get(key) for key in wanted} == wanted
    text, _ = scraped()
    assert (
        "# HELP ray_avader_units_total Units of work that ended, by result: done, set_aside" in text
    )
    assert "# TYPE ray_avader_units_total counter" in text
