"""Two runs on one output folder: refused, succeeded, taken over; without Ray, by processes."""

import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tomlkit

from avader import cli
from avader.errors import BusyError
from avader.io import local, storage
from avader.io.lease import LEASE, Lease, this_run
from avader.pipelines.holding import holding
from tests.io.test_lease import ELSEWHERE, holder, leave
from tests.pipelines.packed import write_packed
from tests.processes import wait_for
from tests.tiny import write_pngs, write_tiny_model
from tests.training.tiny import changed, images

EVERY = 0.2
# A verb that only holds its folder: it says so, then waits for a line, or for ever.
# Ctrl-C is what it is in a terminal, also where a shell in the background runs these tests.
PROGRAM = f"""
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)
from avader import cli
from avader.pipelines.holding import holding

def work(out):
    with holding(out, lambda: False, seconds=float(sys.argv[2]), every={EVERY}):
        print("works", flush=True)
        if sys.stdin.readline() == "fail\\n":
            raise RuntimeError("failed")

cli._parse = lambda verb, arguments: arguments[0]
sys.modules["avader.pipelines.generate"] = types.SimpleNamespace(run=work)  # without Ray
sys.exit(cli.run_verb("generate", sys.argv[1:]))
"""


@pytest.fixture(params=["local", pytest.param("S3", marks=pytest.mark.long)])
def out(request, tmp_path) -> str:
    return request.getfixturevalue("s3_uri") if request.param == "S3" else str(tmp_path / "out")


@pytest.fixture
def start(out):
    """Starts runs on the folder; they are killed at the end."""
    runs = []

    def begin(seconds: float = 2) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", PROGRAM, out, str(seconds)]
        runs.append(subprocess.Popen(command, text=True, **pipes))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()
        run.communicate()


def ended(run: subprocess.Popen[str], word: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of a run that is told to end."""
    said, errors = run.communicate(f"{word}\n" if word else None, timeout=60)
    return run.returncode, said, errors


def test_the_second_of_two_runs_is_refused(start, out):
    first = start(60)
    assert first.stdout.readline() == "works\n"
    code, said, errors = ended(start(60))
    assert (code, said) == (4, "")
    assert errors.startswith(
        f"avader generate: wanted {out} for this run, it is held by process {first.pid} on "
    )
    assert errors.count("\n") == 1
    assert ended(first, "end") == (0, "", "")
    assert storage.list_files(out) == []


def test_after_a_kill_the_next_run_goes_on_at_once(start, out):
    first = start()
    assert first.stdout.readline() == "works\n"
    first.kill()
    first.wait()
    assert [uri.rpartition("/")[2] for uri in storage.list_files(out)] == [LEASE]
    second = start()
    assert second.stdout.readline().startswith(f"  taking over from process {first.pid} on ")
    assert second.stdout.readline() == "works\n"
    assert ended(second, "end") == (0, "", "")
    assert storage.list_files(out) == []


def test_a_run_that_stands_still_is_succeeded_and_ends(start, out):
    first = start()
    assert first.stdout.readline() == "works\n"
    first.send_signal(signal.SIGSTOP)
    second = start()
    assert "waiting at most 2 s to see whether it still works\n" in second.stdout.readline()
    assert second.stdout.readline().endswith("which was silent for 2 s\n")
    assert second.stdout.readline() == "works\n"
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 4  # it still waits for its line
    assert first.stderr.read().startswith(
        f"avader generate: {out} is no longer this run's: process {second.pid} on "
    )
    assert holder(storage.join(out, LEASE)).pid == second.pid
    assert ended(second, "end") == (0, "", "")
    assert storage.list_files(out) == []


@pytest.mark.parametrize("out", ["local"], indirect=True)
def test_released_after_errors_and_ctrl_c(start, out):
    run = start()
    assert run.stdout.readline() == "works\n"
    assert ended(run, "fail")[0] == 1
    assert storage.list_files(out) == []
    run = start()
    assert run.stdout.readline() == "works\n"
    run.send_signal(signal.SIGINT)
    assert ended(run)[0] == 130
    assert storage.list_files(out) == []


@pytest.mark.parametrize("out", ["local"], indirect=True)
def test_holding_and_ending_at_once(out):
    """No thread of it aborts the interpreter's end, of the run that ends well and of another."""
    code = (
        "import sys; from avader.pipelines.holding import holding\n"
        "with holding(sys.argv[1], lambda: False, every=0.001): sys.exit(int(sys.argv[2]))"
    )
    for wanted in (0, 7) * 2:
        ran = subprocess.run(
            [sys.executable, "-c", code, out, str(wanted)], capture_output=True, check=False
        )
        assert (ran.returncode, ran.stderr) == (wanted, b"")
    assert storage.list_files(out) == []


def test_a_finished_folder_is_not_held(tmp_path):
    with holding(str(tmp_path / "out"), lambda: True) as unfinished:
        assert not unfinished
        assert not (tmp_path / "out").exists()


def test_finished_by_the_one_that_we_waited_for(tmp_path):
    answers = iter([False, True])
    with holding(str(tmp_path), lambda: next(answers)) as unfinished:
        assert not unfinished
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_renewal_left_aside_is_removed(tmp_path):
    (tmp_path / f".{LEASE}.{local.this_machine()}-999999999.abcd.tmp").write_bytes(b"{")
    with holding(str(tmp_path), lambda: False):
        assert [path.name for path in tmp_path.iterdir()] == [LEASE]


def test_a_storage_that_fails_for_a_while(tmp_path, caplog, monkeypatch):
    """Renewals that fail are said once, and the run goes on."""
    caplog.set_level(logging.INFO, "avader")
    renew, failures = Lease.renew, []

    def failing(self) -> bool:
        if len(failures) < 3:
            failures.append(self)
            storage.read_bytes(str(tmp_path / "absent"))
        return renew(self)

    monkeypatch.setattr(Lease, "renew", failing)
    uri = str(tmp_path / LEASE)
    with holding(str(tmp_path), lambda: False, every=0.05):
        wait_for(lambda: holder(uri).renewals > 2, seconds=20)
    assert caplog.text.count("the lease was not renewed: cannot read") == 1


def test_lost_in_a_thread_that_cannot_be_interrupted(tmp_path):
    """It ends with its work."""
    from concurrent.futures import ThreadPoolExecutor

    out = str(tmp_path)

    def work():
        with holding(out, lambda: False, every=0.05):
            leave(out, replace(this_run(30.0), **ELSEWHERE))
            time.sleep(0.5)

    with ThreadPoolExecutor(1) as pool, pytest.raises(BusyError, match="on elsewhere took it over"):
        pool.submit(work).result()


@pytest.fixture(scope="module")
def verbs(tmp_path_factory) -> dict[str, list[str]]:
    """The options of every verb that holds its output folder, but for --out."""
    folder = tmp_path_factory.mktemp("verbs")
    data = write_packed(folder / "packed", images())
    recipe = folder / "recipe.toml"
    searched = changed(search={"optimiser.l2": {"low": 0.0, "high": 0.1}})
    recipe.write_text(tomlkit.dumps(searched.model_dump(mode="json", exclude_none=True)))
    model = write_tiny_model(folder / "model")
    training = ["--data", data, "--recipe", str(recipe), "--device", "cpu"]
    return {
        "pack": ["--source", write_pngs(folder / "source", 3), "--preprocessing.size", "16"],
        "classify": ["--model", model, "--data", data],
        "generate": ["--model", model, "--count", "5"],
        "train": training,
        "tune": training,
    }


@pytest.mark.parametrize("verb", ["pack", "classify", "generate", "train", "tune"])
def test_every_verb_is_refused_before_ray_starts(verb, verbs, tmp_path, capfd):
    out = str(tmp_path / "out")
    other = Lease(out, seconds=600)
    other.acquire(print)
    assert cli.main([verb, *verbs[verb], "--out", out]) == 4
    shown = capfd.readouterr()
    assert f"wanted {out} for this run, it is held by process" in shown.err
    assert shown.out == ""
    assert holder(other.uri) == other.owner
