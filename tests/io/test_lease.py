"""Who holds an output folder: on local disk and on a real S3 server, with short leases."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from avader.errors import BusyError
from avader.io import conditional, lease, storage
from avader.io.lease import Lease, Owner, owner_in, state_of, this_run

SHORT = {"seconds": 1.0, "every": 0.2}
ELSEWHERE = {"machine": "another boot", "host": "elsewhere"}


@pytest.fixture(params=["local", "S3"])
def out(request, tmp_path) -> str:
    return request.getfixturevalue("s3_uri") if request.param == "S3" else str(tmp_path / "out")


@pytest.fixture
def said() -> list[str]:
    return []


def leave(out: str, owner: Owner) -> str:
    """Put a lease of another owner into a folder, as one that takes it over would; its URI."""
    uri, data = storage.join(out, lease.LEASE), json.dumps(asdict(owner)).encode()
    made = conditional.create(uri, data)
    while not made:  # its holder may renew it in between
        seen = conditional.read(uri)
        made = seen and conditional.replace(uri, data, seen)
    return uri


def holder(uri: str) -> Owner | None:
    seen = conditional.read(uri)
    return owner_in(seen.data) if seen else None


def ended_process() -> Owner:
    """A run whose process is no more."""
    code = (
        "import json; from dataclasses import asdict; from avader.io import lease; "
        "print(json.dumps(asdict(lease.this_run(30.0))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return Owner(**json.loads(ran.stdout))


def test_of_ten_one_holds(out, said):
    def attempt(held: Lease) -> bool:
        try:
            held.acquire(said.append)
        except BusyError:
            return False
        return True

    runs = [Lease(out) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(attempt, runs))
    assert sum(won) == 1
    winner = runs[won.index(True)]
    assert holder(winner.uri).token == winner.owner.token
    assert said == []


def test_a_second_run_is_refused_at_once(out, said):
    first = Lease(out)
    first.acquire(said.append)
    with pytest.raises(BusyError) as refused:
        Lease(out).acquire(said.append)
    owner = first.owner
    assert str(refused.value) == (
        f"wanted {out} for this run, it is held by process {os.getpid()} on {owner.host}, which "
        f"renewed its lease at {owner.renewed}; wait for that run or stop it, then repeat this "
        "command, or choose another --out"
    )
    assert said == []  # it did not wait for the next renewal


def test_renewed_and_released(out, said):
    held = Lease(out)
    held.acquire(said.append)
    for _ in range(3):
        before = conditional.read(held.uri)
        assert held.renew()
        assert conditional.read(held.uri) != before
    assert holder(held.uri).renewals == 4
    held.release()
    assert storage.list_files(out) == []
    Lease(out).acquire(said.append)
    assert said == []


def test_one_that_ended_here_is_succeeded_at_once(out, said):
    ended = ended_process()
    leave(out, ended)
    began = time.monotonic()
    held = Lease(out)
    held.acquire(said.append)
    assert time.monotonic() - began < 20  # of 30
    assert said == [f"  taking over from process {ended.pid} on {ended.host}, which has ended"]
    assert holder(held.uri) == held.owner


def test_of_ten_one_succeeds(out, said):
    leave(out, ended_process())

    def attempt(held: Lease) -> bool:
        try:
            held.acquire(said.append)
        except BusyError:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(attempt, [Lease(out) for _ in range(10)]))
    assert sum(won) == 1
    assert len(said) == 1


@pytest.mark.parametrize("clock", [0.0, 1e12])
def test_a_silent_one_elsewhere_is_waited_for(out, said, clock):
    """Whatever its clock says: its lease ends by ours."""
    other = replace(this_run(1.0), **ELSEWHERE, clock=clock, renewed="2199-01-01T00:00:00+00:00")
    leave(out, other)
    began = time.monotonic()
    Lease(out, **SHORT).acquire(said.append)
    assert 1.0 <= time.monotonic() - began < 10
    assert said == [
        f"  {out} is held by process {other.pid} on elsewhere: waiting at most 1 s to see whether "
        "it still works",
        f"  taking over from process {other.pid} on elsewhere, which was silent for 1 s",
    ]


def test_a_working_one_elsewhere_is_seen(out, said):
    first = Lease(out, seconds=20.0)
    first.owner = replace(first.owner, **ELSEWHERE)
    first.acquire(said.append)
    threading.Timer(1.0, first.renew).start()
    with pytest.raises(BusyError, match=r"on elsewhere, which renewed its lease at 20"):
        Lease(out, **SHORT).acquire(said.append)
    assert len(said) == 1


@pytest.mark.parametrize("text", [b"", b'{"host": "x', b"[]", b'{"other": 1}'])
def test_one_that_was_cut_off_ends_too(tmp_path, said, text):
    (tmp_path / lease.LEASE).write_bytes(text)
    Lease(str(tmp_path), **SHORT).acquire(said.append)
    assert "is held by another run: waiting at most 1 s" in said[0]
    assert said[1:] == ["  taking over from a run, which was silent for 1 s"]


def test_one_released_while_we_wait_is_ours(out, said):
    uri = leave(out, replace(this_run(20.0), **ELSEWHERE))
    threading.Timer(0.5, storage.remove, [uri]).start()
    held = Lease(out, **SHORT)
    held.acquire(said.append)
    assert holder(uri) == held.owner


def test_a_lost_one_is_neither_renewed_nor_removed(out, said):
    first = Lease(out)
    first.acquire(said.append)
    other = replace(this_run(30.0), **ELSEWHERE)
    uri = leave(out, other)
    assert not first.renew()
    first.release()
    assert holder(uri) == other
    assert first.lost().startswith(
        f"{out} is no longer this run's: process {other.pid} on elsewhere took it over"
    )
    storage.remove(uri)
    assert not first.renew()
    assert "its lease.json is gone" in first.lost()


def test_a_renewal_whose_answer_was_lost(out, said, monkeypatch):
    """It was written all the same: the next one goes on from it."""
    held = Lease(out)
    held.acquire(said.append)
    before = held.held
    assert held.renew()
    held.held = before
    assert held.renew()
    assert holder(held.uri).renewals == 4  # the refused attempt counts


def test_states():
    ours = replace(this_run(30.0), clock=time.monotonic())
    assert state_of(ours) == "renewing"
    assert state_of(replace(ours, clock=time.monotonic() - 16)) == "unknown"
    assert state_of(replace(ours, started=ours.started - 1)) == "ended"  # a pid used again
    assert state_of(replace(ours, machine="another boot")) == "unknown"
    assert state_of(replace(ours, machine="")) == "unknown"
    assert state_of(None) == "unknown"


def test_states_of_a_process_stopped_and_killed():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = lease._process(process.pid)[1]
    owner = replace(this_run(30.0), pid=process.pid, started=started, clock=time.monotonic())
    assert state_of(owner) == "renewing"
    process.send_signal(signal.SIGSTOP)
    while lease._process(process.pid)[0] != "T":
        time.sleep(0.01)
    assert state_of(owner) == "unknown"
    process.kill()
    while lease._process(process.pid)[0] != "Z":
        time.sleep(0.01)
    assert state_of(owner) == "ended"  # although its parent has not asked yet
    process.communicate()
    assert state_of(owner) == "ended"
