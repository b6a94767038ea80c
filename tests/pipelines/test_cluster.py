"""A Ray that a verb starts on its own machine."""

import os
import subprocess
import sys

import pytest

from avader.config import CompactSettings
from avader.pipelines import cluster
from avader.pipelines.memory import SMALL

STAY = """
import os
import time

import ray

from avader.config import ClusterSettings
from avader.pipelines.cluster import cluster

PROCESSES = 2 * (os.cpu_count() or 1) + 4


@ray.remote(num_cpus=0)
def process():
    time.sleep(1)  # else one process does it all
    return os.getpid()


def processes():
    return set(ray.get([process.remote() for _ in range(PROCESSES)]))


with cluster(ClusterSettings()):
    processes()  # they have begun, and now all have work at once
    before = processes()
    time.sleep(4)
    print(len(before) - len(before & processes()))
"""


def test_processes_without_work_for_a_while_stay():
    """Else those that read for a streamed training begin anew in every epoch."""
    environment = dict(os.environ)
    del environment["RAY_idle_worker_killing_time_threshold_ms"]  # of the tests themselves
    ran = subprocess.run(
        [sys.executable, "-c", STAY], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "0\n"


@pytest.mark.parametrize(
    ("node", "lacking"),
    [
        ({"CPU": 4.0, "memory": 2.0**40}, "4 worker(s), of 8 for want of CPUs"),
        ({"CPU": 8.0, "memory": 2 * 576 * 2.0**20}, "2 worker(s), of 8 for want of memory"),
    ],
)
def test_what_there_is_too_little_of_is_named(monkeypatch, caplog, node, lacking):
    caplog.set_level("INFO", "avader")
    monkeypatch.setattr(cluster, "_nodes", lambda _: [node])
    settings = CompactSettings(data="d", out="o", workers=8)
    assert cluster._counted_pool(settings, SMALL).workers == int(lacking[0])
    assert lacking in caplog.text
