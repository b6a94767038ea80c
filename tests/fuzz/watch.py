"""Watches the processes that do the cases: one that dies, hangs or swells is found and named."""

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

HANG = 180.0  # seconds without an answer
MOST_CPU = 10.0  # seconds of one case
MOST_MIB = 1600  # of one case; the largest image that may be is 400 MiB in its file's own type
WORK = "tests.fuzz.outcomes"
CHUNK = 2500  # cases of one process


@dataclass
class Tally:
    """What became of cases. slowest, largest: CPU seconds, MiB, and the number of their case."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)

    def add(self, verdict: dict[str, object]) -> None:
        """Count a verdict of work.py."""
        number, failure = int(str(verdict["number"])), verdict.get("failure")
        cpu, mib = float(str(verdict.get("cpu", 0))), int(str(verdict.get("mib", 0)))
        self.slowest = max(self.slowest, (cpu, number))
        self.largest = max(self.largest, (mib, number))
        if failure is None and (cpu > MOST_CPU or mib > MOST_MIB):
            failure = f"took {cpu:.1f} s of CPU time and {mib} MiB"
        if failure is not None:
            self.failures.append(f"case {number}: {failure}")
            self.outcomes["failed"] += 1
        else:
            self.outcomes[str(verdict["outcome"])] += 1

    @property
    def summary(self) -> str:
        """The last line: how many cases, and how they ended."""
        total = sum(self.outcomes.values())
        good = sum(n for name, n in self.outcomes.items() if name.endswith(("cutout", "packed")))
        failed = self.outcomes["failed"]
        return (
            f"{total:,} cases: {good:,} good, {total - good - failed:,} refused with a reason, "
            f"{failed:,} failed; slowest {self.slowest[0]:.1f} s (case {self.slowest[1]}), "
            f"largest {self.largest[0]} MiB (case {self.largest[1]})"
        )


def fuzz(first: int, stop: int, *, jobs: int, say: Callable[[str], None] = lambda _: None) -> Tally:
    """Do the cases from the first to before the stop in `jobs` processes at a time."""
    tally = Tally()
    chunks = [(start, min(start + CHUNK, stop)) for start in range(first, stop, CHUNK)]
    with ThreadPoolExecutor(jobs) as pool:
        for (start, end), verdicts in zip(
            chunks, pool.map(lambda chunk: list(_verdicts(*chunk)), chunks), strict=True
        ):
            for verdict in verdicts:
                tally.add(verdict)
            say(f"cases {start} to {end - 1}: {len(tally.failures)} failures so far")
    return tally


def _verdicts(first: int, stop: int) -> Iterator[dict[str, object]]:
    """The verdict of every case, whatever its process does."""
    while first < stop:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-X", "faulthandler"),
                *("-m", WORK, str(first), str(stop)),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        problem = ""
        try:
            for line in _lines(process):
                first += 1
                yield json.loads(line)
        except TimeoutError:
            problem = f"no answer in {HANG:g} s"
        finally:
            process.kill()
            code = process.wait()
            process.stdout.close()
        if first < stop:
            why = problem or f"its process ended with {code}"
            yield {"number": first, "failure": why}
            first += 1


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """The lines of a process; TimeoutError where the next does not come."""
    assert process.stdout is not None
    held = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], HANG)
        if not ready:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            return
        *lines, held = (held + piece).split(b"\n")
        yield from lines
