"""kill -9 in every kind of phase and within an epoch: the same training in the end.

One worker's training is bit for bit the one that was not killed. Several checkpoints an epoch, so
that each kill is within one.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tomlkit

from avader.io import storage
from avader.io.models import read_model, read_noise
from avader.model.schedule import at
from avader.pipelines import train
from tests.pipelines.packed import figures, history, settings, write_packed
from tests.processes import descendants
from tests.training.tiny import changed, images

pytestmark = pytest.mark.long

# 30 batches an epoch, a checkpoint every 3: slow enough to be met in each of them.
RECIPE = changed(optimiser={"batch": 2}, schedule={"periods": 1}, checkpoint_steps=3)
GAMMA, START, ANNEALING, STATIC = (1, 6), (3, 0), (4, 6), (5, 9)


# How often Ray Train looks at its workers, and how long it waits for one that does not come; all of
# Ray Train's own processes, as on a cluster that was not started by avader.
QUICK = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images())


@pytest.fixture(scope="module")
def whole(data, ray_session, tmp_path_factory) -> Path:
    """The training by one worker, undisturbed."""
    out = tmp_path_factory.mktemp("trained") / "model"
    train.run(settings(data, out, RECIPE, workers=1))
    return out


def position(out) -> tuple[int, int]:
    """Epochs done and batches within, of the newest checkpoint."""
    found = storage.list_files(f"{out}/training/checkpoints", (".state",))
    if not found:
        return 0, 0
    epoch, batches = found[-1].rpartition("/")[2].removesuffix(".state").split("-")
    return int(epoch), int(batches)


def wait_for(out, wanted: tuple[int, int], alive=lambda: True, seconds: float = 400) -> None:
    """Wait until a training has come so far: it begins after half a minute on a quiet machine."""
    deadline = time.monotonic() + seconds
    while position(out) < wanted:
        assert alive(), "the training ended"
        assert time.monotonic() < deadline, f"waited for {wanted} in vain: {position(out)}"
        time.sleep(0.01)


def phase(where: tuple[int, int]) -> str:
    return at(RECIPE.schedule, where[0]).phase.name


def assert_same(out, whole) -> None:
    assert figures(out) == figures(whole)
    assert read_model(str(out)).digest == read_model(str(whole)).digest
    assert read_noise(str(out)).digest == read_noise(str(whole)).digest


def send(processes: list[int], what: signal.Signals) -> None:
    for pid in processes:
        os.kill(pid, what)


def test_killed_worker(whole, data, ray_session, tmp_path, caplog):
    """In the gamma phase, while the mixture starts, in annealing and in a static phase."""
    out, errors = tmp_path / "killed", []

    def work():
        try:
            train.run(settings(data, out, RECIPE, workers=1, max_failures=-1))
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            errors.append(error)

    thread = threading.Thread(target=work)
    with caplog.at_level(logging.INFO, "avader"):
        thread.start()
        for wanted in (GAMMA, START, ANNEALING, STATIC):
            wait_for(out, wanted, thread.is_alive)
            workers = descendants(b"RayTrainWorker")
            assert workers
            send(workers, signal.SIGKILL)
            assert phase(position(out)) == phase(wanted), "killed too late"
        thread.join(timeout=200)
    assert not errors
    assert caplog.text.count("going on after epoch") == 4
    assert_same(out, whole)


def command(data: str, out: str, folder: Path, *options: str) -> list[str]:
    """`avader train` of the recipe by one worker, looking for room for others every second."""
    recipe = folder / "recipe.toml"
    recipe.write_text(tomlkit.dumps(RECIPE.model_dump(mode="json")))
    code = (
        "import sys; from avader.cli import main; from avader.pipelines import train; "
        "train.RESIZE_EVERY = 1.0; sys.exit(main(sys.argv[1:]))"
    )
    return [
        *[sys.executable, "-c", code, "train", "--recipe", str(recipe), "--workers", "1"],
        *["--data", data, "--out", out, "--device", "cpu", "--max-failures", "-1", *options],
    ]


def test_killed_driver(whole, s3_uri, tmp_path):
    """The same command again goes on from the last checkpoint."""
    data, out = write_packed(f"{s3_uri}/packed", images()), f"{s3_uri}/model"
    again = command(data, out, tmp_path)
    with subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(out, ANNEALING, lambda: process.poll() is None)
        finally:
            process.kill()
    assert phase(position(out)) == phase(ANNEALING), "killed too late"
    assert not storage.exists(f"{out}/card.json")
    ended = subprocess.run(again, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "going on after epoch" in ended.stdout + ended.stderr
    assert_same(out, whole)


@pytest.fixture
def machines():
    """A Ray of several machines, as processes; the first one has no CPU for workers."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "_system_config": quick, "include_dashboard": False},
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture
def training(machines, data, tmp_path):
    """Starts `avader train` on those machines with further options; what it said is in a file."""
    processes = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **QUICK, "RAY_ADDRESS": machines.address}
        with (tmp_path / "said.txt").open("wb") as said:
            process = subprocess.Popen(
                command(data, str(tmp_path / "model"), tmp_path, *options),
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_killed_machine(whole, machines, training, tmp_path):
    """A machine that is lost within an epoch: on from the last checkpoint on another one."""
    first = machines.add_node(num_cpus=2)
    process, out = training(), tmp_path / "model"
    wait_for(out, ANNEALING, lambda: process.poll() is None)
    machines.remove_node(first, allow_graceful=False)  # first: the rest takes less than a start
    machines.add_node(num_cpus=2)
    assert process.wait(timeout=200) == 0, (tmp_path / "said.txt").read_text()
    assert "going on after epoch" in (tmp_path / "said.txt").read_text()
    assert_same(out, whole)


def test_workers_become_more_and_fewer(whole, machines, training, tmp_path):
    """A machine that joins is used; one that leaves is done without; the loss is one worker's."""
    out, said = tmp_path / "model", tmp_path / "said.txt"
    first = machines.add_node(num_cpus=2)
    process = training("--max-workers", "2")
    wait_for(out, GAMMA, lambda: process.poll() is None)
    workers = descendants(b"RayTrainWorker")
    send(workers, signal.SIGSTOP)  # the training is short, and Ray counts machines every 20 s
    machines.add_node(num_cpus=2)
    time.sleep(21)
    send(workers, signal.SIGCONT)
    text = wait_for_text(said, "2 worker(s); 60 x", process)
    assert text.index("1 worker(s); 60 x") < text.index("2 worker(s); 60 x")
    epoch, _ = position(out)
    wait_for(out, (epoch + 1, 3), lambda: process.poll() is None)
    machines.remove_node(first, allow_graceful=False)
    assert process.wait(timeout=200) == 0, said.read_text()
    text = said.read_text()
    assert text.rindex("1 worker(s); 60 x") > text.rindex("2 worker(s); 60 x")
    for one, both in zip(history(whole), history(out), strict=True):
        assert float(both["loss"]) == pytest.approx(float(one["loss"]), rel=1e-3), one["epoch"]


def wait_for_text(said: Path, wanted: str, process: subprocess.Popen[bytes]) -> str:
    """What a training said, once it has said what is wanted."""
    deadline = time.monotonic() + 100
    while wanted not in (text := said.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return text
