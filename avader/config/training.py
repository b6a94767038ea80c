"""What makes models: training, a search for recipes, the published weights."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliSuppress

from avader.config.base import ClusterSettings, JobSettings
from avader.ranges import Range
from avader.recipe import Positive, Recipe


class TrainSettings(ClusterSettings, Recipe):  # type: ignore[misc]  # two kinds of model_config
    """Train a model on packed cutouts.

    The defaults shown are of what the recipe and its mode leave out.
    """

    data: str
    """Folder URI of packed cutouts."""
    out: str
    """Folder URI for the model; checkpoints and metrics go to training/ below it."""
    recipe: str = "galaxies-64"
    """Name of a built-in recipe (demo, galaxies-64, mnist, paper) or the URI of a TOML file."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where workers train; auto takes GPUs where the cluster has them."""
    max_workers: int = Field(0, ge=0)
    """Workers that the training grows to as machines join the cluster; it goes on with as few as
    `workers` when they leave. 0 keeps to `workers`."""
    memory_limit: float = Field(0.0, ge=0)
    """Most memory that a worker takes for images, GiB: what does not fit is streamed from the
    shards, with the same numbers. 0 takes the worker's part of half the memory that is free."""
    max_failures: int = Field(3, ge=-1)
    """Restarts after lost workers before the run gives up; -1 never gives up."""
    mlflow: str | None = None
    """Tracking URI of MLflow, such as http://host:5000, for a record of the run (needs the extra
    `mlflow`); none keeps none."""
    search: CliSuppress[dict[str, Range]] = Field({})
    """Left aside: what `avader tune` searches."""


class TuneSettings(ClusterSettings, Recipe):  # type: ignore[misc]  # two kinds of model_config
    """Search a recipe's ranges for the best recipe, by images held out and without a label.

    Every trial is a training with values that Optuna's TPE chooses from the recipe's table
    [search]; those that lag at the same epoch end early. The score is a bound on log p(x) of
    images held out, in nats: -(reconstruction / w + KL), with w the recipe's own kl_weight in all
    trials (the squared error over w is that of a Gaussian of variance w / 2 a pixel), less
    collapse_penalty x log(K / 2 / effective components) where those are below K / 2. Terms outside
    the bound, such as contrast, are not rewarded: a search over their weight would lower it.

    The defaults shown are of what the recipe and its mode leave out.
    """

    data: str
    """Folder URI of packed cutouts."""
    out: str
    """Folder URI for trials.csv (a row a trial) and best.toml (the best recipe)."""
    recipe: str = "galaxies-64"
    """Name of a built-in recipe with a table [search] (demo, galaxies-64, mnist), or the URI of a
    TOML file with one. At least 0.1 of the images are held out."""
    trials: Positive = 20
    """Trials in all; more than a finished search had go on with it."""
    collapse_penalty: float = Field(100.0, ge=0)
    """Nats off the score for each factor e by which effective components are below K / 2."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where trials train; auto takes GPUs where the cluster has them."""
    workers: int = Field(0, ge=0)
    """Trials at once, each on one GPU or its part of the CPUs; 0 takes one per GPU or CPU, but at
    most a fifth of the trials, since TPE learns from those that have ended."""
    memory_limit: float = Field(0.0, ge=0)
    """Most memory that a trial takes for images, GiB: what does not fit is streamed from the
    shards, with the same numbers. 0 takes the trial's part of half the memory that is free."""
    max_failures: int = Field(3, ge=-1)
    """Restarts of a trial whose worker was lost; -1 never gives up."""


class ImportPublishedSettings(JobSettings):
    """Turn the paper's Keras weights into a model folder (needs the extra `published`)."""

    weights: str
    """URI of saved_weights.h5."""
    out: str
    """Folder URI for the model."""
    data: str | None = None
    """Folder URI of packed cutouts, by 2,000 of which at most the survey's noise is measured; also
    for a model that is there already. None keeps no noise."""
    accept_mismatch: tuple[str, ...] = ()
    """Preprocessing settings that may differ between `data` and model, such as crop; recorded."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.accept_mismatch and self.data is None:
            raise ValueError("accept_mismatch: only with --data; leave it out")
        return self
