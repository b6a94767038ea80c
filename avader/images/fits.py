"""FITS images from bytes: one image or cube, or a band in each of several extensions, and a mask.

Legend: C bands, H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from avader.images.checks import CutoutError, Reason
from avader.images.headers import TYPES, Hdu, hdus, is_number
from avader.images.limits import Data, Deadline, check_size, sides
from avader.images.planes import Planes

START = b"SIMPLE  ="


def read_planes(data: Data, deadline: Deadline, *, extensions: Sequence[str] = ()) -> Planes:
    """The image of a FITS file, and the bad pixels of its extension MASK.

    The image is the first HDU with one, or the extensions of these names (EXTNAME, or the HDU's
    number, 0 for the primary), one after another. Each is (H, W), (C, H, W), or either with more
    axes of length 1 before. BLANK becomes NaN, BSCALE and BZERO are applied. SATURATE is in
    physical units; one that is no number is ignored. MASK is (H, W), or (C, H, W): bad where any
    band is non-zero.
    """
    images, mask = _images_and_mask(data, deadline, extensions)
    for image in images:
        check_size(image.shape)
    check_size((sum(math.prod(image.shape) for image in images),))
    planes = [_planes(data, image) for image in images]
    values = _joined([plane.values for plane in planes], extensions)
    bad = None if mask is None else _bad(data, mask, values.shape[1:])
    return Planes(values, bad, np.any([plane.saturated for plane in planes], axis=0))


def _images_and_mask(
    data: Data, deadline: Deadline, extensions: Sequence[str]
) -> tuple[list[Hdu], Hdu | None]:
    """The images asked for, else the first one with data; and the first extension named MASK."""
    others, mask = list[Hdu](), None
    for hdu in hdus(data, deadline):
        if mask is None and hdu.name == "MASK":
            mask = hdu if _is_image(hdu) else None
        else:
            others.append(hdu)
    if extensions:
        return [_named(name, others) for name in extensions], mask
    image = next((hdu for hdu in others if _is_image(hdu)), None)
    if image is not None:
        return [image], mask
    kinds = ", ".join(sorted({hdu.kind for hdu in others if hdu.size}))
    if kinds:
        raise CutoutError(Reason.FITS_TABLE, f"wanted a FITS image, came {kinds} alone")
    raise CutoutError(Reason.NO_FITS_IMAGE, "wanted a FITS image with data, came none")


def _named(name: str, others: Sequence[Hdu]) -> Hdu:
    """The image of this name or number."""
    for hdu in others:
        if (name.upper() == hdu.name or name == str(hdu.number)) and _is_image(hdu):
            return hdu
    there = ", ".join(hdu.name or str(hdu.number) for hdu in others if hdu.size) or "none"
    raise CutoutError(
        Reason.WRONG_BANDS, f"wanted an image in the FITS extension {name}, came {there}"
    )


def _is_image(hdu: Hdu) -> bool:
    """Whether an HDU is an image with data; one packed in a table is refused, not overlooked."""
    if hdu.header.get("ZIMAGE") is True:
        raise CutoutError(
            Reason.TILE_COMPRESSED,
            f"HDU {hdu.number}: wanted a plain FITS image, came a tile-compressed one; "
            "unpack it with funpack",
        )
    image = hdu.kind == "IMAGE" and hdu.size > 0
    if hdu.name == "MASK" and not image:
        raise CutoutError(Reason.BAD_MASK, f"MASK: wanted an image with data, came {hdu.kind}")
    return image


def _joined(parts: Sequence[npt.NDArray[Any]], extensions: Sequence[str]) -> npt.NDArray[Any]:
    """The planes of all images (C, H, W)."""
    if len(parts) == 1:
        return parts[0]
    shapes = [part.shape[1:] for part in parts]
    if len(set(shapes)) > 1:
        came = ", ".join(
            f"{name} {sides(shape)}" for name, shape in zip(extensions, shapes, strict=True)
        )
        raise CutoutError(Reason.BANDS_DIFFER, f"wanted bands of one shape, came {came}")
    return np.concatenate(parts)


def _bad(data: Data, mask: Hdu, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The bad pixels (H, W) of an image of this shape."""
    try:
        bad = np.any(_values(data, mask)[0] != 0, axis=0)
    except CutoutError as error:
        raise CutoutError(Reason.BAD_MASK, f"MASK: {error.detail}") from error
    if bad.shape != shape:
        raise CutoutError(
            Reason.BAD_MASK, f"MASK: wanted {sides(shape)} as the image, came {sides(bad.shape)}"
        )
    return bad


def _planes(data: Data, hdu: Hdu) -> Planes:
    """Physical values of an image, and where any band is at its integer type's greatest value, or
    at SATURATE or above."""
    values, raw = _values(data, hdu)
    full = np.zeros(values.shape, dtype=bool)
    if raw.dtype.kind in "iu":
        full |= raw == np.iinfo(raw.dtype).max
    limit = hdu.header.get("SATURATE")
    if is_number(limit):
        full |= values >= limit
    return Planes(values, None, np.any(full, axis=0))


def _values(data: Data, hdu: Hdu) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Physical values (C, H, W) and the raw ones; integers with BLANK or factors are float64."""
    shape = hdu.shape
    check_size(shape)
    if len(shape) < 2 or any(length != 1 for length in shape[:-3]):
        raise CutoutError(
            Reason.WRONG_AXES,
            f"wanted (H, W) or (C, H, W), came {len(shape)} axes: {sides(shape)}",
        )
    raw = np.frombuffer(
        data, dtype=TYPES[hdu.bitpix], count=math.prod(shape), offset=hdu.start
    ).reshape((1, *shape)[-3:])
    scale, zero, blank = _scaling(hdu)
    if (scale, zero) == (1.0, 0.0) and blank is None:
        return raw, raw
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float64) * scale + zero
    if blank is not None:
        values[raw == blank] = np.nan
    return values, raw


def _scaling(hdu: Hdu) -> tuple[float, float, int | None]:
    """BSCALE, BZERO, and BLANK of integers."""
    scale, zero = hdu.header.get("BSCALE", 1.0), hdu.header.get("BZERO", 0.0)
    for name, value in (("BSCALE", scale), ("BZERO", zero)):
        if not is_number(value):
            raise CutoutError(
                Reason.BAD_SCALING, f"{name} of HDU {hdu.number}: wanted a number, came {value!r}"
            )
    if scale == 0:
        raise CutoutError(Reason.BAD_SCALING, f"BSCALE of HDU {hdu.number} is 0")
    blank = hdu.header.get("BLANK") if hdu.bitpix > 0 else None
    if blank is not None and (not isinstance(blank, int) or isinstance(blank, bool)):
        raise CutoutError(
            Reason.BAD_SCALING, f"BLANK of HDU {hdu.number}: wanted an integer, came {blank!r}"
        )
    return float(scale), float(zero), blank
