"""Objects of a synthetic catalogue made again, from its folder without rows, and its model's.

Legend: B objects, C bands, H W pixels, D latent dimensions.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from avader.api.model import made_ready
from avader.catalogue.columns import POSITION_NAMES
from avader.catalogue.pixels import Pixel
from avader.errors import InputError
from avader.io import models, storage
from avader.io.manifest import Manifest
from avader.plan import ranges, tile_on
from avader.synthetic.positions import Share, place_all
from avader.synthetic.psf import Kernel, gaussian_psf, read_psf
from avader.synthetic.region import Region, read_region
from avader.synthetic.sky import DECODE_ROWS, Columns, Indices, SyntheticSky, check_layout, draw_of

PSF_FILE, REGION_FILE = "psf.fits", "region.npy"
"""Where a synthetic catalogue keeps the PSF and the region that were given to it."""


@dataclass(frozen=True)
class Remaker:
    """Makes objects of a catalogue again, by their indices.

    model: URI of its model's folder, where that has moved. device: torch's name; None takes the
    one that the catalogue was drawn on where this machine has it, else cpu.
    """

    held: Manifest
    model: str | None = None
    device: str | None = None

    @cached_property
    def sky(self) -> SyntheticSky:
        """What decides each object. Raises InputError where the model is another one."""
        settings = self.held.settings
        uri = self.model or settings["model_uri"]
        check_layout(settings)
        device = self.device or self._drawn_on
        try:
            files = models.read_model(uri)
        except InputError as error:
            if self.model is not None:
                raise
            raise InputError(
                f"{error}. The catalogue was drawn by the model of that folder; say with model= "
                "where it is now"
            ) from error
        tile = tile_on("gpu" if device.startswith("cuda") else "cpu", settings)
        made = made_ready(files, device, settings["precision"], tile=tile)
        if made.digest != settings["model"]:
            raise InputError(
                f"wanted the model of {storage.public_uri(self.held.uri)}, {settings['model']}, "
                f"got {made.digest} in {storage.public_uri(uri)}; give model="
            )
        return made.sky(
            draw_of(settings),
            orientation=settings.get("orientation", "canonical"),
            psf=self._psf(),
            spectrum=self._spectrum(uri),
        )

    @property
    def _drawn_on(self) -> str:
        """Device that the catalogue was drawn on, or cpu where this machine has none such."""
        on_gpu = self.held.settings.get("device") == "gpu" and torch.cuda.is_available()
        return "cuda" if on_gpu else "cpu"

    def _psf(self) -> Kernel | None:
        told = self.held.settings.get("psf")
        if told is None or "fwhm" in told:
            return gaussian_psf(told["fwhm"]) if told else None
        return read_psf(*self._kept(PSF_FILE, told["sha256"]))

    def _spectrum(self, model: str) -> NDArray[np.float32] | None:
        wanted = self.held.settings.get("noise")
        if wanted is None:
            return None
        found = models.read_noise(model)
        if found.digest != wanted:
            raise InputError(
                f"wanted the noise that {storage.public_uri(self.held.uri)} was drawn with, "
                f"{wanted}, got {found.digest} in {storage.public_uri(model)}; give model="
            )
        return found.spectrum

    def places(self, indices: Indices) -> Columns:
        """ra, dec and _healpix_29 (B,) of objects that lie on a region; else nothing."""
        if self._region is None:
            return {}
        shares = [Share(Pixel(*share[:2]), *share[2:]) for share in self.held.facts["shares"]]
        found = place_all(self._region, self.held.settings["seed"], indices, shares)
        return dict(zip(POSITION_NAMES, found, strict=True))

    @cached_property
    def _region(self) -> Region | None:
        wanted = self.held.settings.get("region")
        return None if wanted is None else read_region(*self._kept(REGION_FILE, wanted))

    def _kept(self, name: str, digest: str) -> tuple[bytes, str]:
        """A file of the catalogue's own, and what it is called."""
        uri = storage.join(self.held.uri, name)
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(
                f"wanted {name} of {storage.public_uri(self.held.uri)} as it was drawn with, got "
                "another file; bring it back"
            )
        return data, storage.public_uri(uri)

    def images(self, drawn: Columns) -> NDArray[np.uint8]:
        """Images (B, C, H, W) of drawn objects, as they are stored or would be."""
        settings = self.held.settings
        if settings.get("truth") and settings.get("store") != "recipe":
            # They came from one computation with their measures, which a GPU compiles as a whole.
            return self.sky.measured_images(drawn)[0]
        return self.sky.images(drawn)

    def truth(self, indices: Indices) -> Columns:
        """What a table of these objects has but for images, (B,) or (B, D)."""
        drawn = self.sky.drawn(indices)
        # Some at once: the images, which are let go, take far more memory than the measures.
        spans = ranges(len(indices), DECODE_ROWS) or [(0, 0)]
        parts = [
            self.sky.measured_images({name: drawn[name][slice(*span)] for name in drawn})[1]
            for span in spans
        ]
        measures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        likelihood = self.sky.log_likelihood(drawn)
        return {**drawn, **self.places(indices), "log_likelihood": likelihood, **measures}
