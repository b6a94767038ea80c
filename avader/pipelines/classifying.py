"""What `classify` does where there is work: units of cutouts become rows, by a pool of models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from avader.api import Model, load_model
from avader.catalogue import rows, schema
from avader.catalogue.columns import Flag
from avader.catalogue.provenance import provenance
from avader.config import ClassifySettings
from avader.images.checks import Reason
from avader.inference.engine import one_thread
from avader.inference.symmetry import stability
from avader.io import shards
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.dry_run import OVERLAPPED, Step, Trial, Work, trial_rows
from avader.pipelines.emulated import say_emulated
from avader.pipelines.matching import check_model, preparation
from avader.pipelines.memory import (
    Need,
    file_bytes,
    image_bytes,
    keep_freed_memory,
    network_bytes,
)
from avader.pipelines.progress import Progress
from avader.pipelines.stages import Stage, UnitRows
from avader.pipelines.units import finish_folder
from avader.plan import Plan, Unit
from avader.survey.stored import prepared

Columns = dict[str, np.ndarray]
Read = tuple[pa.Table, list[rows.Reject]]
"""Cutouts of model-ready pixels, and what could not be made one."""


def classify(
    settings: ClassifySettings,
    plan: Plan,
    data: Manifest,
    model: ModelFiles,
    *,
    accepted: Mapping[str, Any],
) -> Manifest | None:
    """Do a plan of `classify`; the manifest, or None where there was nothing to do.

    accepted: preprocessing settings that may differ, for the record.
    """
    say_emulated(settings)
    return finish_folder(
        plan,
        settings,
        opening=f"classifying {data.totals['rows']:,} cutouts in {len(plan.units):,} shards "
        f"with model {model.digest[:12]}",
        prepare=lambda: [
            Stage("read", partial(partial, _read, data.uri, _preparing(data, model))),
            Stage("classify", partial(ClassifyUnit, settings, model.digest), pooled=True),
        ],
        trial=Trial(
            data.totals["rows"],
            sum(part["size"] for part in data.parts),
            partial(_trial, settings, data, _preparing(data, model)),
        ),
        progress=Progress("classified", data.totals["rows"]),
        facts=_facts(model),
        provenance=provenance(
            model=model.digest,
            data=data.digest,
            preprocessing_accepted=accepted,
            precision=settings.precision,
            backend=f"torch {TORCH_DEVICE[settings.device]}",
            tile=settings.tile,
        ),
        need=_need(settings, data, model),
    )


def _preparing(data: Manifest, model: ModelFiles) -> Callable[[pa.Table], Read]:
    """Of a shard as stored: what the model takes."""
    if not data.holds_files:
        return _ready
    network = model.config["network"]
    shape = network["bands"], network["size"], network["size"]
    return partial(prepared, preprocessing=preparation(data, model), shape=shape)


def _ready(cutouts: pa.Table) -> Read:
    return cutouts, []


def _trial(settings: ClassifySettings, data: Manifest, prepare: Callable[[pa.Table], Read]) -> Work:
    part = next(part for part in data.parts if part["rows"])
    few = trial_rows(settings.tile, settings.device)
    cutouts = shards.read_part(data.uri, part["path"]).slice(0, few)
    classify = one_thread()(partial(ClassifyUnit(settings), Unit("trial", {})))
    return [Step(lambda _: prepare(cutouts), pooled=False), Step(classify)]


def _need(settings: ClassifySettings, data: Manifest, model: ModelFiles) -> Need:
    """What a worker takes: pixels as the file that was read, as a table and as one array.

    Where files are stored, these as read and as a table besides.
    """
    network = model.config["network"]
    image = network["bands"] * network["size"] ** 2
    wanted = preparation(data, model).model_dump(mode="json")
    each = image_bytes({"shape": [image], "preprocessing": wanted})
    return Need(
        pixels=(each + file_bytes(data)) * max((part["rows"] for part in data.parts), default=0),
        copies=2.5,
        besides=network_bytes(network, tile=settings.tile, device=settings.device)
        + 3 * 8 * images_at_once(settings) * image,
        device=settings.device,
    )


def images_at_once(settings: ClassifySettings) -> int:
    """Images of a call of the model: on GPUs several tiles, so that copies overlap."""
    return (
        settings.batch
        if settings.device == "cpu"
        else max(settings.batch, OVERLAPPED * settings.tile)
    )


def _facts(model: ModelFiles) -> dict[str, Any]:
    return {
        "components": model.config["mixture"]["components"],
        "latent": model.config["network"]["latent"],
    }


def _read(uri: str, prepare: Callable[[pa.Table], Read], unit: Unit, _: None) -> Read:
    return prepare(shards.read_whole_part(uri, unit.inputs))


@dataclass
class ClassifyUnit:
    """Classifies one shard after another with a model held in this process.

    digest: of the model that is wanted, where another one may have taken its place.
    """

    settings: ClassifySettings
    digest: str | None = None
    model: Model = field(init=False)
    low_likelihood: float = field(init=False)

    def __post_init__(self) -> None:
        keep_freed_memory()
        self.model = load_model(
            self.settings.model,
            device=TORCH_DEVICE[self.settings.device],
            precision=self.settings.precision,
            tile=self.settings.tile,
        )
        check_model(self.model.digest, self.digest)
        self.low_likelihood = self.model.config["low_likelihood"]

    def __call__(self, unit: Unit, read: Read) -> UnitRows:
        """Classify a shard's cutouts batch by batch."""
        cutouts, rejects = read
        pixels = rows.pixels(cutouts["image"])
        batch = images_at_once(self.settings)
        parts = [self.numbers(pixels[at : at + batch]) for at in range(0, len(pixels), batch)]
        columns = _concatenated(parts, self.numbers(pixels[:0]))
        good = np.isfinite(columns["log_likelihood"])
        good &= np.isfinite(columns["latent_logvar"]).all(axis=1)
        rejects = rejects + [
            rows.Reject(str(name), Reason.NOT_FINITE, "the encoder's output is not finite")
            for name in cutouts["object_id"].filter(pa.array(~good)).to_pylist()
        ]
        return UnitRows(
            rows_in=cutouts.num_rows + len(read[1]),
            table=self._table(cutouts, columns).filter(pa.array(good)),
            rejects=rows.reject_table(rejects, unit.name),
        )

    def numbers(self, pixels: np.ndarray) -> Columns:
        """The catalogue's numbers of these images.

        pixels: (B, C, H, W) as packed. Returns columns of B rows each.
        """
        mean, logvar = self.model.encode(pixels)
        probability = self.model.posterior(mean)
        component = probability.argmax(axis=1).astype(np.int16)
        asked = {}
        if self.settings.stability:
            asked["stability"] = stability(pixels, component, self._posterior)
        return {
            "latent_mean": mean,
            "latent_logvar": logvar,
            "component": component,
            "probability": probability,
            "probability_broad": self.model.integrated_posterior(mean, logvar),
            "log_likelihood": self.model.log_likelihood(mean),
            "reconstruction_error": self._reconstruction_error(pixels, mean),
            **asked,
        }

    def _posterior(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) probabilities of the components, at the encoder's mean."""
        return self.model.posterior(self.model.encode(pixels)[0])

    def _reconstruction_error(self, pixels: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """(B,) mean squared error per pixel, in float64; NaN where it was not asked for."""
        if not self.settings.reconstruction:
            return np.full(len(pixels), np.nan)
        scale = 255 if pixels.dtype == np.uint8 else 1
        residual = pixels.astype(np.float64) / scale - self.model.decode(mean)
        return np.square(residual).mean(axis=(1, 2, 3))

    def _table(self, cutouts: pa.Table, columns: Columns) -> pa.Table:
        probability = columns["probability"]
        low = columns["log_likelihood"] < self.low_likelihood
        error = pa.array(columns["reconstruction_error"], pa.float32(), from_pandas=True)
        ours = {
            **columns,
            "entropy": entropy(probability),
            "reconstruction_error": error,
            "flags": cutouts["flags"].to_numpy() | low * np.int32(Flag.LOW_LIKELIHOOD),
        }
        wanted = schema.classified_schema(
            latent=columns["latent_mean"].shape[1],
            components=probability.shape[1],
            positions="ra" in cutouts.column_names,
            optional=[*cutouts.column_names, *columns],
            carried=schema.carried_fields(cutouts.schema),
        )
        carried = {name: cutouts[name] for name in wanted.names if name not in ours}
        return rows.table(wanted, {**carried, **ours})


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in nats of each row of (B, K) probabilities; 0 log 0 is 0."""
    logs = np.log(np.where(probability > 0, probability, 1))
    return -(probability * logs).sum(axis=1)


def _concatenated(parts: list[Columns], empty: Columns) -> Columns:
    return {name: np.concatenate([part[name] for part in [*parts, empty]]) for name in empty}
