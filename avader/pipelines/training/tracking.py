"""A training's record in MLflow, kept by the driver: settings, metrics, files at the end.

It is copied from the output folder (training/metrics.csv and the files), epochs that the run has
already are left out, and the run's id is kept in training/mlflow.json: a driver that was killed
goes on with the same run. An MLflow that fails in mid-training costs a line, never the training.
"""

import importlib.util
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avader.errors import InputError
from avader.io import storage
from avader.io.models import FILES, NOISE, has_noise
from avader.pipelines.progress import say
from avader.recipe import Recipe
from avader.report.history import Row, from_csv

EVERY = 5.0
"""Seconds between looks at the table of metrics."""
EXPERIMENT = "avader"
# A server that cannot be reached is told of within seconds, not minutes; and nothing is sent to
# anyone but the server that was asked for. Both can be set otherwise in the environment.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class Tracking:
    """One run in MLflow, of the training in the folder URI `out`; use `open_tracking`."""

    def __init__(self, client: Any, run: str, out: str) -> None:
        self.client, self.run, self.out = client, run, out
        logged = client.get_metric_history(run, "loss")
        self.epochs = max((metric.step for metric in logged), default=0)

    def catch_up(self) -> None:
        """Log the epochs that the table has and the run has not."""
        from mlflow.entities import Metric

        table = storage.join(self.out, "training", "metrics.csv")
        rows = from_csv(storage.read_text(table)) if storage.exists(table) else []
        for row in rows:
            epoch, now = int(row["epoch"]), int(1000 * time.time())
            if epoch > self.epochs:
                metrics = [Metric(name, value, now, epoch) for name, value in _numbers(row).items()]
                self.client.log_batch(self.run, metrics=metrics)
                self.epochs = epoch

    def finish(self) -> None:
        """Log what is missing and the files of the finished training, and end the run; once."""
        if self.client.get_run(self.run).info.status == "FINISHED":
            return
        self.catch_up()
        for uri in storage.list_files(storage.join(self.out, "training"), (".csv", ".png")):
            if "/checkpoints/" not in uri:
                self._upload(uri, "training/phases" if "/phases/" in uri else "training")
        for name in (*FILES, *([NOISE] if has_noise(self.out) else [])):
            self._upload(storage.join(self.out, name), "model")
        self.client.set_terminated(self.run)

    def _upload(self, uri: str, folder: str) -> None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / uri.rpartition("/")[2]
            path.write_bytes(storage.read_bytes(uri))
            self.client.log_artifact(self.run, str(path), folder)


def require_mlflow() -> None:
    """Raise InputError where the package is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise InputError(
            "wanted the package mlflow-skinny for --mlflow, got an environment without it; "
            'install it with `pip install "avader[mlflow]"`, or leave --mlflow out'
        )


def open_tracking(uri: str, *, out: str, recipe: Recipe, name: str) -> Tracking:
    """The run of this training at a tracking URI: the one begun before, or a new one.

    name: the recipe's. Raises InputError where MLflow is not installed or the URI not usable.
    """
    require_mlflow()
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        run = _known_run(client, uri, out) or _new_run(client, uri, out, recipe, name)
        return Tracking(client, run, out)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"--mlflow: wanted a tracking URI that can be used, got {storage.public_uri(uri)}: "
            f"{error}"
        ) from error


def _known_run(client: Any, uri: str, out: str) -> str | None:
    """Id of the run that an earlier driver of this training began there."""
    path = _note(out)
    if not storage.exists(path):
        return None
    note = json.loads(storage.read_bytes(path))
    if note["tracking_uri"] != storage.public_uri(uri):
        return None
    return str(note["run_id"])


def _new_run(client: Any, uri: str, out: str, recipe: Recipe, name: str) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run = client.create_run(number, run_name=f"{name} {out.rstrip('/').rpartition('/')[2]}")
    for key, value in flat(recipe.model_dump(mode="json")).items():
        client.log_param(run.info.run_id, key, value)
    client.log_param(run.info.run_id, "out", storage.public_uri(out))
    note = {"run_id": run.info.run_id, "tracking_uri": storage.public_uri(uri)}
    storage.write_bytes(_note(out), (json.dumps(note, indent=1) + "\n").encode())
    return str(run.info.run_id)


def _note(out: str) -> str:
    return storage.join(out, "training", "mlflow.json")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names: "network.size"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        found |= inner if inner is not None else {prefix + name: value}
    return found


def _numbers(row: Row) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and name != "epoch"
    }


@contextmanager
def following(tracking: Tracking | None) -> Iterator[None]:
    """Log epochs as they come for as long as the block runs, the files when it has ended well.

    None does nothing.
    """
    if tracking is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(tracking, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    complete(tracking)


def complete(tracking: Tracking | None) -> None:
    """Finish the run of a training that is done, where there is one."""
    if tracking is None:
        return
    try:
        tracking.finish()
    except Exception as error:  # noqa: BLE001 - the model is whole, whatever MLflow says
        say(f"MLflow did not take the end of this run: {error}; the same command tries again")


def _follow(tracking: Tracking, stop: threading.Event) -> None:
    """Until stopped; what fails is said once and tried again."""
    told = False
    while not stop.wait(EVERY):
        try:
            tracking.catch_up()
        except Exception as error:  # noqa: BLE001 - a server's trouble is no end of a training
            if not told:
                say(f"  MLflow does not take metrics for now: {error}")
            told = True
        else:
            told = False
