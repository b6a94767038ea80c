"""Ray: joined where there is one, started on this machine where there is none."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

# Read when ray.data is imported: without it each execution starts 32 footer readers.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
# Read by a Ray that starts here. Its processes over one a core end after a second without work: a
# streamed training had those that read for it begin, and import, several times an epoch.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")

import ray

from avader.config import ClusterSettings
from avader.errors import InputError
from avader.pipelines.cores import cores
from avader.pipelines.memory import (
    HELPERS,
    Need,
    helpers_with_room,
    share_arenas,
    workers_with_room,
)
from avader.pipelines.progress import say

Device = Literal["cpu", "gpu"]
TORCH_DEVICE: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True)
class Pool:
    """Worker processes for units of work.

    gpus, memory: what each of them holds, the latter in bytes, 0 where it is not counted. apart:
    whether other processes read and write for them; helpers: how many of a stage at once, for each.
    """

    workers: int
    gpus: int
    apart: bool = False
    memory: int = 0
    helpers: int = HELPERS


@contextmanager
def cluster(settings: ClusterSettings, need: Need | None = None) -> Iterator[Pool]:
    """Join or start Ray for the length of a job; yields the workers that its units may have.

    need: of each worker, where memory is to be counted. Raises InputError where the address given
    does not answer, a GPU is wanted and none there, or no machine has memory for a worker.
    """
    begun = not ray.is_initialized()
    if begun:
        share_arenas()
        _start(settings)
    quieten_data()
    try:
        yield _pool(settings) if need is None else _counted_pool(settings, need)
    finally:
        if begun:
            ray.shutdown()


def _pool(settings: ClusterSettings, device: str = "cpu") -> Pool:
    nodes = _nodes(settings)
    if device == "cpu":
        cpus = sum(int(node.get("CPU", 0)) for node in nodes)
        return Pool(workers=settings.workers or max(1, cpus), gpus=0)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if not gpus:
        raise InputError("wanted GPUs (--device gpu), got a cluster without; use --device cpu")
    return Pool(workers=settings.workers or gpus, gpus=1, apart=True)


def _counted_pool(settings: ClusterSettings, need: Need) -> Pool:
    """The pool, with no more workers than there is memory for; says what each takes."""
    pool = _pool(settings, need.device)
    nodes = _nodes(settings)
    need = replace(need, helpers=helpers_with_room(nodes, need))
    room = workers_with_room(nodes, need)
    slot = need.device.upper()
    lacking = "memory" if room < sum(int(node.get(slot, 0)) for node in nodes) else f"{slot}s"
    fewer = f", of {pool.workers} for want of {lacking}" if room < pool.workers else ""
    workers = min(room, pool.workers)
    say(f"  {workers} worker(s){fewer}; each takes {need}")
    return replace(pool, workers=workers, memory=need.total, helpers=need.helpers)


def address_of(settings: ClusterSettings) -> str | None:
    """The Ray to join that these settings, or the environment, name."""
    return settings.address or os.environ.get("RAY_ADDRESS")


def _start(settings: ClusterSettings) -> None:
    address = address_of(settings)
    # What workers have to say comes as results and exceptions; the chatter of Ray's own actors
    # stays in Ray's logs.
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **options)
        except ConnectionError as error:
            raise InputError(
                f"wanted a Ray cluster at {address}, got no answer: {error}; check --address and "
                "RAY_ADDRESS, or leave both away to work on this machine"
            ) from error
        return
    # Ray Train watches for machines that a cloud takes back, by a process that loads for seconds.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # One slot more than workers: Ray Train's controller and Ray Data's tasks need one.
    slots = max(settings.workers, cores()) + 1
    # "local": without it Ray would join whatever another user's `ray start` left on this machine.
    ray.init(address="local", num_cpus=slots, include_dashboard=False, **options)


def _nodes(settings: ClusterSettings) -> list[dict[str, float]]:
    """What Ray has on each machine for workers."""
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 and not address_of(settings):  # a local Ray has a slot more
        nodes[0]["CPU"] = min(nodes[0].get("CPU", 0), max(settings.workers, cores()))
    return nodes


def quieten_data() -> None:
    """Our own progress lines replace Ray Data's bars and chatter."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It tells people to set `memory` in our code where a worker's peak, which memory.py counts, and
    # a quarter more exceed what was asked for.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that bars are off, which is what we asked for.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
