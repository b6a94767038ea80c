"""`ray job submit -- python jobs/VERB.py` against a head of its own, data and results on S3.

The head is the one of cluster-configs/local, with token authentication on.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avader.io import storage
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
TOKEN = uuid.uuid4().hex
CUTOUTS = 48
UPLOAD_LIMIT = 20 * 2**20

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Head:
    """A running head: where jobs are submitted, what they see, where Ray keeps its files."""

    address: str
    environment: dict[str, str]
    folder: Path

    def submit(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Submit a job with this working tree and wait for its end; output is the job's log."""
        return subprocess.run(
            [
                "ray",
                "job",
                "submit",
                "--address",
                self.address,
                "--working-dir",
                ".",
                "--",
                *command,
            ],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, job: str, **options: str) -> str:
        """Submit a job that must succeed; returns its log."""
        pairs = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
        done = self.submit("python", f"jobs/{job}.py", *(word for pair in pairs for word in pair))
        assert done.returncode == 0, done.stdout[-8_000:]
        return done.stdout


@pytest.fixture(scope="module")
def head(s3):
    """A Ray head with its dashboard, started by cluster-configs/local/head.sh."""
    # Short, because sockets live in it and their paths have a limit of about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment = {
        **os.environ,
        **s3.environment(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "AWS_PROFILE"):
        environment.pop(name, None)
    options = {
        "--port": gcs,
        "--dashboard-port": dashboard,
        "--ray-client-server-port": client,
        "--dashboard-agent-listen-port": agent,
        "--metrics-export-port": metrics,
        "--num-cpus": 4,
        "--object-store-memory": 200 * 2**20,
        "--temp-dir": folder,
    }
    command = [ROOT / "cluster-configs" / "local" / "head.sh"]
    command += [str(word) for pair in options.items() for word in pair]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    started = Head(f"http://127.0.0.1:{dashboard}", environment, folder)
    try:
        wait_for(started, process=process)
        yield started
    finally:
        stop(process)
        # Ray's agents may write for a moment longer; what they leave is under /tmp.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(1)


def wait_for(head, *, process):
    """Wait until the job server answers to the token."""
    deadline = time.monotonic() + 90
    while (status := ask(head, token=TOKEN)) != 200:
        log = (head.folder / "head.log").read_text(errors="replace")[-4_000:]
        assert process.poll() is None, f"the head ended by itself: {log}"
        assert time.monotonic() < deadline, f"the head gives {status}: {log}"
        time.sleep(0.5)


def ask(head, *, token):
    """The status of a request for the list of jobs; None where nobody answers."""
    request = urllib.request.Request(f"{head.address}/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def stop(process):
    """End the head by its own pid, then what is left of its processes, each by its pid.

    After a job Ray takes half a minute to end by itself; nothing here is worth the wait.
    """
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 8
    while family() and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.2)
    for pid in family():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)


def family():
    """Processes of this test's head: those whose environment holds its token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            mine = TOKEN.encode() in path.read_bytes()
        except OSError:
            continue
        if mine:
            found.append(int(path.parent.name))
    return found


def galaxy(number):
    """A PNG of a small blurred ellipse; every sixteenth is cut short."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    angle, flat = rng.uniform(0, np.pi), rng.uniform(0.2, 1)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = np.exp(-((u**2 + (v / flat) ** 2) / 0.2)) + rng.normal(0, 0.02, x.shape)
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(light, 0, 1) * 255)).save(file, "PNG")
    return file.getvalue()[:60] if number % 16 == 5 else file.getvalue()


@pytest.fixture(scope="module")
def sky(s3):
    """URI of a folder with small cutouts, and the environment to read what jobs make of them."""
    with pytest.MonkeyPatch.context() as patch:
        import s3fs

        for name, value in s3.environment().items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        sky = f"{s3.uri}/jobs"
        for number in range(CUTOUTS):
            uri = storage.join(sky, "survey", f"{number:03d}.png")
            storage.write_bytes(uri, galaxy(number))
        yield sky
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def cutouts(head, sky):
    """URI of the packed cutouts."""
    uri = f"{sky}/cutouts"
    options = {"preprocessing.size": "16", "rows_per_shard": "16"}
    head.run("pack", source=f"{sky}/survey", out=uri, **options)
    return uri


@pytest.fixture(scope="module")
def model(head, sky, cutouts):
    """URI of a model trained by two workers on next to nothing."""
    uri = f"{sky}/model"
    tiny = {
        "network.size": "16",
        "network.filters": "4,4",
        "network.kernels": "3,3",
        "network.decoder_kernels": "3,3",
        "network.latent": "4",
        "mixture.components": "3",
        "mixture.initial_starts": "1",
        "schedule.gamma_epochs": "1",
        "schedule.periods": "1",
        "schedule.annealing_epochs": "1",
        "schedule.static_epochs": "1",
        "optimiser.batch": "12",
    }
    head.run("train", data=cutouts, out=uri, recipe="demo", workers="2", device="cpu", **tiny)
    return uri


@pytest.fixture(scope="module")
def catalogue(head, sky, cutouts, model):
    """URI of the classified catalogue."""
    uri = f"{sky}/catalogue"
    head.run("classify", model=model, data=cutouts, out=uri)
    return uri


def totals(uri):
    return json.loads(storage.read_bytes(storage.join(uri, "manifest.json")))["totals"]


def test_only_the_token_opens_the_head(head):
    assert ask(head, token=TOKEN) == 200
    assert ask(head, token=None) in (401, 403)
    assert ask(head, token="another-token-of-enough-length") in (401, 403)


def test_avader_is_imported_from_the_upload_which_is_small(head):
    done = head.submit("python", "-c", "import avader; print(avader.__file__)")
    assert done.returncode == 0, done.stdout
    assert "/working_dir_files/_ray_pkg_" in done.stdout
    uploads = list(head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert uploads
    for upload in uploads:
        assert (upload / "jobs" / "classify.py").is_file()
        held = {path.name for path in upload.iterdir()}
        assert not held & {".venv", ".git", "demo", "real_data"}
        assert sum(path.lstat().st_size for path in upload.rglob("*")) < UPLOAD_LIMIT


def test_pack(cutouts):
    assert totals(cutouts) == {"rows_in": CUTOUTS, "rows": CUTOUTS - 3, "rejects": 3}


def test_train(model):
    config = json.loads(storage.read_bytes(storage.join(model, "config.json")))
    assert config["mixture"]["components"] == 3
    assert config["network"]["size"] == config["preprocessing"]["size"] == 16
    assert storage.exists(storage.join(model, "model.safetensors"))
    assert storage.exists(storage.join(model, "card.json"))


def test_classify(catalogue, s3):
    assert totals(catalogue) == {"rows_in": CUTOUTS - 3, "rows": CUTOUTS - 3, "rejects": 0}
    written = storage.read_bytes(storage.join(catalogue, "manifest.json"))
    assert s3.secret_key.encode() not in written
    assert s3.access_key.encode() not in written


def test_the_same_job_again_changes_nothing(head, cutouts, model, catalogue):
    before = {uri: storage.read_bytes(uri) for uri in storage.list_files(catalogue)}
    head.run("classify", model=model, data=cutouts, out=catalogue)
    assert {uri: storage.read_bytes(uri) for uri in storage.list_files(catalogue)} == before


def test_settings_from_a_file_on_s3(head, sky, model):
    """As the KubeRay files have it: the entrypoint names one URI."""
    out = f"{sky}/synthetic"
    text = f'model = "{model}"\nout = "{out}"\ncount = 40\nrows_per_shard = 20\n'
    storage.write_bytes(f"{sky}/runs/generate.toml", text.encode())
    head.run("generate", config=f"{sky}/runs/generate.toml")
    assert totals(out) == {"rows_in": 40, "rows": 40, "rejects": 0}
    assert "verif" in head.run("verify", catalogue=out).lower()


def test_bad_input_fails_the_job_and_says_why(head, sky, model):
    options = ["--model", model, "--data", f"{sky}/no-such-folder", "--out", f"{sky}/never"]
    done = head.submit("python", "jobs/classify.py", *options)
    assert done.returncode == 1
    assert "avader classify: " in done.stdout
    assert "no-such-folder" in done.stdout
    assert "Traceback" not in done.stdout
    assert storage.list_files(f"{sky}/never") == []
