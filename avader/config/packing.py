"""What makes packed cutouts: a mock survey, survey services, packing."""

from typing import Literal, Self

from pydantic import Field, model_validator

from avader.config.base import JobSettings, Seed, UnitSettings
from avader.recipe import Positive, Preprocessing, Section


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
    """Pack cutouts into shards, as model-ready pixels or as the bytes that came."""

    source: str
    """A folder or glob of PNG, JPEG or FITS files, or a Parquet table of image bytes or paths, or
    of positions for a survey service."""
    out: str
    """Folder URI for the shards and their manifest."""
    add: bool = False
    """Add to the finished data set in `out`, as its next increment: prepared as the first one was,
    cut at the same pixels; ids that are there already are refused."""
    store: Literal["pixels", "bytes"] = "pixels"
    """pixels: ready for a model, and fast to read. bytes: each file as it came, prepared when it is
    read, so that models with other preprocessing can classify the same data set. Cutouts that
    `preprocessing` refuses are left out of both."""
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
    """Objects that make one shard, or at most one where they have positions: a shard is then a
    HEALPix pixel, of an order that follows its objects; pixels that an increment before has made
    are not cut, and may get more. 0 takes 1000; with positions as many as are 128 MB of images as
    stored, but 1000 to a 64th of the source where that is less; from a survey service 100, since a
    run that was stopped asks again for the shards it had not finished."""
    service: ServiceSettings = ServiceSettings()
    """Where the images of a table of positions come from."""
    preprocessing: Preprocessing = Preprocessing()
    """From bytes to pixels."""
