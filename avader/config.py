"""Settings of every job: typed, checked, each with its meaning and unit.

A setting comes, strongest first, from the command line, the environment (AVADER_...), the TOML
text of `--config`, the recipe (train and tune) and the default here. This room opens no file: the
caller gives the text.
"""

import argparse
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSuppress,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from avader.errors import InputError
from avader.ranges import Range
from avader.recipe import Positive, Preprocessing, Recipe, Section

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class JobSettings(BaseSettings):
    """What every verb takes."""

    model_config = SettingsConfigDict(
        env_prefix="AVADER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: str | None = None
    """URI of a TOML file with any of these settings."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment is stronger than the TOML text, which comes as init arguments."""
        return env_settings, init_settings


class ClusterSettings(JobSettings):
    """What every verb that runs on Ray takes."""

    address: str | None = None
    """Address of a Ray cluster; none: RAY_ADDRESS, or a Ray of this machine alone."""
    workers: int = Field(0, ge=0)
    """Worker processes; 0 takes one per CPU, or one per GPU for work on GPUs (train on CPUs: one
    per machine, with all its CPUs)."""


@dataclass(frozen=True)
class Machine:
    """A type of machine. price: of an hour. rate: objects a second."""

    name: str
    price: float
    rate: float


class UnitSettings(ClusterSettings):
    """What every verb that works by units (shards) takes."""

    out: str
    """Folder URI of what is made."""
    stall_limit: float = Field(1800.0, gt=0)
    """Seconds that a unit may take in one of its stages: then its worker is ended and the unit
    tried again. A unit that fails three times is set aside, and the run ends with exit code 3."""
    dry_run: bool = False
    """Say how many units, bytes, how much time and money it would take, and do nothing else."""
    machine: tuple[str, ...] = ()
    """For --dry-run: types of machine as NAME:PRICE:RATE, the price of an hour and the objects a
    second that one does, such as g5.xlarge:1.006:4000."""

    @property
    def machines(self) -> list[Machine]:
        """The types of machine, in the order given."""
        return [_machine(text) for text in self.machine]

    @field_validator("machine")
    @classmethod
    def _check_machines(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            _machine(text)
        return given


def _machine(text: str) -> Machine:
    """A type of machine from NAME:PRICE:RATE. Raises ValueError."""
    name, *numbers = text.split(":")
    try:
        price, rate = (float(number) for number in numbers)
    except ValueError:
        price = rate = math.nan
    if not name or not price >= 0 or not 0 < rate < math.inf:
        raise ValueError(f"wanted NAME:PRICE:RATE such as g5.xlarge:1.006:4000, got {text!r}")
    return Machine(name, price, rate)


class SimulateSettings(JobSettings):
    """Draw a mock survey of galaxies with known truth (needs the extra `mock`)."""

    out: str
    """Folder URI for the cutouts and the table survey.parquet."""
    count: Positive = 3000
    """Galaxies."""
    size: int = Field(64, ge=16, le=1024)
    """Side of a cutout, px."""
    seed: Seed = 0
    """Seed: the same seed draws the same survey, galaxy by galaxy."""
    broken: int = Field(6, ge=0)
    """Cutouts, of the count, that are broken on purpose, in turn of each kind."""


class ServiceSettings(Section):
    """A survey service that cuts out the images of a table of positions."""

    name: Literal["none", "sdss", "legacy"] = "none"
    """sdss: ImgCutout of SkyServer. legacy: the viewer of the Legacy Surveys. The source is then a
    Parquet table of ids and positions, without images."""
    layer: str = ""
    """Layer of the Legacy Surveys, ls-dr10 by default; for SDSS the data release, dr17."""
    size: Positive = 256
    """Side of the cutouts that are asked for, px: 64 to 2048 of SDSS, at most 3000 of the Legacy
    Surveys."""
    scale: float = Field(0.0, ge=0)
    """Scale, arcsec/px; or, with scale_column, in units of that column per px, such as 0.02. 0
    takes the survey's own pixels: 0.396127 of SDSS, 0.262 of the Legacy Surveys."""
    scale_column: str | None = None
    """Table column, arcsec, that sets each cutout's scale, such as petroR90_r."""
    format: Literal["jpeg", "fits"] = "jpeg"
    """jpeg: colour images as the survey makes them. fits: fluxes, of the Legacy Surveys."""
    bands: str = ""
    """Bands of the Legacy Surveys, a letter each, grz by default."""
    rate: float = Field(3.0, gt=0, le=1000)
    """Most requests per second, of all workers together. Ask the survey before you raise it."""
    patience: float = Field(600.0, gt=0)
    """Seconds that one object is asked for again, while the service fails, before the run ends."""
    url: str | None = None
    """Address of a mirror of the service, such as https://host; none is the survey's own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        set_here = sorted(self.model_fields_set - {"name"})
        if self.name == "none" and set_here:
            raise ValueError(f"name: wanted sdss or legacy with {', '.join(set_here)}, got none")
        if self.name == "sdss" and not 64 <= self.size <= 2048:
            raise ValueError(f"size: wanted 64 to 2048 px of SDSS, got {self.size}")
        if self.name == "sdss" and (self.format, self.bands) != ("jpeg", ""):
            raise ValueError("format: wanted jpeg, with bands left out, of SDSS, got others")
        if self.name == "legacy" and self.size > 3000:
            raise ValueError(f"size: wanted at most 3000 px of the Legacy Surveys, got {self.size}")
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: wanted distinct letters, got {self.bands}")
        if self.scale_column is not None and not self.scale:
            raise ValueError(
                f"scale: wanted it in units of {self.scale_column} per px, such as 0.02, got none"
            )
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: wanted http://host or https://host, got {self.url}")
        return self


class PackSettings(UnitSettings):
    """Pack cutouts into shards of model-ready pixels."""

    source: str
    """A folder or glob of PNG, JPEG or FITS files, or a Parquet table of image bytes or paths, or
    of positions for a survey service."""
    out: str
    """Folder URI for the shards and their manifest."""
    like: str | None = None
    """URI of a model folder whose preprocessing is taken; `--preprocessing.*` overrides it."""
    id_column: str = "object_id"
    """Table column with the object's id; files have their path below the source, less suffix."""
    ra_column: str | None = None
    """Table column with right ascension, degrees ICRS; none takes `ra` if it is there."""
    dec_column: str | None = None
    """Table column with declination, degrees ICRS; none takes `dec` if it is there."""
    image_column: str = "image"
    """Table column with the image: bytes, or paths relative to the table."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """Part of a table to pack, decided by each id's hash: 159,600, 5,000 and 41,100 of the paper's
    205,700 galaxies, in proportion of any other number. The others are left out, not refused."""
    min_votes: int = Field(0, ge=0)
    """Least votes of the rows to pack: 37 for Galaxy Zoo 2 as in the paper; 0 takes all rows. A
    split is of those that are left."""
    votes_column: str = "total_classifications"
    """Table column with the votes, of Galaxy Zoo 2 those on the first question."""
    rows_per_shard: int = Field(0, ge=0)
    """Objects of the source that make one shard; 0 takes 1000, or 100 from a survey service, since
    a run that was stopped asks again for the shards it had not finished."""
    service: ServiceSettings = ServiceSettings()
    """Where the images of a table of positions come from."""
    preprocessing: Preprocessing = Preprocessing()
    """From bytes to pixels."""


class TrainSettings(ClusterSettings, Recipe):  # type: ignore[misc]  # two kinds of model_config
    """Train a model on packed cutouts."""

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
    search: CliSuppress[dict[str, Range]] = {}
    """Left aside: what `avader tune` searches."""


class TuneSettings(ClusterSettings, Recipe):  # type: ignore[misc]  # two kinds of model_config
    """Search a recipe's ranges for the best recipe, by images held out and without a label.

    Every trial is a training with values that Optuna's TPE chooses from the recipe's table
    [search]; those that lag at the same epoch end early. The score is a bound on log p(x) of
    images held out, in nats: -(reconstruction / w + KL), with w the recipe's own kl_weight in all
    trials (the squared error over w is that of a Gaussian of variance w / 2 a pixel), less
    collapse_penalty x log(K / 2 / effective components) where those are below K / 2. Terms outside
    the bound, such as contrast, are not rewarded: a search over their weight would lower it.
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


class InferenceSettings(UnitSettings):
    """What verbs that run a trained model take."""

    model: str
    """Folder URI of the model."""
    out: str
    """Folder URI for the catalogue."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; bfloat16 is faster and changes probabilities slightly."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What the network runs on, part of the plan since the last bits depend on it."""
    tile: Positive = 16
    """Images the network computes at once; fixed for a catalogue, the last tile is padded."""


class ClassifySettings(InferenceSettings):
    """Classify packed cutouts into a catalogue of morphological components."""

    data: str
    """Folder URI of packed cutouts."""
    batch: Positive = 64
    """Images a worker reads into memory at once; changes no number."""
    reconstruction: bool = True
    """Decode again for reconstruction_error; --no-reconstruction leaves it null, saves time."""
    stability: bool = False
    """Add the column stability: the share of each image's 8 flips and quarter turns with the same
    component. Costs 8 encodes an image instead of 1. Canonical cutouts are turned out of their
    canonical frame: it then tells how much the component hangs on the orientation found."""
    accept_mismatch: tuple[str, ...] = ()
    """Preprocessing settings that may differ from the model's, such as crop; recorded."""
    summary_url: str | None = None
    """Address that the summary at the end is posted to, as JSON, its lines in `text`."""

    @field_validator("summary_url")
    @classmethod
    def _check_address(cls, given: str | None) -> str | None:
        if given is not None and not given.startswith(("http://", "https://")):
            raise ValueError(f"wanted http://... or https://..., got {given}")
        return given


class GenerateSettings(InferenceSettings):
    """Draw a synthetic catalogue from a model's mixture."""

    count: Positive
    """Objects."""
    seed: Seed = 0
    """Seed of the synthetic sky: object i is the same whatever the count."""
    components: tuple[int, ...] = ()
    """Components to draw from, by number from 0, with their weights renormalised; empty: all."""
    variance_scale: float = Field(1.0, gt=0)
    """Factor on the components' variances (the paper's figures used 0.5)."""
    orientation: Literal["canonical", "random"] = "canonical"
    """canonical: images as the model draws them. random: each object is put on the sky at a random
    angle and flips, which become columns; for models of canonical cutouts."""
    rows_per_shard: Positive = 10_000
    """Objects of a shard."""


class VerifySettings(JobSettings):
    """Check a catalogue or packed data: counts, digests, schema, duplicates, probabilities."""

    catalogue: str
    """Folder URI of a catalogue or of packed cutouts."""


class ReportSettings(JobSettings):
    """Write a self-contained page about a catalogue and its model."""

    model: str
    """Folder URI of the model."""
    catalogue: str
    """Folder URI of the classified catalogue."""
    data: str | None = None
    """Folder URI of the packed cutouts; none takes the one the catalogue was made from."""
    frame: Literal["stored", "sky", "canonical"] = "stored"
    """How galaxies are shown: as they are packed; put back on the sky; or canonical, which only
    cutouts packed so can be."""
    out: str
    """Folder for index.html."""


class ExportSettings(JobSettings):
    """Write chosen rows of a catalogue as FITS, VOTable or CSV, for TOPCAT and other tools.

    Rows are written that satisfy all of ids, cone, component and min_probability; without any, all
    rows. Where none does, the table is written without rows. Pixels are left out. The rows written
    are held in memory.
    """

    catalogue: str
    """Folder URI of a classified or synthetic catalogue, or of packed cutouts."""
    out: str
    """URI of the file, which ends with .fits, .vot, .xml or .csv; replaced, whole, where it is
    there already. A CSV gets its units, meanings and citation in a text beside it, OUT.txt."""
    format: Literal["fits", "votable", "csv"] | None = None
    """Format of the file; none takes the one of its ending."""
    ids: str | None = None
    """Objects wanted: URI of a file with an id a line, or, where no such file is there, the ids
    themselves, with commas between. Of a synthetic catalogue: its indices."""
    cone: tuple[float, ...] = ()
    """RA,DEC,RADIUS of positions wanted: the centre in degrees ICRS, the radius in arcsec. With a
    negative RA: --cone=-1,2,60."""
    component: tuple[int, ...] = ()
    """Components wanted, by number from 0."""
    min_probability: float | None = Field(None, ge=0, le=1)
    """Least probability of an object's own component."""
    columns: tuple[str, ...] = ()
    """Columns wanted, in their order in the file; empty: all but the pixels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.cone:
            return self
        ra, dec, radius = self.cone if len(self.cone) == 3 else (math.nan,) * 3
        if not (-360 <= ra <= 360 and -90 <= dec <= 90 and 0 < radius <= 180 * 3600):
            raise ValueError(
                "cone: wanted RA,DEC,RADIUS, with RA in -360..360 and Dec in -90..90 degrees and a "
                f"radius above 0, at most 648000 arcsec, got {','.join(map(str, self.cone))}"
            )
        return self


SETTINGS: Mapping[str, type[JobSettings]] = {
    "simulate": SimulateSettings,
    "pack": PackSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "import-published": ImportPublishedSettings,
    "classify": ClassifySettings,
    "generate": GenerateSettings,
    "verify": VerifySettings,
    "report": ReportSettings,
    "export": ExportSettings,
}

ReadText = Callable[[str], str]


def parse(
    verb: str,
    arguments: Sequence[str],
    *,
    read_text: ReadText,
    recipe_text: ReadText,
) -> JobSettings:
    """Settings of a verb from its command-line arguments.

    read_text gives the text behind a URI, recipe_text the text of a recipe by name or URI.
    Raises InputError where a setting is missing, unknown or out of range; `--help` and unknown
    options end the program as argparse does.
    """
    kind = SETTINGS[verb]
    given = _early(arguments)
    settings: dict[str, Any] = {}
    if given.config is not None:
        settings = _toml(read_text(given.config), given.config)
    if issubclass(kind, Recipe):
        name = given.recipe or settings.get("recipe") or kind.model_fields["recipe"].default
        recipe = recipe_settings(
            _toml(recipe_text(name), name), name, mode=given.mode or settings.get("mode", "")
        )
        settings = _merged(recipe, settings)
    try:
        return kind(_cli_parse_args=list(arguments), _cli_prog_name=f"avader {verb}", **settings)
    except ValidationError as error:
        raise InputError(_in_words(verb, error)) from error
    except SettingsError as error:
        raise InputError(
            f"{error}: wanted a list as 2,3,7 on the command line, as [2, 3, 7] in a file or the "
            f"environment; see `avader {verb} --help`"
        ) from error


def recipe_settings(table: Mapping[str, Any], name: str, *, mode: str = "") -> dict[str, Any]:
    """A recipe's settings in one of its modes, from its TOML table; empty takes its own choice.

    The table's [modes.NAME] go over its other settings. Raises InputError for a mode it hasn't.
    """
    settings = dict(table)
    modes = settings.pop("modes", {})
    chosen = mode or settings.get("mode", "")
    if not chosen:
        return settings
    if chosen not in modes:
        found = ", ".join(sorted(modes)) or "none"
        raise InputError(f"--mode: wanted a mode of recipe {name} ({found}), got {chosen}")
    return _merged(settings, {**modes[chosen], "mode": chosen})


def _early(arguments: Sequence[str]) -> argparse.Namespace:
    """The settings that name files, which are needed before the others are read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get("AVADER_CONFIG"))
    parser.add_argument("--recipe", default=os.environ.get("AVADER_RECIPE"))
    parser.add_argument("--mode", default=os.environ.get("AVADER_MODE"))
    return parser.parse_known_args(list(arguments))[0]


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"wanted TOML in {name}: {error}") from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings' settings, section by section; those of `over` win."""
    both = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            both[name] = _merged(under[name], over[name])
    return both


def _in_words(verb: str, error: ValidationError) -> str:
    """A line for each wrong setting: its option, what was wanted, what came."""
    lines = []
    for problem in error.errors():
        option = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        if problem["type"] == "missing":
            lines.append(f"{option} is needed")
        elif problem["type"] == "value_error":
            # Ours, from a section's own check: "field: wanted ..., got ...".
            dot = "." if problem["loc"] else ""
            lines.append(f"{option}{dot}{problem['ctx']['error']}")
        else:
            wanted = problem["msg"].removeprefix("Input should be ")
            lines.append(f"{option}: wanted {wanted}, got {problem['input']!r}")
    return "; ".join(lines) + f"; see `avader {verb} --help`"
