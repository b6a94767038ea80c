"""Processes of a test: which there are, and waiting for what they do."""

import io
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from avader.cli import main


def run_here(*arguments: str) -> str:
    """What `avader` says to these, in this process and in the Ray that it is in, if any."""
    with redirect_stdout(io.StringIO()) as said:
        assert main(arguments) == 0, said.getvalue()
    return said.getvalue()


def descendants(name: bytes) -> list[int]:
    """Process ids below this one whose command line holds the name."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    ours, found = {os.getpid()}, set()
    while ours:
        ours = {pid for pid, parent in parents.items() if parent in ours}
        found |= ours
    return [pid for pid in found if name in names[pid]]


def peak_memory(pid: int | str = "self") -> int:
    """The most bytes that a process has had in memory; 0 where it is gone.

    Not by getrusage, which counts what its parent had when it was begun.
    """
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
