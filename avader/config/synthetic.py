"""What draws a synthetic sky."""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from avader.config.base import Seed
from avader.config.catalogues import InferenceSettings
from avader.recipe import Positive


class GenerateSettings(InferenceSettings):
    """Draw a synthetic catalogue from a model's mixture."""

    count: int = Field(0, ge=0)
    """Objects of the sky, drawn from the mixture; left out where `counts` says how many."""
    counts: dict[int, Positive] = Field(default_factory=dict)
    """Objects of each component, as in `--counts 0=500 --counts 3=200`: objects 0 to 499 are then
    of component 0, the next ones of 3."""
    add: bool = False
    """Add to the finished sky in `out` what it lacks of `count`, or of each of `counts`, as its
    next increment; the objects that are there stay as they are."""
    seed: Seed = 0
    """Seed of the synthetic sky: object i is the same whatever the count, all but its place."""
    components: tuple[int, ...] = ()
    """Components to draw from, by number from 0, with their weights renormalised; empty: all."""
    weights: tuple[float, ...] = ()
    """Relative weights of the components that are drawn from, in the order of their numbers; empty
    takes the mixture's."""
    variance_scale: float = Field(1.0, gt=0)
    """Factor on the components' variances (the paper's figures used 0.5)."""
    truncation: float = Field(0.0, ge=0)
    """Standard deviations from its component's mean that no latent of an object exceeds, which
    leaves out the odd ones; 0 sets no bound."""
    orientation: Literal["canonical", "random"] = "canonical"
    """canonical: images as the model draws them. random: each object is put on the sky at a random
    angle and flips, which become columns; for models of canonical cutouts. With a GPU, this, PSF
    and noise are the work of its worker's one CPU core, which then sets the pace."""
    cone: tuple[float, ...] = ()
    """RA,DEC,RADIUS of a cone that objects lie in, evenly: the centre in degrees ICRS, the radius
    in arcsec. Positions become columns, and a shard is a HEALPix pixel, as `hats` wants it. With a
    negative RA: --cone=-1,2,60."""
    region: str | None = None
    """In its stead URI of a MOC (FITS, JSON or ASCII), or of a HEALPix map in FITS whose values are
    how dense objects lie; kept in the catalogue as region.npy."""
    psf: str | None = None
    """URI of a FITS image of a PSF, of odd sides, that images are convolved with on the sky, beside
    the one that the model has learned; kept in the catalogue as psf.fits. Its first row is as the
    images' first row: turn an uneven one over for a model of PNG or JPEG, whose first row is on
    top."""
    psf_fwhm: float = Field(0.0, ge=0)
    """In its stead the width of a round Gaussian PSF, full at half maximum, px; 0: none."""
    noise: bool = False
    """Add noise of the survey to each image, by its power spectrum in the model's folder; each
    object's noise depends on the seed and its index alone."""
    store: Literal["images", "encoded", "recipe"] = "images"
    """images: pixels, as lists that every reader opens. encoded: a PNG or JPEG file an object, in
    the column `image`. recipe: no images; they are decoded when read, always from the latents drawn
    again, by open_catalogue(...).images(...) and avader.torch_dataset."""
    encoding: Literal["png", "jpeg"] | None = None
    """Of `--store encoded`: png, which is lossless and the default, or jpeg, half as large."""
    quality: int = Field(0, ge=0, le=100)
    """Of JPEG files, 1 to 100; 0 takes 95, whose pixels err by up to 4 grey levels."""
    truth: bool = True
    """Add each object's log-likelihood and measures of its image before any noise, PSF and rounding
    to the table. A recipe has no need of it: open_catalogue(...).truth(...) measures when asked."""
    keep_latent: bool = False
    """Add the latents to a recipe, as float16, to search by."""
    rows_per_shard: int = Field(0, ge=0, validate_default=True)
    """Objects of a shard; 0 takes 10,000, of a recipe 1,000,000."""

    @field_validator("rows_per_shard")
    @classmethod
    def _choose_rows(cls, given: int, known: ValidationInfo) -> int:
        return given or (1_000_000 if known.data.get("store") == "recipe" else 10_000)

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.psf is not None and self.psf_fwhm:
            raise ValueError("psf_fwhm: wanted it or psf, got both; leave one out")
        if self.region is not None and self.cone:
            raise ValueError("cone: wanted it or region, got both; leave one out")
        if len(self.cone) not in (0, 3):
            raise ValueError(f"cone: wanted RA,DEC,RADIUS, got {','.join(map(str, self.cone))}")
        return self

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        fits = {
            "encoding": (not self.encoding or self.store == "encoded", "--store encoded"),
            "quality": (not self.quality or self.encoding == "jpeg", "--encoding jpeg"),
            "keep_latent": (not self.keep_latent or self.store == "recipe", "--store recipe"),
            "truth": (self.truth or self.store != "recipe", "another store"),
            "device": (
                self.device == "cpu" or self.store != "recipe",
                "another store, since a recipe is drawn on CPUs",
            ),
        }
        for name, (good, where) in fits.items():
            if not good:
                raise ValueError(f"{name}: only with {where}; leave it out")
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.count) == bool(self.counts):
            raise ValueError(
                "count: wanted objects, either --count 1000 or by component --counts 0=500 "
                f"--counts 3=200, got {'both' if self.count else 'neither'}"
            )
        if self.counts and (self.components or self.weights):
            raise ValueError(
                "counts: wanted no components and weights beside it, since it says how many of "
                "each; leave them out"
            )
        return self

    @property
    def objects(self) -> int:
        """Objects in all."""
        return self.count or sum(self.counts.values())
