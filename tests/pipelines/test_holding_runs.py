"""The verbs under Ray: a run whose lease is another's by now ends, whatever it waits for."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import tomlkit

from avader.io import storage
from avader.io.lease import LEASE, this_run
from tests.io.test_lease import ELSEWHERE, holder, leave
from tests.pipelines.packed import write_packed
from tests.processes import wait_for
from tests.tiny import write_tiny_model
from tests.training.tiny import changed, images

pytestmark = pytest.mark.long

# The verb as it is, with a lease that is renewed more often.
PROGRAM = """
import importlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
from functools import partial
from avader import cli
from avader.pipelines.holding import holding

module = importlib.import_module(sys.argv[1])
module.holding = partial(holding, every=0.2)
sys.exit(cli.main(sys.argv[2:]))
"""
# Long enough to be met in mid-run.
SLOW = {"gamma_epochs": 400, "periods": 1, "static_epochs": 10}


@pytest.fixture(scope="module")
def verbs(tmp_path_factory) -> dict[str, tuple[str, list[str], str]]:
    """Of each verb: the module that holds, the options but for --out, a file of mid-run."""
    folder = tmp_path_factory.mktemp("verbs")
    data = write_packed(folder / "packed", images(400))
    recipe = folder / "recipe.toml"
    ranges = {"optimiser.l2": {"low": 0.0, "high": 0.1}}
    searched = changed(search=ranges, schedule=SLOW, checkpoint_steps=3)
    recipe.write_text(tomlkit.dumps(searched.model_dump(mode="json", exclude_none=True)))
    training = ["--data", data, "--recipe", str(recipe), "--device", "cpu"]
    drawing = ["--model", write_tiny_model(folder / "model"), "--rows-per-shard", "100"]
    return {
        "generate": ("units", [*drawing, "--count", "200000"], "rejects/"),
        "train": ("train", training, "training/checkpoints/"),
        "tune": ("tune", training, "unfinished/"),
    }


@pytest.fixture(params=["generate", "train", "tune"])
def run(request, verbs, tmp_path):
    """A verb's name, its output folder, its process, which is in mid-run, and what it says."""
    module, options, middle = verbs[request.param]
    out, said = str(tmp_path / "out"), tmp_path / "said.txt"
    command = [sys.executable, "-c", PROGRAM, f"avader.pipelines.{module}", request.param, *options]
    with said.open("w") as file:
        process = subprocess.Popen(
            [*command, "--out", out, "--workers", "1"], stdout=file, stderr=subprocess.STDOUT
        )

    def in_mid_run() -> bool:
        assert process.poll() is None, said.read_text()
        return bool(storage.list_files(f"{out}/{middle}"))

    try:
        wait_for(in_mid_run, seconds=200)
        yield request.param, out, process, said
    finally:
        process.kill()
        process.wait()


def names(out: str) -> set[str]:
    return {uri.rpartition("/")[2] for uri in storage.list_files(out)}


def test_a_run_that_lost_its_lease_ends(run):
    verb, out, process, said = run
    other = replace(this_run(30.0), **ELSEWHERE)
    uri = leave(out, other)
    code = process.wait(timeout=60)
    text = said.read_text()
    assert code == 4, text
    last = text.splitlines()[-1]
    assert last.startswith(f"avader {verb}: {out} is no longer this run's: process {other.pid} on")
    assert "Traceback" not in text
    assert "shutdown" not in text  # Ray's word to a thread that asks it for more after its end
    assert holder(uri) == other
    assert LEASE in names(out)
    assert not names(out) & {"manifest.json", "card.json", "best.toml"}


def test_ctrl_c_ends_a_run_in_plain_words(run):
    verb, out, process, said = run
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=60)
    text = said.read_text()
    assert code == 130, text
    assert text.splitlines()[-1] == f"avader {verb}: stopped; the same command goes on from here"
    assert "Traceback" not in text
    assert not names(out) & {LEASE, "manifest.json", "card.json", "best.toml"}
