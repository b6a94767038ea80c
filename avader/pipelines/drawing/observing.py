"""What lies between a model's images and a survey's: the PSF and the noise asked for."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avader.api.remade import PSF_FILE
from avader.config import GenerateSettings
from avader.io import storage
from avader.io.models import ModelFiles, read_noise
from avader.synthetic.noise import Noise
from avader.synthetic.psf import Kernel, check_size, gaussian_psf, read_psf


@dataclass(frozen=True)
class Observing:
    """The PSF and the noise of a sky.

    psf, spectrum: as Model.sky takes them. file: bytes of the PSF that was given. settings: of the
    plan.
    """

    psf: Kernel | None
    spectrum: NDArray[np.float32] | None
    file: bytes | None
    settings: dict[str, Any]

    def write(self, out: str) -> list[dict[str, str]]:
        """Keep the PSF that was given in a folder; the files, as facts list them."""
        if self.file is None:
            return []
        storage.write_bytes(storage.join(out, PSF_FILE), self.file)
        return [{"path": PSF_FILE, "sha256": hashlib.sha256(self.file).hexdigest()}]


def observing_of(settings: GenerateSettings, model: ModelFiles) -> Observing:
    """What the settings ask for. Raises InputError for what does not fit the model's images."""
    network = model.config["network"]
    shape = network["bands"], network["size"], network["size"]
    psf, file = None, None
    told: dict[str, Any] | None = None
    if settings.psf is not None:
        file = storage.read_bytes(settings.psf)
        psf = read_psf(file, storage.public_uri(settings.psf))
        told = {"sha256": hashlib.sha256(file).hexdigest()}
    elif settings.psf_fwhm:
        psf, told = gaussian_psf(settings.psf_fwhm), {"fwhm": settings.psf_fwhm}
    if psf is not None:
        check_size(psf, shape[1:])
    noise = read_noise(settings.model) if settings.noise else None
    if noise is not None:
        Noise(noise.spectrum, shape)
    return Observing(
        psf,
        noise.spectrum if noise else None,
        file,
        {"psf": told, "noise": noise.digest if noise else None},
    )
