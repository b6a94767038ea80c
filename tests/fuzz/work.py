"""Does numbered work in a process that may die of it: a line of JSON for each number."""

import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

MOST_MEMORY = 3 * 2**30  # bytes of addresses beyond those of the libraries


def work(do: Callable[[int, Path], str]) -> None:
    """Do what is done with a number and a folder for the numbers that the command line tells."""
    first, stop = map(int, sys.argv[1:])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY,) * 2)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, stop):
            sys.stdout.write(json.dumps(_verdict(number, do, Path(folder))) + "\n")
            sys.stdout.flush()


def _verdict(number: int, do: Callable[[int, Path], str], folder: Path) -> dict[str, object]:
    """What became of a case: its outcome or its failure, CPU seconds and MiB at the peak."""
    before = memory("VmRSS", reset=True)
    begun = time.process_time()
    verdict: dict[str, object] = {"number": number}
    try:
        verdict["outcome"] = do(number, folder)
    except BaseException:  # noqa: BLE001  # whatever it is, it is what is looked for
        verdict["failure"] = traceback.format_exc()
    verdict["cpu"] = time.process_time() - begun
    verdict["mib"] = memory("VmHWM") - before
    return verdict


def memory(name: str, *, reset: bool = False) -> int:
    """MiB of this process, as Linux counts them; reset: the peak begins anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024
