"""A trained model on numpy arrays.

    model = avader.load_model("models/published")
    mean, logvar = model.encode(images)
    g = model.posterior(mean)

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avader.errors import InputError
from avader.inference.checks import check_device, check_images, check_latents
from avader.inference.engine import Doubles, Engine, Floats, Images, Latents, Precision
from avader.inference.lanes import suiting_tile
from avader.io import models
from avader.io.models import ModelFiles
from avader.mixture.sample import Draw, mixture_arrays, sample
from avader.model.files import build_model, parse_config
from avader.synthetic.noise import Noise
from avader.synthetic.psf import Kernel, check_size
from avader.synthetic.sky import SyntheticSky


class Model:
    """A trained model.

    config: what config.json holds (network, mixture, preprocessing, low_likelihood). card:
    provenance. digest: the model's identity. Every method raises InputError for arrays that the
    model cannot take.
    """

    def __init__(self, files: ModelFiles, engine: Engine) -> None:
        self.config = files.config
        self.card = files.card
        self.digest = files.digest
        self._engine = engine
        self._network = engine.network
        self._mixture = mixture_arrays(engine.mixture)

    def encode(self, images: Images) -> tuple[Floats, Floats]:
        """Images (B, C, H, W), uint8 or float32 in [0, 1] -> mean and log variance (B, D).

        float16 in [0, 1] is taken too, as packed cutouts may hold it.
        """
        network = self._network
        check_images(images, shape=(network.bands, network.size, network.size))
        return self._engine.encode(images)

    def posterior(self, z: Latents) -> Doubles:
        """Latents (B, D) -> probabilities of the components (B, K), exact, in float64.

        A z that is not finite gives NaN.
        """
        return self._engine.posterior(self._latents(z))

    def integrated_posterior(self, mean: Latents, logvar: Latents) -> Doubles:
        """Probabilities of the components (B, K) of the encoder's whole posterior, in float64.

        mean, logvar: (B, D), as encode gives them. The mixture is integrated over N(mean,
        diag exp(logvar)), where posterior takes the mean alone: an uncertain encoding gives broader
        probabilities. What is not finite gives NaN.
        """
        for name, values in (("mean", mean), ("logvar", logvar)):
            check_latents(values, latent=self._network.latent, name=name)
        if len(mean) != len(logvar):
            raise InputError(
                f"wanted as many rows of mean as of logvar, got {len(mean)} and {len(logvar)}"
            )
        return self._engine.integrated_posterior(mean, logvar)

    def log_likelihood(self, z: Latents) -> Doubles:
        """Latents (B, D) -> log p(z) under the mixture (B,), nats, in float64."""
        return self._engine.log_likelihood(self._latents(z))

    def decode(self, z: Latents) -> Floats:
        """Latents (B, D) -> images (B, C, H, W), at least 0; a few pixels exceed 1."""
        return self._engine.decode(self._latents(z))

    def decode_pixels(self, z: Latents) -> NDArray[np.uint8]:
        """Latents (B, D) -> images (B, C, H, W) as they are stored: round(255 x), clipped first."""
        return self._engine.decode_pixels(self._latents(z))

    def sample(
        self,
        count: int,
        seed: int,
        start: int = 0,
        components: Sequence[int] | None = None,
        variance_scale: float = 1.0,
    ) -> tuple[Floats, NDArray[np.int16]]:
        """Synthetic objects start .. start + count - 1 of a seed: z (B, D) and component (B,).

        Object i is the same whatever the count and start. components: draw from these alone,
        weights renormalised. variance_scale: factor on the components' variances.
        """
        return sample(
            self._mixture,
            count=count,
            seed=seed,
            start=start,
            components=components,
            variance_scale=variance_scale,
        )

    def sky(
        self,
        draw: Draw,
        *,
        orientation: str = "canonical",
        psf: Kernel | None = None,
        spectrum: Floats | None = None,
    ) -> SyntheticSky:
        """The synthetic sky of this model with these draws.

        psf: kernel (h, w) on the sky, its sum 1. spectrum: of the survey's noise, as the model's
        folder has it. Raises InputError for what does not fit the model.
        """
        draw.check(self.config["mixture"]["components"])
        shape = self._engine.image_shape
        if psf is not None:
            check_size(psf, shape[1:])
        noise = Noise(spectrum, shape) if spectrum is not None else None
        return SyntheticSky(self._engine, self._mixture, draw, orientation, psf, noise)

    def _latents(self, z: Latents) -> Latents:
        check_latents(z, latent=self._network.latent)
        return z


def load_model(
    uri: str, device: str = "cpu", precision: Precision = "float32", *, tile: int = 0
) -> Model:
    """The model in a folder: a local path or a URI such as s3://bucket/folder.

    device: torch's name, such as cpu or cuda. precision: float32, or bfloat16, faster where the
    device has it natively, which changes probabilities slightly. tile: images computed at once;
    0 takes 16, on a GPU 256 or as many as it has memory for. The last bits depend on it.
    Raises InputError for a folder that is no whole model and for a device that is not there.
    """
    return made_ready(models.read_model(uri), device, precision, tile=tile)


def made_ready(files: ModelFiles, device: str, precision: Precision, *, tile: int) -> Model:
    """The model of a folder that was read; the rest as for load_model."""
    model = build_model(parse_config(files.config), files.tensors)
    tile = tile or suiting_tile(model.network, check_device(device))
    return Model(files, Engine(model, tile=tile, device=device, precision=precision))
