"""What a run of `generate` draws and how: its plan, its stages, what its folder says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from avader.catalogue.provenance import package_versions
from avader.config import GenerateSettings
from avader.errors import InputError
from avader.inference.engine import one_thread
from avader.io import shards, storage
from avader.io.models import ModelFiles, beside, read_model
from avader.mixture.random import LAYOUT_VERSION
from avader.mixture.sample import Draw
from avader.pipelines.drawing.adding import SkyIncrement, increment_of
from avader.pipelines.drawing.observing import Observing, observing_of
from avader.pipelines.drawing.placing import Placing, placing_of, shares_in
from avader.pipelines.drawing.worker import DRAWN_ROWS, DrawUnit, EncodeUnit
from avader.pipelines.dry_run import Step, Work, trial_rows
from avader.pipelines.memory import Need, network_bytes
from avader.pipelines.stages import Stage
from avader.plan import Plan, Receipt, Unit
from avader.synthetic.sky import DECODE_ROWS

PIXELS = {
    "images": "uint8, round(255 x) of {}, clipped to [0, 1]",
    "encoded": "files of uint8, round(255 x) of {}, clipped to [0, 1]",
    "recipe": "none; when read uint8, round(255 x) of {}, clipped to [0, 1]",
}
RECIPE_ROW, TURNED, PLACED = 14, 5, 24
"""Bytes of index, component and log-likelihood; of how it lies on the sky, and where."""
PLACING = 128
"""Bytes that it takes to find an object's place."""
# Rows of a recipe are a thousandth of an image: more of them in a group, so that readers ask less.
WRITERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "images": shards.WRITER,
        "encoded": shards.WRITER,
        "recipe": {**shards.WRITER, "compression_level": 1, "row_group_size": 100_000},
    }
)
# Settings that decide an object's pixels or how they are written, as they are.
CONTENT = {
    *("rows_per_shard", "orientation", "precision", "device", "tile"),
    *("store", "truth", "keep_latent"),
}


@dataclass(frozen=True)
class SkyRun:
    """A run of `generate`: the settings, checked, and all that follows from them.

    settings: with the folder as it is called. increment: what is there already, and what comes.
    """

    settings: GenerateSettings
    model: ModelFiles
    increment: SkyIncrement
    draw: Draw
    observing: Observing
    placing: Placing

    @property
    def missing(self) -> int:
        """Objects to draw."""
        return self.settings.objects - self.increment.start

    @cached_property
    def plan(self) -> Plan:
        """What decides the folder's bytes."""
        settings = self.settings
        encoding = settings.encoding or "png" if settings.store == "encoded" else None
        return Plan(
            kind="synthetic",
            settings={
                **settings.model_dump(include=CONTENT, mode="json"),
                **asdict(self.draw),
                **self.observing.settings,
                "region": self.placing.digest,
                "count": settings.objects,
                "encoding": encoding,
                "quality": settings.quality or 95 if encoding == "jpeg" else None,
                "model": self.model.digest,
                "model_uri": storage.public_uri(settings.model),
                "random_layout": LAYOUT_VERSION,
                "writer": WRITERS[settings.store],
                "versions": package_versions(),
            },
            units=self._units(),
        )

    def _units(self) -> tuple[Unit, ...]:
        before = self.increment.before
        if self.missing <= 0:  # said elsewhere
            return ()
        blocks = self.draw.blocks[len(self.increment.blocks_before) :]
        return self.placing.units(
            [count for _, count in blocks] or [self.missing],
            self.settings.seed,
            start=self.increment.start,
            rows=self.settings.rows_per_shard,
            before=before,
        )

    def stages(self) -> list[Stage]:
        """Of every unit, before it is written."""
        seen = self.observing
        worker = partial(
            DrawUnit,
            self.settings,
            self.draw,
            seen.psf,
            seen.spectrum,
            self.placing.digest,
            self.plan.settings["model"],
        )
        stages = [Stage("draw", worker, pooled=True)]
        if self.settings.store == "encoded":
            told = self.plan.settings
            encode = EncodeUnit(told["encoding"], told["quality"])
            stages.append(Stage("encode", lambda: encode))
        return stages

    def trial(self) -> Work:
        """A piece of the largest unit's work, for a dry run."""
        largest = max(self.plan.units, key=_objects)
        images = trial_rows(self.settings.tile, self.settings.device)
        rows = DRAWN_ROWS if self.settings.store == "recipe" else images
        unit = Unit(largest.name, {"ranges": _first(rows, largest.inputs["ranges"])})
        return [
            Step(one_thread()(partial(stage.make(), unit)), stage.pooled) for stage in self.stages()
        ]

    def facts(self) -> dict[str, Any]:
        """What readers of the folder need."""
        network = self.model.config["network"]
        return {
            "shape": [network["bands"], network["size"], network["size"]],
            "latent": network["latent"],
            "components": self.model.config["mixture"]["components"],
            "pixels": PIXELS[self.settings.store].format(self._steps()),
            "shares": shares_in(self.plan.units),
        }

    def finish(self, _: Sequence[Receipt]) -> dict[str, Any]:
        """Write what else belongs to the folder, and give the facts of it."""
        out = self.increment.out
        if self.increment.number > 1:  # the first one has them
            return {}
        return {"files": [*self.observing.write(out), *self.placing.write(out)]}

    def need(self) -> Need:
        """What a worker takes."""
        region = self.placing.region
        # On a region, a pixel of the highest order may have more than was asked for.
        rows = max(map(_objects, self.plan.units), default=0)
        need = _need(self.settings, self.model, rows, placed=region is not None)
        if region is None:
            return need
        return replace(need, besides=need.besides + region.nbytes + PLACING * rows)

    def _steps(self) -> str:
        """What is rounded, in words."""
        steps = ["the decoded image"]
        if self.settings.orientation == "random":
            steps.append("turned and flipped")
        if self.observing.psf is not None:
            steps.append("convolved with the PSF")
        if self.observing.spectrum is not None:
            steps.append("with the survey's noise added")
        return ", ".join(steps)


def sky_run(settings: GenerateSettings) -> SkyRun:
    """What the settings ask for. Raises InputError for what cannot be drawn or added."""
    # Workers may run in another folder.
    uri, region = storage.absolute(settings.model), settings.region
    model = read_model(uri)
    settings = settings.model_copy(
        update={
            "model": uri,
            "region": region and storage.absolute(region),
            "out": beside(settings.out, model),
        }
    )
    check_encoding(settings, model)
    increment = increment_of(settings)
    draw = increment.draw(settings)
    draw.check(model.config["mixture"]["components"])
    observing, placing = observing_of(settings, model), placing_of(settings)
    made = SkyRun(settings, model, increment, draw, observing, placing)
    increment.check(made.plan)
    return made


def check_encoding(settings: GenerateSettings, model: ModelFiles) -> None:
    """Raise InputError for images that no PNG or JPEG file can hold."""
    bands = model.config["network"]["bands"]
    if settings.store == "encoded" and bands not in (1, 3):
        raise InputError(
            f"--store encoded: wanted a model of 1 or 3 bands, as PNG and JPEG files hold, got one "
            f"of {bands}; take --store images or recipe"
        )


def _objects(unit: Unit) -> int:
    """Objects of a unit."""
    return sum(stop - start for start, stop in unit.inputs["ranges"])


def _first(count: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first so many numbers of ranges of them, as ranges; all where there are fewer."""
    found = []
    for start, stop in spans:
        found.append((start, min(stop, start + count)))
        count -= found[-1][1] - start
        if not count:
            break
    return found


def _need(settings: GenerateSettings, model: ModelFiles, rows: int, *, placed: bool) -> Need:
    """What a worker takes: so many rows as one array and as the file, with its encoding.

    Pixels in slices, too, where they are decoded to floats first; of a recipe the words, normals
    and latents of some objects, all in float64.
    """
    network = model.config["network"]
    image, latent = network["bands"] * network["size"] ** 2, network["latent"]
    if settings.store == "recipe":
        turned = settings.orientation == "random"
        wide = RECIPE_ROW + TURNED * turned + PLACED * placed + 2 * latent * settings.keep_latent
        return Need(pixels=wide * rows, copies=4.0, besides=8 * 8 * latent * DRAWN_ROWS)
    apart = settings.orientation == "random" or settings.psf or settings.psf_fwhm or settings.noise
    decoded = 3 * 4 * image * min(DECODE_ROWS, rows) * bool(apart)
    return Need(
        pixels=image * rows,
        copies=4.0,
        besides=network_bytes(network, tile=settings.tile, device=settings.device) + decoded,
        device=settings.device,
    )
