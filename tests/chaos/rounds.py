"""Rounds of runs that are killed at random moments, and what is left of each in the end.

A round does one verb into one folder, on local disk or on an S3 server behind a proxy that injects
faults, on a Ray of several machines. By SIGKILL it loses, at moments drawn from its seed, its
driver, a worker process, or a whole machine; the same command is repeated until it ends well. What
is then in the folder must be, byte by byte, what an undisturbed run wrote.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from tests.chaos.places import Place, ids_of
from tests.chaos.world import Machines, Run, World, run
from tests.processes import descendants

Victim = Literal["driver", "worker", "machine"]
VERBS = ("classify", "pack", "generate")
VICTIMS: tuple[Victim, ...] = ("driver", "worker", "machine")
KINDS = tuple(product(VICTIMS, ("S3", "local disk"), VERBS))
# Shares of the requests to S3.
FAULTS = {"unavailable": 0.04, "reset": 0.02, "lost": 0.02, "slow": 0.04, "truncated": 0.02}
MOST_KILLS, MOST_RUNS, RUN_SECONDS = 3, 8, 300
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


def do(round_: Round, world: World, tally: Tally) -> str:
    """Do a round and add it to the tally; what happened, in a line."""
    place = world.places[round_.place]
    out = place.join(f"out-{round_.seed}")
    before = tally.runs, tally.kills.total()
    world.proxy.seed, world.proxy.faults = round_.seed, FAULTS
    _disturb(round_, world, place, out, tally)
    world.proxy.faults = {}
    _compare(place.contents(out), place.contents(place.reference(round_.verb)), tally)
    place.remove(out)
    tally.faults = Counter(world.proxy.injected)
    runs, kills = tally.runs - before[0], tally.kills.total() - before[1]
    return f"{round_}: {runs} runs, {kills} kills"


def _disturb(round_: Round, world: World, place: Place, out: str, tally: Tally) -> None:
    """Repeat the command until it ends well, with kills in its first runs."""
    chance = random.Random(round_.seed)
    left = chance.randint(1, MOST_KILLS)
    units = place.units(round_.verb)
    for _ in range(MOST_RUNS):
        tally.runs += 1
        with run(place.command(round_.verb, out), world.environment) as process:
            while left and _wait_for_a_moment(chance, process, lambda: place.done(out), units):
                if not _kill(round_.victim, process, world.machines, chance):
                    break
                tally.kills[round_.victim] += 1
                left -= 1
            code, said = process.wait(RUN_SECONDS), process.said()
        if code == 0:
            return
        assert code in (-signal.SIGKILL, UNFINISHED), f"{round_}: exit code {code}\n{said}"
    raise AssertionError(f"{round_}: not finished after {MOST_RUNS} runs\n{said}")


def _wait_for_a_moment(
    chance: random.Random, process: Run, done: Callable[[], int], units: int
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


def _kill(victim: Victim, process: Run, machines: Machines, chance: random.Random) -> bool:
    """Kill one; False where the run ended before there was one."""
    if victim == "machine":
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
