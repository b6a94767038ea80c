"""What every test may ask for: the real data, a Ray of two cores, an S3 server."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no fault of what is tested.
settings.register_profile("avader", deadline=None)
settings.load_profile("avader")
# Before anything starts Ray: see "what bites first" of Ray 2.60 in the design notes.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")
# Read when torch is loaded, here and in what tests begin: threads that wait by spinning take the
# cores from the other file's tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

pytest_plugins = ["tests.s3"]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real galaxies; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AVADER_REAL_DATA", default))
    if not (folder / "galaxy_zoo_5class.parquet").exists():
        pytest.skip(f"no real data: set AVADER_REAL_DATA to its folder (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of two cores for the whole test session."""
    import ray

    # "local": else it would join what another session started on this machine.
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.ERROR)
    started = ray._private.worker._global_node.all_processes.values()
    processes = [one.process for kind in started for one in kind]
    yield
    ray.shutdown()
    for process in processes:  # those that take long to end it leaves as zombies, with a warning
        process.wait(timeout=60)
