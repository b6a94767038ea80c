"""Ray: joined where there is one, started on this machine where there is none."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

# Read when ray.data is imported: without it each execution starts 32 footer readers.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")

import ray

from avader.config import ClusterSettings
from avader.errors import InputError

Device = Literal["cpu", "gpu"]
TORCH_DEVICE: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True)
class Pool:
    """Worker processes for units of work.

    gpus: what each of them holds. apart: whether other processes read and write for them.
    """

    workers: int
    gpus: int
    apart: bool = False


@contextmanager
def cluster(settings: ClusterSettings, *, device: Device = "cpu") -> Iterator[Pool]:
    """Join or start Ray for the length of a job; yields the workers that its units may have.

    Raises InputError where the address given does not answer, or a GPU is wanted and none there.
    """
    begun = not ray.is_initialized()
    if begun:
        _start(settings)
    quieten_data()
    try:
        yield _pool(settings, device)
    finally:
        if begun:
            ray.shutdown()


def _pool(settings: ClusterSettings, device: Device) -> Pool:
    resources = ray.cluster_resources()
    if device == "cpu":
        cpus = min(int(resources.get("CPU", 1)), _cores())
        return Pool(workers=settings.workers or max(1, cpus), gpus=0)
    gpus = int(resources.get("GPU", 0))
    if not gpus:
        raise InputError("wanted GPUs (--device gpu), got a cluster without; use --device cpu")
    return Pool(workers=settings.workers or gpus, gpus=1, apart=True)


def _start(settings: ClusterSettings) -> None:
    address = settings.address or os.environ.get("RAY_ADDRESS")
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
    # One slot more than workers: Ray Train's controller and Ray Data's tasks need one.
    slots = max(settings.workers, os.cpu_count() or 1) + 1
    # "local": without it Ray would join whatever another user's `ray start` left on this machine.
    ray.init(address="local", num_cpus=slots, include_dashboard=False, **options)


def _cores() -> int:
    """CPUs of the machines, without the extra slot of a local Ray."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return os.cpu_count() or 1 if len(alive) == 1 else 10**9


def quieten_data() -> None:
    """Our own progress lines replace Ray Data's bars and chatter."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that bars are off, which is what we asked for.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
