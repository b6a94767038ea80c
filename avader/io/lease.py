"""`lease.json` in an output folder: one run at a time works there.

The lease limits waste; correctness never depends on it, because what a run writes is a function of
its plan. Its owner renews it; where it does not, the lease ends and the next run takes it over.

The clocks of two machines differ, so no time in a lease is ever compared with another machine's:
whoever wants the folder watches, by a clock of its own, whether the object changes within the
lease's length. On one machine (same boot, same space of process ids) there is no need to watch:
an owner whose process is gone is dead, and its clock is ours.
"""

import json
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from avader.errors import BusyError
from avader.io import conditional, storage
from avader.io.conditional import Seen

LEASE = "lease.json"
SECONDS = 30.0
"""Length of a lease."""
EVERY = 10.0
"""Seconds between renewals."""
STOPPED, ENDED = "Tt", "ZX"
"""States of a process in /proc: stopped by a signal or a debugger; ended but not yet gone."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease, as the lease says.

    machine: boot and space of process ids; started: clock ticks from boot to the process's start,
    which tells it from a later one of the same pid; token: of the run; seconds: the lease's length;
    renewals: how often; renewed: UTC by the owner's clock, for people; clock: the same moment in
    seconds since boot.
    """

    host: str
    machine: str
    pid: int
    started: int
    token: str
    seconds: float
    renewals: int = 0
    renewed: str = ""
    clock: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_run(seconds: float) -> Owner:
    """This process as the owner of a new lease."""
    process = _process(os.getpid())
    return Owner(
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=process[1] if process else 0,
        token=secrets.token_hex(8),
        seconds=seconds,
    )


def owner_in(data: bytes) -> Owner | None:
    """The owner that a lease names; None where it is not whole."""
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None


def state_of(owner: Owner | None) -> Literal["ended", "renewing", "unknown"]:
    """What can be known of an owner at once: only that of this machine's."""
    if owner is None or not owner.machine or owner.machine != _machine():
        return "unknown"
    process = _process(owner.pid)
    if process is None:
        return "unknown" if _exists(owner.pid) else "ended"
    state, started = process
    if started != owner.started or state in ENDED:
        return "ended"
    lately = time.monotonic() - owner.clock < owner.seconds / 2
    return "renewing" if lately and state not in STOPPED else "unknown"


class Lease:
    """The lease of an output folder, wanted or held by this run.

    seconds: how long it lasts unless renewed; every: seconds between renewals.
    """

    def __init__(self, out: str, *, seconds: float = SECONDS, every: float = EVERY) -> None:
        self.out, self.every = out, every
        self.uri = storage.join(out, LEASE)
        self.owner = this_run(seconds)
        self.held = Seen(b"")

    def acquire(self, tell: Callable[[str], None]) -> None:
        """Take the lease: where nobody holds it, or once its owner has ended or it has.

        tell: says whom it waits for and whom it takes the lease from, a line each. Raises
        BusyError where the owner renews it.
        """
        first: Seen | None = None
        since = math.inf  # the end of the first look: the storage may be slow
        while True:
            looked = time.monotonic()
            seen = conditional.read(self.uri)
            if seen is None:
                if made := conditional.create(self.uri, self._renewed()):
                    self.held = made
                    return
                continue
            owner = owner_in(seen.data)
            state = state_of(owner)
            if state == "renewing" or seen.data != (first or seen).data:
                raise BusyError(self._busy(owner))
            length = owner.seconds if owner else self.owner.seconds
            if state == "ended" or looked - since >= length:
                if self._succeed(seen):
                    how = "has ended" if state == "ended" else f"was silent for {length:g} s"
                    tell(f"  taking over from {owner or 'a run'}, which {how}")
                    return
            elif first is None:
                tell(
                    f"  {storage.public_uri(self.out)} is held by {owner or 'another run'}: "
                    f"waiting at most {length:g} s to see whether it still works"
                )
            if first is None:
                first, since = seen, time.monotonic()
            time.sleep(self.every / 10)

    def _succeed(self, seen: Seen) -> bool:
        """Take the lease from the owner that was seen; False where it is another's by now."""
        made = conditional.replace(self.uri, self._renewed(), seen)
        if made is None:
            return False
        self.held = made
        if storage.is_local(self.uri):
            return True
        # Of two that replace at once both may be told that they did: the last one has it.
        time.sleep(self.every / 10)
        return self._is_ours(conditional.read(self.uri))

    def renew(self) -> bool:
        """Hold the lease for as long again; False where it is no longer this run's.

        Raises InputError where the storage fails: the lease may be held all the same.
        """
        made = conditional.replace(self.uri, self._renewed(), self.held)
        if made is None:
            seen = conditional.read(self.uri)
            if not self._is_ours(seen):
                return False
            # Written by a renewal whose answer was lost, or another run looks at it right now.
            self.held = seen or self.held
            made = conditional.replace(self.uri, self._renewed(), self.held)
        self.held = made or self.held
        return True

    def release(self) -> None:
        """Remove the lease where it is this run's."""
        seen = conditional.read(self.uri)
        if seen is not None and self._is_ours(seen):
            conditional.remove(self.uri, seen)

    def lost(self) -> str:
        """Why a run whose lease is gone ends, in words."""
        seen = conditional.read(self.uri)
        holder = owner_in(seen.data) if seen else None
        how = f"{holder} took it over" if holder else f"its {LEASE} is gone"
        return (
            f"{storage.public_uri(self.out)} is no longer this run's: {how}, as happens where a "
            "run stands still for too long; this run ends, and what it has done is kept"
        )

    def _renewed(self) -> bytes:
        """The lease as it is written now, each time another."""
        self.owner = replace(
            self.owner,
            renewals=self.owner.renewals + 1,
            renewed=datetime.now(UTC).isoformat(timespec="seconds"),
            clock=time.monotonic(),
        )
        return (json.dumps(asdict(self.owner), indent=1) + "\n").encode()

    def _is_ours(self, seen: Seen | None) -> bool:
        owner = owner_in(seen.data) if seen else None
        return owner is not None and owner.token == self.owner.token

    def _busy(self, owner: Owner | None) -> str:
        who = f"{owner}, which renewed its lease at {owner.renewed}" if owner else "another run"
        return (
            f"wanted {storage.public_uri(self.out)} for this run, it is held by {who}; wait for "
            "that run or stop it, then repeat this command, or choose another --out"
        )


def _machine() -> str:
    """This boot of this machine, and the space of process ids within; empty where not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int] | None:
    """State of a process and the clock ticks from boot to its start; None where not shown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _exists(pid: int) -> bool:
    """Whether there is such a process, even where /proc hides it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
