"""Flux on another grid of pixels. Legend: C bands, H W pixels, S side of the output."""

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

FILTERS = {
    "nearest": Pillow.Resampling.NEAREST,
    "box": Pillow.Resampling.BOX,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
}

Flux = npt.NDArray[np.float32]


def resize(flux: Flux, *, size: int, resample: str) -> Flux:
    """Flux (C, H, W) sampled at (C, S, S), band by band, with half-pixel centres.

    Kernels are widened when they reduce, so that no pixel is skipped; not so "nearest", and not
    "bilinear-unfiltered": two-by-two interpolation at the output's centres, as scikit-image 0.15
    does with order 1 and anti_aliasing False. Beyond the outermost centres, which only an
    enlargement meets, the outermost pixel is repeated (scikit-image reflects there by default).
    """
    if flux.shape[1:] == (size, size):
        return flux
    return np.stack([_resize_band(band, size=size, resample=resample) for band in flux])


def _resize_band(band: Flux, *, size: int, resample: str) -> Flux:
    source = Pillow.fromarray(np.ascontiguousarray(band))
    if resample != "bilinear-unfiltered":
        return np.asarray(source.resize((size, size), FILTERS[resample]), dtype=np.float32)
    height, width = band.shape
    steps = (width / size, 0.0, 0.0, 0.0, height / size, 0.0)
    sampled = source.transform(
        (size, size), Pillow.Transform.AFFINE, steps, resample=Pillow.Resampling.BILINEAR
    )
    return np.asarray(sampled, dtype=np.float32)
