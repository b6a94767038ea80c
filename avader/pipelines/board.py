"""A notice board: what workers write, the driver says, so that lines reach whoever began the job.

Ray forwards a worker's output with prefixes, merges repeated lines and may be told not to; this
way a line appears once, as it is, in a terminal and in the log of a submitted job.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from avader.pipelines.progress import say

EVERY = 0.5
"""Seconds between looks at the board."""


class Lines:
    """Lines not said yet, and what ended the work early, if anything did."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failure: str | None = None

    def write(self, line: str) -> None:
        """Keep a line for the driver."""
        self.lines.append(line)

    def fail(self, reason: str) -> None:
        """Keep what ends the work."""
        self.failure = reason

    def take(self) -> tuple[list[str], str | None]:
        """The lines not taken before, and the failure."""
        lines, self.lines = self.lines, []
        return lines, self.failure


class Notices:
    """A worker's end of the board; travels to workers. A lost board loses lines, never work."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def write(self, line: str) -> None:
        """Have the driver say a line."""
        self.actor.write.remote(line)

    def fail(self, reason: str) -> None:
        """Tell the driver why the work cannot go on; waits until it is known."""
        ray.get(self.actor.fail.remote(reason))


class Board:
    """The driver's end of the board, which lies on the driver's machine: others may be lost."""

    def __init__(self, kind: type[Lines] = Lines) -> None:
        """kind: what the actor is, for more to be known on the board than lines."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # One that ends, for want of memory perhaps, begins again: work waits for its answers.
        lasting = {"max_restarts": -1, "max_task_retries": -1}
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=here, **lasting)(kind).remote()
        self.notices = Notices(self.actor)

    def say_all(self) -> str | None:
        """Say what was written; gives the failure, if there is one."""
        lines, failure = ray.get(self.actor.take.remote())
        for line in lines:
            say(line)
        return str(failure) if failure is not None else None


@contextmanager
def reading(board: Board) -> Iterator[None]:
    """Say lines as they come for as long as the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_read, args=(board, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read(board: Board, stop: threading.Event) -> None:
    # A Ray that was shut down would be started again by asking it.
    while not stop.wait(EVERY) and ray.is_initialized():
        try:
            board.say_all()
        except RayError:
            return
