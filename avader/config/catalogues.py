"""What makes, checks and shows catalogues."""

import math
import re
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from avader.config.base import JobSettings, UnitSettings
from avader.plan import TILES
from avader.recipe import Positive

TAKEN = ("rejects", "increments", "versions")
"""Folders of a HATS collection that are not named by the command."""


class InferenceSettings(UnitSettings):
    """What verbs that run a trained model take."""

    model: str
    """Folder URI of the model."""
    out: str
    """Folder URI for the catalogue; {model} in it becomes 12 digits of the model's digest, so that
    the same command with a new model makes a new version beside the old."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; bfloat16 is faster where the CPU or GPU has it natively, else up
    to ten times slower, and changes probabilities slightly."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What the network runs on, part of the plan since the last bits depend on it."""
    tile: int = Field(0, ge=0, validate_default=True)
    """Images the network computes at once; 0 takes 16, on GPUs 256. Fixed for a catalogue, the last
    tile is padded."""

    @field_validator("tile")
    @classmethod
    def _choose_tile(cls, given: int, known: ValidationInfo) -> int:
        return given or TILES[known.data.get("device", "cpu")]


class ClassifySettings(InferenceSettings):
    """Classify packed cutouts into a catalogue of morphological components."""

    data: str
    """Folder URI of packed cutouts."""
    batch: Positive = 64
    """Images that the model is given at once, on GPUs at least four tiles; changes no number."""
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


class CompactSettings(UnitSettings):
    """Join a grown folder's increments into one, in a new folder; the grown one stays.

    Where rows have positions, pixels are cut anew: small ones are joined, large ones split.
    """

    data: str
    """Folder URI of packed cutouts or of a classified catalogue."""
    out: str
    """Folder URI of the compacted one."""
    rows_per_shard: int = Field(0, ge=0)
    """Most objects of a shard; 0 takes what the cutouts were packed with, 100,000 of a
    catalogue."""


class HatsSettings(UnitSettings):
    """Make a HATS collection, which lsdb opens, from a catalogue with positions.

    Again once the catalogue has grown, the same command adds what is new; no file of rows that is
    there is touched.
    """

    catalogue: str
    """Folder URI of a classified catalogue whose cutouts were packed with positions, or of a
    synthetic sky on a cone or a region."""
    out: str
    """Folder URI for the collection: what lsdb.open_catalog is given."""
    name: str = "avader"
    """Name of the catalogue: of its folder in the collection, and what lsdb adds to the names of
    its columns in a cross-match."""
    rows_per_pixel: int = Field(0, ge=0)
    """Most rows that a HATS pixel begins with; 0 takes 1,000,000, with images 65,536 (1 GB of 128
    px). Shards are joined up to it, never split. A worker holds the rows that it adds to one pixel
    three times."""
    margin: float = Field(10.0, ge=0, le=60)
    """Arcsec around each pixel whose rows are kept beside it, so that a cross-match with a radius
    up to it is right at the pixel's edges; 0: none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", self.name) or self.name in TAKEN:
            raise ValueError(
                "name: wanted a letter, then letters, digits, - and _, and not "
                f"{', '.join(TAKEN)}, which are taken, got {self.name!r}"
            )
        return self


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
