"""A decoded image to model-ready pixels, and pixels back to flux.

Order: crop -> keep bands, weigh -> fill missing -> resize -> limits -> u -> stretch -> dtype,
where u = (flux - low) / (high - low), clipped to [0, 1]. Limits are those of the resized image,
shared by its bands, as the published model needs. Arithmetic is float32 up to the resize, float64
after it. Legend: C bands, H W pixels, S side of the output.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from avader.images.checks import CutoutError, Reason
from avader.images.decode import Image
from avader.recipe import Preprocessing

FILTERS = {
    "nearest": Pillow.Resampling.NEAREST,
    "box": Pillow.Resampling.BOX,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
}

Flux = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cutout:
    """Model-ready pixels.

    pixels: uint8 or float16 (C, S, S); low, high: flux at pixel value 0 and 1, input units.
    saturated: a pixel inside the crop is saturated in any band of the file, kept or not.
    touches_edge: a pixel of the output's rim lies above half of the way between the limits, on
    the linear scale, in any band. masked: a pixel was missing and has been filled.
    """

    pixels: npt.NDArray[Any]
    low: float
    high: float
    saturated: bool
    touches_edge: bool
    masked: bool


def output_bands(preprocessing: Preprocessing) -> int | None:
    """C of every cutout, or None where each image decides: neither bands nor weights are given."""
    if preprocessing.weights:
        return 1
    return len(preprocessing.bands) or None


def prepare(image: Image, preprocessing: Preprocessing) -> Cutout:
    """Model-ready pixels of an image.

    Raises CutoutError where the image is smaller than the crop, not square without one, lacks a
    band, misses too many pixels, or is constant: before the resize (every band is flat), between
    its limits (equal percentiles), or after clipping (all flux on one side of fixed limits).
    """
    rows, columns = _crop(image.missing.shape, side=preprocessing.crop)
    flux = _weigh(image.flux[:, rows, columns], preprocessing)
    bad = image.missing[rows, columns] | np.isnan(flux).any(axis=0)
    masked = bool(bad.any())
    if masked:
        flux = _fill(flux, bad, preprocessing)
    if all(band.min() == band.max() for band in flux):
        raise CutoutError(Reason.CONSTANT, f"every pixel is {flux[0, 0, 0]:g}")
    flux = resize(flux, size=preprocessing.size, resample=preprocessing.resample)
    low, high = _limits(flux, preprocessing)
    unit = np.clip((flux.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    if unit.min() == unit.max():
        raise CutoutError(Reason.CONSTANT, f"all flux is on one side of limits {low:g}, {high:g}")
    return Cutout(
        pixels=_quantise(_stretch(unit, preprocessing), preprocessing),
        low=low,
        high=high,
        saturated=bool(image.saturated[rows, columns].any()),
        touches_edge=_touches_edge(unit),
        masked=masked,
    )


def restore_flux(
    pixels: npt.ArrayLike, *, low: float, high: float, preprocessing: Preprocessing
) -> Flux:
    """Flux of pixels, float32, same shape: the inverse of stretch and limits, input units.

    pixels: uint8 (x = value / 255), or any float type holding x, such as a decoder's output.
    Resampling, weights and what the limits clipped cannot be undone.
    """
    values = np.asarray(pixels)
    x = values.astype(np.float64) / (255.0 if values.dtype == np.uint8 else 1.0)
    return (low + _unstretch(x, preprocessing) * (high - low)).astype(np.float32)


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


def _crop(shape: tuple[int, ...], *, side: int) -> tuple[slice, slice]:
    """Rows and columns of the central square; an odd remainder leaves one more at the far side."""
    height, width = shape
    if side == 0:
        if height != width:
            raise CutoutError(
                Reason.WRONG_SHAPE,
                f"wanted a square image (or a crop), came {height} x {width} px",
            )
        return slice(None), slice(None)
    if min(height, width) < side:
        raise CutoutError(
            Reason.TOO_SMALL, f"wanted at least {side} x {side} px, came {height} x {width} px"
        )
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _weigh(flux: Flux, preprocessing: Preprocessing) -> Flux:
    """The kept bands (C, H, W), or their weighted sum (1, H, W)."""
    bands, weights = preprocessing.bands, preprocessing.weights
    came = len(flux)
    if bands and max(bands) >= came:
        raise CutoutError(
            Reason.WRONG_BANDS, f"wanted band {max(bands)} (from 0), came {_bands(came)}"
        )
    if weights and not bands and len(weights) != came:
        raise CutoutError(
            Reason.WRONG_BANDS, f"wanted {len(weights)} bands, one a weight, came {_bands(came)}"
        )
    kept = flux[list(bands)] if bands else flux
    if not weights:
        return kept
    with np.errstate(over="ignore", invalid="ignore"):
        total: Flux = np.float32(weights[0]) * kept[0]
        for weight, band in zip(weights[1:], kept[1:], strict=True):
            total += np.float32(weight) * band
    return total[np.newaxis]


def _bands(count: int) -> str:
    return "1 band: the image is grey" if count == 1 else f"{count} bands"


def _fill(flux: Flux, bad: Mask, preprocessing: Preprocessing) -> Flux:
    """Missing pixels (H, W) replaced in every band by the median of its others, or by 0."""
    fraction = float(bad.mean())
    allowed = 0.0 if preprocessing.missing == "reject" else preprocessing.max_missing
    if fraction == 1.0:
        raise CutoutError(Reason.MISSING_PIXELS, "every pixel is NaN or masked")
    if fraction > allowed:
        raise CutoutError(
            Reason.MISSING_PIXELS,
            f"wanted at most {allowed:.4g} of the pixels NaN or masked, came {fraction:.4g} "
            f"({int(bad.sum())} of {bad.size})",
        )
    filled = np.array(flux)
    for band in filled:
        band[bad] = np.median(band[~bad]) if preprocessing.missing == "median" else 0.0
    return filled


def _limits(flux: Flux, preprocessing: Preprocessing) -> tuple[float, float]:
    """Flux that becomes 0 and 1, of the resized image; low < high."""
    least, greatest = float(flux.min()), float(flux.max())
    if not (math.isfinite(least) and math.isfinite(greatest)):
        raise CutoutError(Reason.UNREADABLE, "weights or kernel take the flux beyond float32")
    if preprocessing.limits == "fixed":
        return preprocessing.fixed
    low, high = least, greatest
    if preprocessing.limits == "percentiles":
        low, high = (float(v) for v in np.percentile(flux, preprocessing.percentiles))
    if not low < high:
        raise CutoutError(Reason.CONSTANT, f"both limits ({preprocessing.limits}) are {low:g}")
    return low, high


def _stretch(
    unit: npt.NDArray[np.float64], preprocessing: Preprocessing
) -> npt.NDArray[np.float64]:
    """u in [0, 1] to x in [0, 1]."""
    s = preprocessing.softening
    if preprocessing.stretch == "asinh":
        return np.arcsinh(unit / s) / math.asinh(1 / s)
    if preprocessing.stretch == "log":
        return np.log1p(unit / s) / math.log1p(1 / s)
    return unit


def _unstretch(x: npt.NDArray[np.float64], preprocessing: Preprocessing) -> npt.NDArray[np.float64]:
    """x to u, the inverse of the stretch."""
    s = preprocessing.softening
    if preprocessing.stretch == "asinh":
        return s * np.sinh(x * math.asinh(1 / s))
    if preprocessing.stretch == "log":
        return s * np.expm1(x * math.log1p(1 / s))
    return x


def _quantise(x: npt.NDArray[np.float64], preprocessing: Preprocessing) -> npt.NDArray[Any]:
    """uint8 round(255 x), halves to even, or float16 x."""
    if preprocessing.dtype == "uint8":
        return np.rint(255.0 * x).astype(np.uint8)
    return x.astype(np.float16)


def _touches_edge(unit: npt.NDArray[np.float64]) -> bool:
    rim = (unit[:, 0], unit[:, -1], unit[:, :, 0], unit[:, :, -1])
    return any(bool((side > 0.5).any()) for side in rim)
