"""`train`: packed cutouts become a model folder, on Ray Train.

Below the output folder: plan.json (what it is for), training/checkpoints (from which the same
command goes on after anything was killed), what a training shows (see sight.py), and the
model's own files, written last.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pyarrow.fs
import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from avader.config import TrainSettings
from avader.errors import InputError, TrainingError
from avader.io import growth, manifest, storage
from avader.io.manifest import Manifest
from avader.io.models import CARD, read_model
from avader.model.schedule import total_epochs
from avader.pipelines.board import Board, reading
from avader.pipelines.cluster import address_of, cluster
from avader.pipelines.holding import holding
from avader.pipelines.progress import say
from avader.pipelines.training import tracking
from avader.pipelines.training.given import WorkerTask, work
from avader.pipelines.training.memory import check_memory
from avader.plan import Plan
from avader.recipe import Recipe

RUN_NAME = "ray"
"""Folder of Ray Train's own files, below training/."""
RESIZE_EVERY = 60.0
"""Seconds between looks for room for more workers, where more are allowed."""
PATIENCE = 3 * 3600
"""Seconds that workers wait for one another; the first one reads all images for the first mixture.
A connection that hangs, and does not break, is seen after as long."""

# Threads that wait by spinning cost four fifths of the speed where a machine is shared.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

# Settings of a recipe that change no number of the model.
ASIDE = {"checkpoint_epochs", "checkpoint_steps", "search"}


def run(settings: TrainSettings) -> None:
    """Train to the end of the schedule, or go on with what was begun, or say that it is done.

    Raises InputError for bad input before any work, TrainingError where training cannot go on,
    BusyError where another run works in the output folder.
    """
    out, data = storage.absolute(settings.out), storage.absolute(settings.data)
    recipe = recipe_of(settings)
    cutouts = growth.read_whole(data, kind="cutouts")
    check(recipe, cutouts)
    _check_start(recipe)
    if settings.mlflow is not None:
        tracking.require_mlflow()
    if settings.memory_limit and settings.workers:
        world = settings.workers
        check_memory(cutouts, recipe, gibibytes=settings.memory_limit, world=world)
    manifest.open_plan(out, plan(recipe, cutouts))
    record = _record(settings, recipe, out)
    with holding(out, lambda: storage.exists(storage.join(out, CARD))) as unfinished:
        if unfinished:
            with cluster(settings), tracking.following(record):
                task = WorkerTask(
                    recipe=recipe,
                    name=settings.recipe,
                    data=cutouts,
                    out=out,
                    memory_limit=settings.memory_limit,
                )
                _train(settings, task)
    if not unfinished:
        digest = read_model(out).digest
        say(f"{settings.out} holds this model, trained to the end ({digest[:12]}): nothing to do")
        tracking.complete(record)
        return
    occupancy = read_model(out).card["result"]["occupancy"]
    say(f"trained: {settings.out}; images per component: {' '.join(map(str, occupancy))}")


def _record(settings: TrainSettings, recipe: Recipe, out: str) -> tracking.Tracking | None:
    """The training's run in MLflow, where one is asked for."""
    if settings.mlflow is None:
        return None
    uri = settings.mlflow
    where = uri if ":" in uri else storage.absolute(uri)
    return tracking.open_tracking(where, out=out, recipe=recipe, name=settings.recipe)


def recipe_of(settings: Recipe) -> Recipe:
    """The recipe's part of a training's or a search's settings."""
    return Recipe(**{name: getattr(settings, name) for name in Recipe.model_fields})


def plan(recipe: Recipe, cutouts: Manifest) -> Plan:
    """What decides the model: the recipe and the packed images, wherever they lie."""
    return Plan(
        kind="model",
        settings={
            "recipe": recipe.model_dump(mode="json", exclude=ASIDE),
            "data": {"digest": cutouts.digest, "rows": cutouts.totals["rows"]},
        },
    )


def check(recipe: Recipe, cutouts: Manifest) -> None:
    """Raise InputError where the recipe doesn't fit the images."""
    rows, uri = cutouts.totals["rows"], storage.public_uri(cutouts.uri)
    if not rows:
        raise InputError(f"wanted images to train on, got none in {uri}; see its rejects/")
    bands, height, width = cutouts.settings["shape"]
    network = recipe.network
    if (network.bands, network.size, network.size) != (bands, height, width):
        raise InputError(
            f"the network wants {network.bands} x {network.size} x {network.size} px (bands x "
            f"height x width), {uri} holds {bands} x {height} x {width}; set --network.bands and "
            "--network.size, or pack with --preprocessing.bands and --preprocessing.size"
        )
    held_out = round(rows * recipe.held_out)
    if recipe.held_out and not held_out:
        raise InputError(
            f"--held-out {recipe.held_out} of {rows} images in {uri} is none; give more, or 0"
        )
    training = rows - held_out
    if recipe.components > training:
        raise InputError(
            f"wanted at most one component per image, got {recipe.components} components "
            f"and {training} images in {uri}; lower --mixture.components or pack more"
        )
    masked = cutouts.settings["preprocessing"].get("source_mask", False)
    if recipe.outside_weight < 1 and not masked:
        raise InputError(
            f"--outside-weight {recipe.outside_weight} wants source masks, {uri} has none; pack "
            "with --preprocessing.source-mask, or train with --outside-weight 1"
        )


def _check_start(recipe: Recipe) -> None:
    """Raise InputError where the first mixture would have fewer images than components.

    Not in `check`: of a search it is the trial that fails.
    """
    if recipe.mixture.initial_rows < recipe.components:
        raise InputError(
            f"--mixture.initial-rows: wanted at least {recipe.components}, one for each component, "
            f"got {recipe.mixture.initial_rows}"
        )


def _train(settings: TrainSettings, task: WorkerTask) -> None:
    """Run Ray Train to the end, saying what its workers write."""
    scaling, board = _scaling(settings), Board()
    storage_path, filesystem = _place(task.out)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    say(
        f"training {task.name} on {task.data.totals['rows']:,} images for "
        f"{total_epochs(task.recipe.schedule)} epochs: {_workers(scaling)} "
        f"{'GPU' if scaling.use_gpu else 'CPU'} worker(s)"
    )
    trainer = TorchTrainer(
        work,
        train_loop_config={"task": task, "notices": board.notices},
        torch_config=TorchConfig(timeout_s=PATIENCE),
        scaling_config=scaling,
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=settings.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    try:
        with reading(board):
            _in_thread(trainer.fit)
    except TrainingFailedError as error:
        raise TrainingError(
            f"the training stopped after {settings.max_failures} restarts: {error}. The same "
            "command goes on from the last checkpoint."
        ) from error
    failure = board.say_all()
    if failure is not None:
        raise TrainingError(failure)


def _in_thread(work: Callable[[], object]) -> None:
    """Do the work in a thread of its own, so that Ctrl-C is the main thread's.

    In the main thread Ray Train takes it for itself, and ends the process without a word.
    """
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            ended.put(error)
        else:
            ended.put(None)

    # A daemon, since after Ctrl-C nobody waits for it.
    threading.Thread(target=run, daemon=True).start()
    error = ended.get()
    if error is not None:
        raise error


def _place(out: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """Path and file system of Ray Train's storage below an output folder."""
    filesystem, path = storage.arrow_filesystem(storage.join(out, "training"))
    return path, None if storage.is_local(out) else filesystem


def _scaling(settings: TrainSettings) -> ScalingConfig:
    """Workers and what each one gets: a GPU, or all CPUs of its part of a machine.

    As many workers as GPUs by default, or one per machine with CPUs, because one worker with two
    threads is faster than two workers with one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if settings.device == "gpu" and not gpus:
        raise InputError("wanted GPUs (--device gpu), got a cluster without; use --device auto")
    use_gpu = settings.device != "cpu" and gpus > 0
    kind = "GPU" if use_gpu else "CPU"
    hosts = [node for node in nodes if node.get(kind, 0) >= 1]
    workers = settings.workers or (gpus if use_gpu else max(1, len(hosts)))
    if use_gpu and workers > gpus:
        _check_gpus(workers, gpus, joined=bool(address_of(settings)))
    share: dict[str, Any] = {"CPU": cpus_each(hosts, workers, use_gpu)}
    if settings.max_workers and settings.max_workers < workers:
        raise InputError(
            f"wanted --max-workers of at least the {workers} workers that begin, got "
            f"{settings.max_workers}; lower --workers or raise --max-workers"
        )
    return ScalingConfig(
        num_workers=(workers, settings.max_workers) if settings.max_workers else workers,
        use_gpu=use_gpu,
        resources_per_worker=share,
        elastic_resize_monitor_interval_s=RESIZE_EVERY,
    )


def _check_gpus(workers: int, gpus: int, *, joined: bool) -> None:
    """Say that workers wait for GPUs, which may come where this Ray is a cluster's.

    Raises InputError where it is this machine's own.
    """
    if not joined:
        raise InputError(f"wanted {workers} GPUs, one a worker, got {gpus}; lower --workers")
    say(f"  {workers} workers want a GPU each, the cluster has {gpus}: waiting until it has more")


def _workers(scaling: ScalingConfig) -> str:
    """How many workers there will be: "2", or "1 to 4"."""
    number = scaling.num_workers
    return str(number) if isinstance(number, int) else f"{number[0]} to {number[1]}"


def cpus_each(hosts: list[dict[str, float]], workers: int, use_gpu: bool) -> int:
    """The most CPUs that each worker can have so that all find room; at least 1."""
    most = int(max((host.get("CPU", 1) for host in hosts), default=1))
    for cpus in range(most, 1, -1):
        room = [int(host.get("CPU", 0) // cpus) for host in hosts]
        if use_gpu:
            room = [min(n, int(host["GPU"])) for n, host in zip(room, hosts, strict=True)]
        if sum(room) >= workers:
            return cpus
    return 1
