"""`train` on Ray Train: to the end, alike for 1 and 2 workers, on after kills, refusals."""

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import avader
from avader.errors import InputError, TrainingError
from avader.io import manifest, storage
from avader.io.models import read_model
from avader.pipelines import tracking, train
from tests.pipelines.packed import figures, history, settings, write_packed
from tests.training.tiny import EPOCHS, RECIPE, changed, images


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images())


@pytest.fixture(autouse=True, scope="module")
def quick_looks():
    """Ray Train looks for reports every 2 s by default, and a second one waits for the look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        yield


@pytest.fixture
def slow_looks(monkeypatch):
    """Time enough between epochs to be killed in."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1.0")


@pytest.fixture(scope="module")
def whole(data, ray_session, tmp_path_factory) -> Path:
    """The training by one worker, undisturbed."""
    out = tmp_path_factory.mktemp("trained") / "model"
    train.run(settings(data, out, workers=1))
    return out


def test_all_phases_and_the_model(whole, data):
    rows = history(whole)
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert rows[-1]["phase"] == "static 2"
    files = read_model(str(whole))
    assert files.config["network"] == RECIPE.network.model_dump(mode="json")
    assert files.config["mixture"] == {"components": 2, "variance_floor": 1e-4}
    assert files.config["preprocessing"]["size"] == 16
    card = files.card
    assert card["data"] == {"manifest": manifest.read_manifest(data).digest, "rows": 60}
    assert card["recipe"]["schedule"] == RECIPE.schedule.model_dump(mode="json")
    assert sum(card["result"]["occupancy"]) == 60
    assert card["result"]["loss"] == pytest.approx(float(rows[-1]["loss"]))
    assert card["versions"]["avader"] == avader.__version__
    pictures = sorted(path.name for path in (whole / "training" / "phases").iterdir())
    assert pictures == [
        *("01-gamma.png", "02-annealing-1.png", "03-static-1.png"),
        *("04-annealing-2.png", "05-static-2.png"),
    ]
    assert len(list((whole / "training" / "tensorboard").iterdir())) == EPOCHS
    assert (whole / "training" / "curves.png").stat().st_size > 10_000
    model = avader.load_model(str(whole))
    mean, _ = model.encode(images())
    assert (
        np.bincount(model.posterior(mean).argmax(1), minlength=2).tolist()
        == (card["result"]["occupancy"])
    )


def test_a_finished_model_is_not_trained_again(whole, data, caplog):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, whole, workers=1))
    assert "trained to the end" in caplog.text
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_two_workers_follow_one(whole, data, ray_session, tmp_path, caplog):
    """The same loss to a relative 1e-3, in the gamma phase and with the mixture."""
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, tmp_path / "two", workers=2))
    for one, two in zip(history(whole), history(tmp_path / "two"), strict=True):
        for name in ("loss", "reconstruction"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-3), one["epoch"]
    said = [record.getMessage() for record in caplog.records]
    lines = [line for line in said if "annealing 2, epoch 8 of 9: loss" in line]
    assert len(lines) == 1
    assert "components" in lines[0]
    assert "images/s" in lines[0]
    assert lines[0].endswith("left")
    assert any("60 x 1 x 16 x 16 uint8 images, 0.0 MiB in every worker" in line for line in said)


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="mlflow-skinny is not installed (the extra `mlflow`)",
)
def test_a_finished_model_is_taken_into_mlflow(whole, data, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    shutil.copytree(whole, tmp_path / "model")
    store = f"file://{tmp_path / 'store'}"
    train.run(settings(data, tmp_path / "model", workers=1, mlflow=store))
    run = tracking.open_tracking(store, out=str(tmp_path / "model"), recipe=RECIPE, name="tiny")
    assert run.epochs == EPOCHS
    assert run.client.get_run(run.run).info.status == "FINISHED"


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


def wait_for(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def epochs_done(out) -> int:
    return len(history(out)) if storage.exists(f"{out}/training/metrics.csv") else 0


@pytest.mark.long
def test_killed_worker(whole, data, ray_session, slow_looks, tmp_path, caplog):
    """SIGKILL of a worker: back from the last checkpoint, and the same training in the end."""
    out, errors = tmp_path / "killed", []

    def work():
        try:
            train.run(settings(data, out, workers=1))
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            errors.append(error)

    thread = threading.Thread(target=work)
    with caplog.at_level(logging.INFO, "avader"):
        thread.start()
        wait_for(lambda: epochs_done(out) >= 4)
        for pid in descendants(b"RayTrainWorker"):
            os.kill(pid, signal.SIGKILL)
        thread.join(timeout=200)
    assert not errors
    assert "going on after epoch" in caplog.text
    assert figures(out) == figures(whole)
    assert read_model(str(out)).digest == read_model(str(whole)).digest


@pytest.mark.long
@pytest.mark.parametrize("place", ["local disk", "S3"])
def test_killed_driver(whole, place, slow_looks, tmp_path, request):
    """SIGKILL of the driver, then the same command again: on from the last checkpoint."""
    root = request.getfixturevalue("s3_uri") if place == "S3" else str(tmp_path)
    data, out = write_packed(f"{root}/packed", images()), f"{root}/model"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(RECIPE))
    command = [
        *[sys.executable, "-m", "avader", "train", "--recipe", str(recipe), "--workers", "1"],
        *["--data", data, "--out", out, "--device", "cpu"],
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: epochs_done(out) >= 4)
    process.kill()
    process.wait()
    assert not storage.exists(f"{out}/card.json")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "going on after epoch" in ended.stdout + ended.stderr
    assert figures(out) == figures(whole)
    assert read_model(out).digest == read_model(str(whole)).digest


def as_toml(recipe) -> str:
    """A recipe as TOML text, by its plain values."""
    return "\n".join(toml_lines(recipe.model_dump(mode="json")))


def toml_lines(values: dict, section: str = "") -> list[str]:
    top = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{section}]"] if section else []
    lines += [f"{name} = {toml_value(value)}" for name, value in top.items()]
    for name in values.keys() - top.keys():
        lines += toml_lines(values[name], f"{section}.{name}" if section else name)
    return lines


def toml_value(value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_a_training_that_cannot_go_on_says_why(ray_session, tmp_path):
    """Told at once, without the restarts that lost workers get."""
    pixels = images().astype(np.float16) / 255
    pixels[7] = np.nan
    data = write_packed(tmp_path / "packed", pixels)
    with pytest.raises(TrainingError, match="wanted finite pixels, got 1 images of 25"):
        train.run(settings(data, tmp_path / "out", workers=1))


def test_another_recipe_is_refused(whole, data):
    other = changed(optimiser={"batch": 20})
    with pytest.raises(InputError, match=r"recipe\.optimiser\.batch was 16 and is now 20"):
        train.run(settings(data, whole, other))


def test_other_data_are_refused(whole, tmp_path):
    other = write_packed(tmp_path / "packed", images(40))
    with pytest.raises(InputError, match=r"data\.rows was 60 and is now 40"):
        train.run(settings(other, whole))


def test_checkpoints_may_come_otherwise(whole, data):
    """How often they are written changes no number, so the run goes on."""
    train.run(settings(data, whole, checkpoint_epochs=3))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (changed(network={"bands": 3}), "wants 3 x 16 x 16 px .* holds 1 x 16 x 16; set --network"),
        (changed(network={"size": 32}), "wants 1 x 32 x 32 px .* holds 1 x 16 x 16; set --network"),
        (changed(mixture={"components": 61}), "got 61 components and 60 images"),
    ],
)
def test_a_recipe_that_does_not_fit(recipe, message, data, tmp_path):
    with pytest.raises(InputError, match=message):
        train.run(settings(data, tmp_path / "out", recipe))
    assert not (tmp_path / "out").exists()


def test_mlflow_that_is_not_installed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wanted the package mlflow-skinny"):
        train.run(settings(data, tmp_path / "out", mlflow="http://127.0.0.1:5000"))
    assert not (tmp_path / "out").exists()


def test_no_images(tmp_path):
    data = write_packed(tmp_path / "packed", images()[:0])
    with pytest.raises(InputError, match="wanted images to train on, got none"):
        train.run(settings(data, tmp_path / "out"))


def test_no_packed_data(tmp_path):
    with pytest.raises(InputError, match="wanted a finished folder"):
        train.run(settings(str(tmp_path / "absent"), tmp_path / "out"))


def test_a_gpu_that_is_not_there(data, ray_session, tmp_path):
    with pytest.raises(InputError, match="wanted GPUs"):
        train.run(settings(data, tmp_path / "out", device="gpu"))


def test_cross_entropy_wants_a_sigmoid():
    with pytest.raises(ValueError, match=r"cross-entropy wants network\.output = sigmoid"):
        changed(loss="cross-entropy")
