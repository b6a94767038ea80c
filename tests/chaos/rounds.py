"""Rounds of runs that are killed at random moments, and what is left of each in the end.

A round does one verb into one folder, on local disk or on an S3 server behind a proxy that injects
faults. By SIGKILL it loses, at moments drawn from its seed, its driver, a worker process, or a
whole machine; the same command is repeated until it ends well. What is then in the folder must be,
byte by byte, what an undisturbed run wrote.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tests.chaos.places import Place, ids_of
from tests.faults import FaultProxy
from tests.processes import descendants

Victim = Literal["driver", "worker", "machine"]
VERBS = ("classify", "pack", "generate")
VICTIMS: tuple[Victim, ...] = ("driver", "worker", "machine")
KINDS = tuple(product(VICTIMS, ("S3", "local disk"), VERBS))
# Shares of the requests to S3.
FAULTS = {"unavailable": 0.04, "reset": 0.02, "lost": 0.02, "slow": 0.04, "truncated": 0.02}
MOST_KILLS, MOST_RUNS, RUN_SECONDS = 3, 8, 300
# Ray notices a lost machine within seconds, not half a minute.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
WORKER = b"MapWorker"
UNFINISHED = 3
"""Exit code of a run that set units aside, such as one whose worker was killed three times."""


@dataclass(frozen=True)
class Round:
    """What is done, where, and who is killed. seed: of the moments and the faults."""

    seed: int
    victim: Victim
    place: str
    verb: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.verb} on {self.place}, {self.victim} killed"


@dataclass
class Tally:
    """What happened, and what is wrong in the end."""

    rounds: int = 0
    runs: int = 0
    identical: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    left_over: int = 0

    @property
    def sound(self) -> bool:
        """Whether every round ended as an undisturbed run does."""
        return self.identical == self.rounds and not (self.lost + self.doubled + self.left_over)

    def line(self) -> str:
        """The counts in one line."""
        killed = ", ".join(f"{count} {victim}" for victim, count in sorted(self.kills.items()))
        return (
            f"{self.rounds} rounds, {self.runs} runs, {self.kills.total()} kills ({killed}), "
            f"{self.faults.total():,} faults of the storage: {self.identical} of {self.rounds} "
            f"byte-identical, {self.lost} lost, {self.doubled} doubled, {self.left_over} left over"
        )


def rounds(count: int, first: int = 0) -> list[Round]:
    """Rounds of every kind, a verb, a victim and a place after the other; seeds from `first`."""
    return [Round(seed, *KINDS[7 * seed % len(KINDS)]) for seed in range(first, first + count)]


def do(round_: Round, place: Place, tally: Tally) -> str:
    """Do a round and add it to the tally; what happened, in a line."""
    out = place.join(f"out-{round_.seed}")
    before = tally.runs, tally.kills.total()
    with ExitStack() as stack:
        environment = dict(place.environment)
        proxy = None
        if endpoint := environment.get("AWS_ENDPOINT_URL"):
            proxy = stack.enter_context(FaultProxy(endpoint, faults=FAULTS, seed=round_.seed))
            environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        machines = None
        if round_.victim == "machine":
            machines = stack.enter_context(Machines.running(environment))
            environment["RAY_ADDRESS"] = machines.address
        _disturb(round_, place, out, environment, machines, tally)
        if proxy is not None:
            tally.faults += proxy.injected
    _compare(place.contents(out), place.contents(place.reference(round_.verb)), tally)
    place.remove(out)
    runs, kills = tally.runs - before[0], tally.kills.total() - before[1]
    return f"{round_}: {runs} runs, {kills} kills"


def _disturb(
    round_: Round,
    place: Place,
    out: str,
    environment: dict[str, str],
    machines: "Machines | None",
    tally: Tally,
) -> None:
    """Repeat the command until it ends well, with kills in its first runs."""
    chance = random.Random(round_.seed)
    left = chance.randint(1, MOST_KILLS)
    units = place.units(round_.verb)
    for _ in range(MOST_RUNS):
        tally.runs += 1
        with run(place.command(round_.verb, out), environment) as process:
            while left and _wait_for_a_moment(chance, process, lambda: place.done(out), units):
                if not _kill(round_.victim, process, machines, chance):
                    break
                tally.kills[round_.victim] += 1
                left -= 1
            code = process.wait(RUN_SECONDS)
        if code == 0:
            return
        said = process.said()
        assert code in (-signal.SIGKILL, UNFINISHED), f"{round_}: exit code {code}\n{said}"
    raise AssertionError(f"{round_}: not finished after {MOST_RUNS} runs\n{said}")


def _wait_for_a_moment(
    chance: random.Random, process: "Run", done: Callable[[], int], units: int
) -> bool:
    """Wait for a moment of the run: by the clock, or by the units done; False where it ended."""
    began = time.monotonic()
    if chance.random() < 0.3:
        seconds = chance.uniform(0, 15)
        while process.alive() and time.monotonic() - began < seconds:
            time.sleep(0.05)
    else:
        wanted = chance.randint(min(done() + 1, units), units)
        while process.alive() and done() < wanted:
            time.sleep(0.05)
            assert time.monotonic() - began < RUN_SECONDS, f"stands still:\n{process.said()}"
        time.sleep(chance.uniform(0, 0.3))
    return process.alive()


def _kill(
    victim: Victim, process: "Run", machines: "Machines | None", chance: random.Random
) -> bool:
    """Kill one; False where the run ended before there was one."""
    if victim == "machine":
        assert machines is not None
        machines.lose_one(chance)
        return True
    if victim == "driver":
        process.kill()
        return True
    while process.alive():
        workers = sorted(descendants(WORKER))
        try:
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
                return True
        except ProcessLookupError:
            continue
        time.sleep(0.05)
    return False


def _compare(found: dict[str, bytes], wanted: dict[str, bytes], tally: Tally) -> None:
    """Count what a folder lacks, has twice or has too much."""
    tally.rounds += 1
    tally.identical += found == wanted
    tally.left_over += len(found.keys() - wanted.keys())
    ids, expected = ids_of(found), ids_of(wanted)
    tally.lost += (expected - ids).total()
    tally.doubled += (ids - expected).total()


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
        """Its output."""
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

    @classmethod
    @contextmanager
    def running(cls, environment: dict[str, str]) -> Iterator["Machines"]:
        """Machines within a block, their workers with this environment."""
        from ray.cluster_utils import Cluster

        with _environment(environment):
            cluster = Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "_system_config": QUICK, "include_dashboard": False},
            )
            try:
                yield cls(cluster)
            finally:
                cluster.shutdown()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
