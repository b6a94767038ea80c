"""Survey noise of synthetic images: correlated Gaussian fields with a measured power spectrum.

Notable choices:
- The spectrum of residuals r is <|F|^2> / (H W), F the discrete Fourier transform of r, mean over
  images. White noise of variance s^2 has s^2 in every mode, and the mean over all modes is the mean
  of r^2 (Parseval), on the pixels' scale, [0, 1].
- Nothing is subtracted: mode 0 is kept, so that a field's mean differs from 0 as residuals' do.
- No window at the rim: the transform takes images as periodic, and so are the fields.
- Bands are independent, each with its own spectrum: noise that bands share is not kept.
- A residual of an autoencoder is not noise alone: it also holds what the decoder lacks of the
  galaxy, mostly in the middle and at long waves. A field spreads both over the frame alike, over
  bright pixels and dark ones. Pixels that are NaN are left out: where there are source masks those
  of the source should be, so that what is left is mostly noise. The holes smooth the spectrum a
  little; they change no total.

Legend: N images, B objects, C bands, H W pixels.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from avader.errors import InputError
from avader.mixture.random import Stream, normals, words

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Shape = tuple[int, int, int]


def power_spectrum(residuals: Iterable[NDArray[np.floating]]) -> Doubles:
    """Residuals (N, C, H, W), also one by one -> power spectrum (C, H, W // 2 + 1), as of rfft2.

    NaN marks pixels to leave out; an image counts by those that it has left. A band that has none
    in any image is NaN throughout.
    """
    total, used = np.zeros(1), np.zeros(1)
    for residual in residuals:
        seen = ~np.isnan(residual)
        waves = np.fft.rfft2(np.where(seen, residual, 0.0).astype(np.float64))
        total = total + (waves.real**2 + waves.imag**2)
        used = used + seen.sum(axis=(1, 2))[:, None, None]
    with np.errstate(invalid="ignore"):
        return total / used


class Noise:
    """Fields of noise, of which object i has the same whatever is made beside it.

    shape: (C, H, W); rms: (C,), root mean square of a pixel.
    """

    def __init__(self, spectrum: Doubles | Floats, shape: Shape) -> None:
        """spectrum: as of power_spectrum. Raises InputError for one that images of this shape
        cannot have."""
        bands, height, width = shape
        wanted = bands, height, width // 2 + 1
        if spectrum.shape != wanted:
            raise InputError(
                f"wanted a noise spectrum of {wanted}, for images of {shape} (bands, height, "
                f"width), got one of {spectrum.shape}; take that of this model's own folder"
            )
        if not (np.isfinite(spectrum).all() and spectrum.min() >= 0):
            raise InputError(
                "wanted a power spectrum of finite numbers from 0, got others; measure it again"
            )
        self.shape = shape
        self._amplitude = np.sqrt(spectrum.astype(np.float64))
        # The half plane stands for both halves, but for the columns that are their own mirror.
        columns = np.arange(wanted[2])
        twice = np.where((columns == 0) | (2 * columns == width), 1, 2)
        power = (spectrum.astype(np.float64) * twice).sum(axis=(1, 2))
        self.rms: Doubles = np.sqrt(power / (height * width))

    def fields(self, seed: int, indices: NDArray[np.int64]) -> Floats:
        """Fields (B, C, H, W) of the objects of these indices (B,), in any order.

        An object uses C H W words of the noise stream: white noise in float64, filtered by the
        square root of the spectrum, rounded once to float32.
        """
        fields = np.empty((len(indices), *self.shape), np.float32)
        for field, index in zip(fields, indices.tolist(), strict=True):
            # One object a call, not words_at: it makes those of gaps too, 128 KiB each at 128 px.
            raw = words(seed, Stream.NOISE, index, 1, math.prod(self.shape))
            waves = np.fft.rfft2(normals(raw).reshape(self.shape))
            field[...] = np.fft.irfft2(waves * self._amplitude, s=self.shape[1:])
        return fields
