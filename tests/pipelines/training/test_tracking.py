"""MLflow: a run that is the table and the files, goes on after a restart, and harms nothing."""

import importlib.util
import json
import logging
import time

import pytest

from avader.errors import InputError
from avader.pipelines.training import tracking
from avader.pipelines.training.tracking import following, open_tracking
from avader.report.history import to_csv
from tests.report.histories import DEMO, history
from tests.training.tiny import RECIPE

INSTALLED = importlib.util.find_spec("mlflow") is not None
with_mlflow = pytest.mark.skipif(
    not INSTALLED, reason="mlflow-skinny is not installed (the extra `mlflow`)"
)


def write(out, epochs: int) -> None:
    """What a training has written after so many epochs."""
    (out / "training" / "phases").mkdir(parents=True, exist_ok=True)
    (out / "training" / "metrics.csv").write_bytes(to_csv(history(DEMO, epochs)))
    (out / "training" / "curves.png").write_bytes(b"curves")
    (out / "training" / "phases" / "01-gamma.png").write_bytes(b"gamma")
    for name in tracking.MODEL_FILES:
        (out / name).write_text(name)


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path / 'store'}"


def opened(store, out):
    return open_tracking(store, out=str(out), recipe=RECIPE, name="tiny")


def steps(run, name="loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in run.client.get_metric_history(run.run, name)]


def test_without_the_package_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"wanted the package mlflow-skinny .*avader\[mlflow\]"):
        opened("file:///nowhere", tmp_path)
    assert list(tmp_path.iterdir()) == []


@with_mlflow
def test_a_run_goes_on_after_a_restart_and_has_every_epoch_once(store, tmp_path):
    out = tmp_path / "model"
    write(out, 3)
    first = opened(store, out)
    first.catch_up()
    write(out, 5)
    again = opened(store, out)
    assert again.run == first.run
    again.catch_up()
    again.catch_up()
    assert steps(again) == [(n, 120.0 / n) for n in range(1, 6)]
    run = again.client.get_run(again.run)
    assert run.data.params["network.size"] == "16"
    assert run.info.status == "RUNNING"
    assert json.loads((out / "training" / "mlflow.json").read_text())["run_id"] == first.run


@with_mlflow
@pytest.mark.parametrize("noise", [(), ("noise.safetensors",)])
def test_the_end_has_the_files_and_comes_once(store, tmp_path, noise):
    write(tmp_path, 4)
    for name in noise:
        (tmp_path / name).write_text(name)
    run = opened(store, tmp_path)
    run.finish()
    listed = [
        [item.path for item in run.client.list_artifacts(run.run, folder)]
        for folder in ("training", "training/phases", "model")
    ]
    assert listed[0] == [f"training/{name}" for name in ("curves.png", "metrics.csv", "phases")]
    assert listed[1] == ["training/phases/01-gamma.png"]
    assert sorted(listed[2]) == sorted(f"model/{name}" for name in (*tracking.MODEL_FILES, *noise))
    ended = run.client.get_run(run.run).info
    assert ended.status == "FINISHED"
    opened(store, tmp_path).finish()
    assert run.client.get_run(run.run).info.end_time == ended.end_time
    assert len(steps(run)) == 4


@with_mlflow
def test_another_store_gets_a_run_of_its_own(store, tmp_path):
    write(tmp_path, 2)
    first, other = opened(store, tmp_path), opened(f"{store}-2", tmp_path)
    assert first.run != other.run
    other.catch_up()
    assert len(steps(other)) == 2


@with_mlflow
def test_epochs_are_logged_as_they_come(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "EVERY", 0.02)
    run = opened(store, tmp_path)
    with following(run):
        write(tmp_path, 2)
        deadline = time.monotonic() + 20
        while run.epochs < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write(tmp_path, 3)
    assert [step for step, _ in steps(run)] == [1, 2, 3]
    assert run.client.get_run(run.run).info.status == "FINISHED"


@with_mlflow
def test_a_training_that_fails_is_no_finished_run(store, tmp_path):
    run = opened(store, tmp_path)
    with pytest.raises(ZeroDivisionError), following(run):
        raise ZeroDivisionError
    assert run.client.get_run(run.run).info.status == "RUNNING"


@with_mlflow
def test_a_server_that_goes_away_costs_lines(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "EVERY", 0.01)
    run = opened(store, tmp_path)
    write(tmp_path, 2)

    def gone(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(run.client, "log_batch", gone)
    with caplog.at_level(logging.INFO, "avader"), following(run):
        time.sleep(0.3)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "  MLflow does not take metrics for now: no route",
        "MLflow did not take the end of this run: no route; the same command tries again",
    ]


@with_mlflow
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sky://here"])
def test_a_uri_that_cannot_be_used(uri, tmp_path):
    with pytest.raises(InputError, match=r"--mlflow: wanted a tracking URI that can be used, got"):
        opened(uri, tmp_path)
