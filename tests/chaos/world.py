"""What the rounds share: a Ray of several machines, both places, and the proxy before S3."""

import os
import random
import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos.places import Bucket, Place, survey
from tests.faults import FaultProxy
from tests.s3 import S3Server

# Ray notices a lost machine within seconds, not half a minute.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}


class Run:
    """A command as a process whose output is kept in a file."""

    def __init__(self, command: list[str], environment: dict[str, str], said: Path) -> None:
        self._said = said
        with said.open("wb") as file:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=file, stderr=file
            )

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        return self._process.wait(seconds)

    def said(self) -> str:
        """The end of its output."""
        return self._said.read_text(errors="replace")[-4000:]


@contextmanager
def run(command: list[str], environment: dict[str, str]) -> Iterator[Run]:
    """A command that runs within the block, and does not outlive it."""
    with TemporaryDirectory() as folder:
        process = Run(command, environment, Path(folder) / "said.txt")
        try:
            yield process
        finally:
            if process.alive():
                process.kill()


class Machines:
    """A Ray of three machines, as processes; the first has no CPU for workers."""

    def __init__(self, cluster) -> None:
        self._cluster = cluster
        self._nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is to be."""
        return self._cluster.address

    def lose_one(self, chance: random.Random) -> None:
        """One of the machines is gone at once; another one comes."""
        lost = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=2))


@dataclass(frozen=True)
class World:
    """places: by name; environment: of the commands."""

    places: dict[str, Place]
    machines: Machines
    proxy: FaultProxy
    environment: dict[str, str]


@contextmanager
def world(folder: Path, server: S3Server, names: Collection[str]) -> Iterator[World]:
    """A world within a block, every verb done once in each of these places, undisturbed.

    All that it starts, and this process, find S3 behind the proxy.
    """
    from ray.cluster_utils import Cluster

    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server.endpoint, faults={}))
        stack.enter_context(_environ({**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}))
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "_system_config": QUICK, "include_dashboard": False},
        )
        stack.callback(cluster.shutdown)
        machines = Machines(cluster)
        environment = {"RAY_ADDRESS": machines.address}
        places = _places(folder, server, names, environment)
        yield World(places, machines, proxy, environment)


def _places(
    folder: Path, server: S3Server, names: Collection[str], environment: dict[str, str]
) -> dict[str, Place]:
    source = survey(folder)
    (folder / "place").mkdir()
    places = Place(str(folder / "place")), Bucket(f"{server.uri}/chaos", server)
    wanted = [place for place in places if place.name in names]
    return {place.name: place.make(source, environment) for place in wanted}


@contextmanager
def _environ(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
