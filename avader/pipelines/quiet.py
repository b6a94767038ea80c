"""Keeps one known line of Ray's core off the terminal.

Whenever Ray Data makes actors, the core of the driver prints, as an error, that their arguments
are large (ray#53727). It is written by C++ to the process's standard error, where no logger
reaches it, and says nothing to the person who runs a job.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

KNOWN = b"has constructor arguments in the object store and max_restarts > 0"
STDERR = 2


@contextmanager
def without_known_noise() -> Iterator[None]:
    """Pass standard error on line by line, but for the known one, while the block lasts."""
    kept = os.dup(STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    copier = Thread(target=_copy, args=(reading, kept), daemon=True)
    copier.start()
    try:
        yield
    finally:
        os.dup2(kept, STDERR)  # closes the pipe's last writing end, which ends the copier
        copier.join(timeout=5)
        os.close(kept)


def _copy(source: int, target: int) -> None:
    with os.fdopen(source, "rb", buffering=0) as pipe:
        rest = b""
        while data := pipe.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if KNOWN not in line:
                    os.write(target, line + b"\n")
        if rest and KNOWN not in rest:
            os.write(target, rest)
