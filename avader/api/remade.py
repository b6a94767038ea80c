"""Objects of a synthetic catalogue made again, from its manifest and its model alone.

Legend: B objects, C bands, H W pixels, D latent dimensions.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avader.api.model import load_model
from avader.errors import InputError
from avader.io import models, storage
from avader.io.manifest import Manifest
from avader.synthetic.psf import Kernel, gaussian_psf, read_psf
from avader.synthetic.sky import Columns, Indices, SyntheticSky, check_layout, draw_of

PSF_FILE = "psf.fits"
"""Where a synthetic catalogue keeps the PSF that was given to it."""


@dataclass(frozen=True)
class Remaker:
    """Makes objects of a catalogue again, by their indices.

    model: URI of its model's folder, where that has moved. device: torch's name.
    """

    held: Manifest
    model: str | None = None
    device: str = "cpu"

    @cached_property
    def sky(self) -> SyntheticSky:
        """What decides each object. Raises InputError where the model is another one."""
        settings = self.held.settings
        uri = self.model or settings["model_uri"]
        check_layout(settings)
        made = load_model(uri, self.device, settings["precision"], tile=settings["tile"])
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

    def _psf(self) -> Kernel | None:
        told = self.held.settings.get("psf")
        if told is None or "fwhm" in told:
            return gaussian_psf(told["fwhm"]) if told else None
        uri = storage.join(self.held.uri, PSF_FILE)
        data = storage.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != told["sha256"]:
            raise InputError(
                f"wanted the PSF that {storage.public_uri(self.held.uri)} was drawn with, got "
                f"another file {PSF_FILE}; bring it back"
            )
        return read_psf(data, storage.public_uri(uri))

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

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """Images (B, C, H, W), as they are stored or would be."""
        return self.sky.images(self.sky.drawn(indices))

    def truth(self, indices: Indices) -> Columns:
        """component, latent, log_likelihood and the measures of each image, (B,) or (B, D)."""
        drawn = self.sky.drawn(indices)
        _, measures = self.sky.measured_images(drawn)
        return {**drawn, "log_likelihood": self.sky.log_likelihood(drawn), **measures}
