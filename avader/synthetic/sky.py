"""A synthetic sky: objects addressed by their index, made one by one or by the million.

`generate` writes them and `regenerate` makes them again, both by what is here.

Legend: B objects, D latent dimensions, C bands, H W pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.errors import InputError
from avader.images.orientation import Orientation, to_sky
from avader.inference.engine import Engine
from avader.mixture.random import LAYOUT_VERSION, orientations
from avader.mixture.sample import Draw, MixtureArrays, draw_at
from avader.plan import ranges
from avader.synthetic.measure import MEASURES, measured
from avader.synthetic.noise import Noise
from avader.synthetic.psf import Kernel, convolved

Measure = Callable[[Tensor], Tensor]
Columns = dict[str, NDArray[Any]]
Indices = NDArray[np.int64]
# Images decoded to float32 at once: 64 MiB at 128 x 128.
DECODE_ROWS = 1024


def nothing(images: Tensor) -> Tensor:
    """Of each image (B, C, H, W) no number (B, 0)."""
    return images.new_zeros(len(images), 0)


@dataclass(frozen=True)
class SyntheticSky:
    """All that decides object i.

    orientation: canonical, as the model draws; random, on the sky. psf: kernel (h, w) that images
    on the sky are convolved with. noise: of the survey, added after it.
    """

    engine: Engine
    mixture: MixtureArrays
    draw: Draw
    orientation: str = "canonical"
    psf: Kernel | None = None
    noise: Noise | None = None

    @property
    def as_decoded(self) -> bool:
        """Whether images are stored just as the decoder gives them."""
        return self.orientation == "canonical" and self.psf is None and self.noise is None

    def drawn(self, indices: Indices) -> Columns:
        """index (B,), component (B,) int16, latent (B, D) float32 of these objects.

        Where they lie at random on the sky orientation_angle (B,) float32, degrees, and
        orientation_flips (B,) uint8 too.
        """
        z, component = draw_at(self.mixture, self.draw, indices)
        found: Columns = {"index": indices, "component": component, "latent": z}
        if self.orientation == "random":
            angle, flips = orientations(self.draw.seed, indices)
            found |= {"orientation_angle": angle, "orientation_flips": flips}
        return found

    def log_likelihood(self, drawn: Columns) -> NDArray[np.float32]:
        """log p(z) of drawn objects under the whole mixture (B,), nats."""
        return self.engine.log_likelihood(drawn["latent"]).astype(np.float32)

    def images(self, drawn: Columns) -> NDArray[np.uint8]:
        """Images (B, C, H, W) of drawn objects: round(255 x), clipped to [0, 1] first."""
        if self.as_decoded:
            return self.engine.decode_pixels(drawn["latent"])
        return self._observed(drawn)[0]

    def measured_images(self, drawn: Columns) -> tuple[NDArray[np.uint8], Columns]:
        """Images (B, C, H, W) of drawn objects, and the MEASURES (B,) of each.

        They are measured on the sky, before PSF, noise, clipping and rounding.
        """
        if self.as_decoded:
            pixels, numbers = self.engine.decode_measured(drawn["latent"], measured)
        else:
            pixels, numbers = self._observed(drawn, measured)
        return pixels, dict(zip(MEASURES, numbers.T, strict=True))

    def _observed(
        self, drawn: Columns, measure: Measure = nothing
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Images (B, C, H, W) on the sky, and the numbers measured of each (B, M)."""
        z = drawn["latent"]
        pixels = np.empty((len(z), *self.engine.image_shape), np.uint8)
        numbers = []
        for start in range(0, max(1, len(z)), DECODE_ROWS):
            some = slice(start, start + DECODE_ROWS)
            images = self.engine.decode(z[some])
            if self.orientation == "random":
                angles, flips = drawn["orientation_angle"][some], drawn["orientation_flips"][some]
                for image, angle, bits in zip(images, angles, flips, strict=True):
                    image[...] = to_sky(image, Orientation(float(angle), int(bits)))
            tiles = ranges(len(images), self.engine.tile) or [(0, 0)]
            numbers += [measure(torch.from_numpy(images[slice(*at)])).numpy() for at in tiles]
            if self.psf is not None:
                images = convolved(images, self.psf)
            if self.noise is not None:
                images += self.noise.fields(self.draw.seed, drawn["index"][some])
            pixels[some] = to_uint8(images)
        return pixels, np.concatenate(numbers)


def check_layout(settings: Mapping[str, Any]) -> None:
    """Raise InputError for random numbers laid out otherwise than this version's."""
    layout = settings["random_layout"]
    if layout != LAYOUT_VERSION:
        raise InputError(
            f"wanted random numbers of layout {LAYOUT_VERSION}, got a catalogue of layout "
            f"{layout}; use the version of avader that its manifest names"
        )


def draw_of(settings: Mapping[str, Any]) -> Draw:
    """What a synthetic catalogue's plan settings draw."""
    told = {each.name: settings[each.name] for each in fields(Draw) if each.name in settings}
    for name in ("components", "weights"):
        told[name] = tuple(told.get(name, ()))
    told["blocks"] = tuple(tuple(block) for block in told.get("blocks", ()))
    return Draw(**told)


def to_uint8(images: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """round(255 x) of float images, clipped to [0, 1] first."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
