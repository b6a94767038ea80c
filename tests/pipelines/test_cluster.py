"""A Ray that a verb starts on its own machine."""

import os
import subprocess
import sys

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
