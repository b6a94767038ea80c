"""`train` on Ray Train: to the end, alike for 1 and 2 workers, refusals."""

import importlib.util
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import avader
from avader.errors import InputError, TrainingError
from avader.io import manifest
from avader.io.models import NOISE, has_noise, read_model, read_noise
from avader.pipelines import train
from avader.pipelines.training import tracking
from avader.synthetic.noise import power_spectrum
from tests.pipelines.packed import history, settings, write_packed
from tests.tiny import write_tiny_model
from tests.training.tiny import EPOCHS, RECIPE, changed, images


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images())


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
    residuals = images() / 255 - model.decode(mean)
    noise = read_noise(str(whole))
    np.testing.assert_allclose(noise.spectrum, power_spectrum(residuals), rtol=1e-5)
    assert noise.about == {
        "images": 60,
        "images_are": "those trained on",
        "pixels": "whole frame",
        "shape": [1, 16, 16],
        "data": manifest.read_manifest(data).digest,
    }
    assert (whole / NOISE).stat().st_mtime_ns <= (whole / "card.json").stat().st_mtime_ns
    assert (
        np.bincount(model.posterior(mean).argmax(1), minlength=2).tolist()
        == (card["result"]["occupancy"])
    )


def test_the_driver_loads_nothing_of_a_workers():
    """Nor does Ray Train's controller, which unpickles the same: it takes seconds."""
    code = (
        "import sys, avader.pipelines.train as train; print(train.work, train.WorkerTask);"
        "print(*({'sklearn', 'matplotlib', 'tensorboardX', 'astropy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == ""


def test_a_finished_model_is_not_trained_again(whole, data, caplog):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, whole, workers=1))
    assert "trained to the end" in caplog.text
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_masks_that_fill_their_frames_leave_a_model_without_noise(ray_session, tmp_path, caplog):
    pixels = np.full((20, 1, 16, 16), 200, np.uint8)
    data = write_packed(tmp_path / "packed", pixels, masks=True)
    short = {"gamma_epochs": 1, "periods": 1, "annealing_epochs": 1, "static_epochs": 0}
    recipe = changed(outside_weight=0.5, schedule=short)
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, tmp_path / "model", recipe, workers=1))
    assert "no noise is kept: wanted pixels outside of the sources, got none" in caplog.text
    assert read_model(str(tmp_path / "model")).card["result"]["epochs"] == 2
    assert not has_noise(str(tmp_path / "model"))


def test_two_workers_follow_one(whole, data, ray_session, tmp_path, caplog):
    """The same loss to a relative 1e-3, in the gamma phase and with the mixture."""
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, tmp_path / "two", workers=2))
    for one, two in zip(history(whole), history(tmp_path / "two"), strict=True):
        for name in ("loss", "reconstruction"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-3), one["epoch"]
    noises = [read_noise(str(folder)).spectrum for folder in (whole, tmp_path / "two")]
    assert noises[1].mean() == pytest.approx(noises[0].mean(), rel=1e-2)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "a pixel (rms), measured on 60 images" in line]) == 1
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
        (changed(mixture={"components": 3, "initial_rows": 2}), "wanted at least 3, one for each"),
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


def test_a_folder_with_another_model_is_refused(data, tmp_path):
    """Else it would be said to be trained to the end."""
    out = write_tiny_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"wanted an empty output folder, got .* with card\.json"):
        train.run(settings(data, out))
    assert not (tmp_path / "model" / "plan.json").exists()


@pytest.mark.parametrize("joined", [True, False])
def test_more_workers_than_gpus(data, monkeypatch, caplog, joined):
    """They would wait for ever; where others may join, that is said."""
    caplog.set_level(logging.INFO, "avader")
    nodes = [{"Alive": True, "Resources": {"GPU": 2.0, "CPU": 8.0}}]
    monkeypatch.setattr(train.ray, "nodes", lambda: nodes)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = settings(data, "out", device="gpu", workers=4, address="auto" if joined else None)
    if joined:
        assert train._scaling(given).num_workers == 4
        assert "4 workers want a GPU each, the cluster has 2: waiting" in caplog.text
        return
    with pytest.raises(InputError, match="wanted 4 GPUs, one a worker, got 2; lower --workers"):
        train._scaling(given)
