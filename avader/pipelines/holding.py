"""An output folder held for the length of a run: see io/lease.py.

A thread renews the lease. Where another run has taken it over, because this one stood still for
longer than the lease, the thread interrupts the run's main thread, which ends with BusyError.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from avader.errors import BusyError, InputError, StorageError
from avader.io import storage
from avader.io.lease import EVERY, SECONDS, Lease
from avader.pipelines.progress import say

# Ctrl-C may be ignored (a job in a shell's background), and Ray Train and Tune handle it, and
# SIGUSR1, in their own ways.
INTERRUPT = signal.SIGUSR2
PATIENCE = 10.0
"""Seconds that the end of a run waits for a renewal under way."""


@contextmanager
def holding(
    out: str, finished: Callable[[], bool], *, seconds: float = SECONDS, every: float = EVERY
) -> Iterator[bool]:
    """Hold an output folder; yields whether there is work to do: not where it is finished.

    A finished folder is not held. seconds, every: of the lease, as in Lease. Raises BusyError
    where another run holds the folder, or has taken it over from this one.
    """
    if finished():
        yield False
        return
    lease = Lease(out, seconds=seconds, every=every)
    lease.acquire(say)
    renewer = _Renewer(lease)
    try:
        with _interruptible(), renewer:
            if storage.is_local(out):
                storage.remove_asides(out)
            # Whoever held it before may have come to the end.
            yield not finished()
    except BaseException as error:
        if renewer.lost:
            raise BusyError(renewer.lost) from error
        raise
    finally:
        if not renewer.lost:
            _release(lease)
    if renewer.lost:
        raise BusyError(renewer.lost)


class _Renewer:
    """Renews a lease in a thread of its own within a block. lost: why it is gone, if it is."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.lost = lease, ""
        self.main = threading.get_ident()
        self.ending = threading.Event()
        # A daemon, so that a storage that never answers does not keep the process.
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join(PATIENCE)

    def _renew(self) -> None:
        silent = True
        while not self.ending.wait(self.lease.every):
            try:
                if not self.lease.renew():
                    if self.ending.is_set():
                        return  # it was released while this asked
                    self.lost = self.lease.lost()
                    self._interrupt()
                    return
                silent = True
            except Exception as error:  # noqa: BLE001  # without this thread the lease would end
                if silent:
                    say(f"  the lease was not renewed: {error or type(error).__name__}")
                silent = False

    def _interrupt(self) -> None:
        """Only the main thread of a process can be; any other ends with its work."""
        if self.main == threading.main_thread().ident and not self.ending.is_set():
            signal.pthread_kill(self.main, INTERRUPT)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have INTERRUPT end what the main thread does, as Ctrl-C would."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(INTERRUPT, _stop)
    try:
        yield
    finally:
        signal.signal(INTERRUPT, before)


def _stop(number: int, frame: FrameType | None) -> None:
    # Ray's waits let no other exception of a signal's handler through.
    raise KeyboardInterrupt


def _release(lease: Lease) -> None:
    try:
        lease.release()
    except (InputError, StorageError) as error:
        say(f"  the lease was not removed: {error}; it ends by itself")
