"""A decoded image to model-ready pixels, and pixels back to flux.

Order: crop -> keep bands, weigh -> fill missing -> resize -> (find the source -> turn the
unresized flux into the canonical frame, resizing it) -> limits -> u -> stretch -> dtype, where
u = (flux - low) / (high - low), clipped to [0, 1]. Limits are those of the resized image, shared
by its bands, as the published model needs. Arithmetic is float32 up to the resize, float64 after
it. Legend: C bands, H W pixels, S side of the output.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avader.images.checks import CutoutError, Reason
from avader.images.decode import Image, decode_image
from avader.images.orientation import (
    Orientation,
    find_orientation,
    mask_to_canonical,
    to_canonical,
)
from avader.images.resize import resize
from avader.images.source import find_source, sky
from avader.recipe import Preprocessing

Flux = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Square = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Cutout:
    """Model-ready pixels.

    pixels: uint8 or float16 (C, S, S); low, high: flux at pixel value 0 and 1, input units.
    saturated: a pixel inside the crop is saturated in any band of the file, kept or not.
    touches_edge: a pixel of the output's rim lies above half of the way between the limits, on
    the linear scale, in any band. masked: a pixel was missing and has been filled. orientation:
    of the source on the sky, where it was asked to be undone. source: bool (S, S), the pixels of
    the central source in the frame of the output, where orientation or mask was asked for.
    """

    pixels: npt.NDArray[Any]
    low: float
    high: float
    saturated: bool
    touches_edge: bool
    masked: bool
    orientation: Orientation | None = None
    source: Mask | None = None


def output_bands(preprocessing: Preprocessing) -> int | None:
    """C of every cutout, or None where each image decides: neither bands nor weights are given."""
    if preprocessing.weights:
        return 1
    return len(preprocessing.bands) or None


def read_cutout(data: bytes, preprocessing: Preprocessing) -> Cutout:
    """Model-ready pixels of a file's bytes. Raises CutoutError with what is wrong with them."""
    return prepare(decode_image(data, extensions=preprocessing.extensions), preprocessing)


def prepare(image: Image, preprocessing: Preprocessing) -> Cutout:
    """Model-ready pixels of an image.

    Raises CutoutError where the image is smaller than the crop, not square without one, lacks a
    band, misses too many pixels, or is constant: before the resize (every band is flat), between
    its limits (equal percentiles), or after clipping (all flux on one side of fixed limits).
    """
    square = _crop(image.missing.shape, side=preprocessing.crop)
    flux = _weigh(image.flux[:, *square], preprocessing)
    bad = image.missing[square] | np.isnan(flux).any(axis=0)
    masked = bool(bad.any())
    if masked:
        flux = _fill(flux, bad, preprocessing)
    if all(band.min() == band.max() for band in flux):
        reason = Reason.CONSTANT if flux.any() else Reason.BLANK
        raise CutoutError(reason, f"every pixel is {flux[0, 0, 0]:g}")
    resized, source, orientation = _framed(image, flux, square, preprocessing)
    low, high = _limits(resized, preprocessing)
    unit = np.clip((resized.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    if unit.min() == unit.max():
        raise CutoutError(
            Reason.OUTSIDE_LIMITS, f"all flux is on one side of limits {low:g}, {high:g}"
        )
    return Cutout(
        pixels=_quantise(_stretch(unit, preprocessing), preprocessing),
        low=low,
        high=high,
        saturated=bool(image.saturated[square].any()),
        touches_edge=_touches_edge(unit),
        masked=masked,
        orientation=orientation,
        source=source,
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


def _crop(shape: tuple[int, ...], *, side: int) -> Square:
    """Rows and columns of the central square; an odd remainder leaves one more at the far side."""
    height, width = shape
    if side == 0:
        if height != width:
            raise CutoutError(
                Reason.NOT_SQUARE,
                f"wanted a square image (or a crop), came {height} x {width} px",
            )
        return slice(0, height), slice(0, width)
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
        raise CutoutError(Reason.ALL_MISSING, "every pixel is NaN or masked")
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


def _framed(
    image: Image, flux: Flux, square: Square, preprocessing: Preprocessing
) -> tuple[Flux, Mask | None, Orientation | None]:
    """The square's flux (C, H, W), already filled, as (C, S, S) in the frame that is asked for.

    With it the source's pixels in that frame (S, S) and its orientation on the sky, as far as
    they are needed. The source is looked for in the sum of the bands, already resized.
    """
    resized = _finite(resize(flux, size=preprocessing.size, resample=preprocessing.resample))
    if preprocessing.orientation == "sky" and not preprocessing.source_mask:
        return resized, None, None
    light = resized.sum(axis=0, dtype=np.float64)
    source = find_source(light)
    if preprocessing.orientation == "sky":
        return resized, source, None
    orientation = find_orientation(light, source)
    turned = _finite(_canonical(image, flux, resized, square, orientation, preprocessing))
    return turned, mask_to_canonical(source, orientation), orientation


def _finite(flux: Flux) -> Flux:
    if not np.isfinite(flux).all():
        raise CutoutError(Reason.OVERFLOW, "weights or kernel take the flux beyond float32")
    return flux


def _canonical(
    image: Image,
    flux: Flux,
    resized: Flux,
    square: Square,
    orientation: Orientation,
    preprocessing: Preprocessing,
) -> Flux:
    """The square's flux (C, H, W), already filled, in the canonical frame (C, S, S).

    Corners of that frame lie beyond the square: they take the image's own pixels where it has
    them, and else the level of the sky, measured in each band of the resized square.
    """
    side = flux.shape[-1]
    wide, inner = _surroundings(image.missing.shape, square)
    around = np.array(_weigh(image.flux[:, *wide], preprocessing))
    around[:, *inner] = flux
    levels = [sky(band)[0] for band in resized]
    missing = image.missing[wide].copy()
    missing[inner] = False
    for band, level in zip(around, levels, strict=True):
        band[missing | ~np.isfinite(band)] = level
    return to_canonical(
        around,
        orientation,
        side=side,
        size=preprocessing.size,
        resample=preprocessing.resample,
        fill=levels,
    )


def _surroundings(shape: tuple[int, ...], square: Square) -> tuple[Square, Square]:
    """A wider rectangle with the same centre that holds the square however it is turned, cut at
    the image's edges; and the square's place in it."""
    side = square[0].stop - square[0].start
    reach = math.ceil((math.sqrt(2) - 1) / 2 * side) + 2
    margins = [
        min(reach, part.start, length - part.stop)
        for part, length in zip(square, shape, strict=True)
    ]
    wide = tuple(
        slice(part.start - margin, part.stop + margin)
        for part, margin in zip(square, margins, strict=True)
    )
    inner = tuple(slice(margin, margin + side) for margin in margins)
    return (wide[0], wide[1]), (inner[0], inner[1])


def _limits(flux: Flux, preprocessing: Preprocessing) -> tuple[float, float]:
    """Flux that becomes 0 and 1, of the resized image; low < high."""
    if preprocessing.limits == "fixed":
        return preprocessing.fixed
    low, high = float(flux.min()), float(flux.max())
    if preprocessing.limits == "percentiles":
        low, high = (float(v) for v in np.percentile(flux, preprocessing.percentiles))
    if not low < high:
        raise CutoutError(Reason.NO_RANGE, f"both limits ({preprocessing.limits}) are {low:g}")
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
