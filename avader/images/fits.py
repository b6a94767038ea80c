"""FITS images from bytes (FITS standard 4.0, sections 3, 4 and 7.1).

astropy reads the header cards. The walk over the blocks is done here, so that sizes are checked
before any pixel is touched, a truncated file is told as such, and no extension (a mask!) is
skipped in silence. Legend: C bands, H W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io.fits import Header

from avader.images.checks import CutoutError, Reason

START = b"SIMPLE  ="
BLOCK = 2880
CARD = 80
MAX_HEADER_BLOCKS = 500
MAX_HDUS = 100
# Three bands of 4096 x 4096, the largest output, are the largest input too.
MAX_VALUES = 3 * 4096 * 4096
TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True, eq=False)
class Planes:
    """Values as the file gives them, physical but not yet float32.

    values: (C, H, W), any real type; bad: bool (H, W) or None for no mask; saturated: bool (H, W).
    """

    values: npt.NDArray[Any]
    bad: npt.NDArray[np.bool_] | None
    saturated: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Hdu:
    """Header and place of its data, bytes from the start of the file."""

    number: int
    header: Header
    start: int
    size: int


def read_planes(data: bytes) -> Planes:
    """The first image HDU with data, and the bad pixels of the extension MASK.

    An image is (H, W), (C, H, W), or either with more axes of length 1 before. BLANK becomes NaN,
    BSCALE and BZERO are applied. SATURATE is in physical units; one that is no number is ignored.
    MASK is (H, W), or (C, H, W): bad where any band is non-zero.
    """
    image, mask = _image_and_mask(data)
    values, raw = _values(data, image)
    bad = None if mask is None else np.any(_values(data, mask)[0] != 0, axis=0)
    if bad is not None and bad.shape != values.shape[1:]:
        raise CutoutError(
            Reason.WRONG_SHAPE,
            f"MASK: wanted {_sides(values.shape)} as the image, came {_sides(bad.shape)}",
        )
    return Planes(values, bad, _saturated(image, values=values, raw=raw))


def check_size(shape: tuple[int, ...]) -> None:
    """Raise CutoutError where an image of this shape is larger than any cutout may be, or empty."""
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise CutoutError(
            Reason.TOO_LARGE, f"wanted at most {MAX_VALUES} values, came {_sides(shape)} = {count}"
        )
    if count < 1:
        raise CutoutError(Reason.WRONG_SHAPE, f"wanted pixels, came {_sides(shape)}")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def _hdus(data: bytes) -> Iterator[_Hdu]:
    """Every HDU of the file, in order; padding of zeros or blanks may follow the last."""
    offset = number = 0
    while offset < len(data) and data[offset : offset + BLOCK].strip(b"\0 "):
        if number >= MAX_HDUS:
            raise CutoutError(Reason.UNREADABLE, f"wanted at most {MAX_HDUS} HDUs, came more")
        header, start = _header(data, offset=offset, number=number)
        hdu = _Hdu(number, header, start, _data_size(header, number=number))
        if start + hdu.size > len(data):
            raise CutoutError(
                Reason.TRUNCATED,
                f"HDU {number} wants {hdu.size} bytes of data, came {max(len(data) - start, 0)}",
            )
        yield hdu
        offset = start + -(-hdu.size // BLOCK) * BLOCK
        number += 1


def _header(data: bytes, *, offset: int, number: int) -> tuple[Header, int]:
    """The header that begins at an offset, and the offset of its data."""
    if number and not data.startswith(b"XTENSION", offset):
        raise CutoutError(
            Reason.UNREADABLE, f"wanted a FITS extension at byte {offset}, came something else"
        )
    stop = min(len(data), offset + MAX_HEADER_BLOCKS * BLOCK)
    for card in range(offset, stop - CARD + 1, CARD):
        if data.startswith(b"END     ", card):
            text = data[offset:card].decode("ascii", errors="replace")
            return Header.fromstring(text), offset + -(-(card + CARD - offset) // BLOCK) * BLOCK
    reason = Reason.TRUNCATED if stop == len(data) else Reason.UNREADABLE
    raise CutoutError(reason, f"the header of HDU {number} has no END card")


def _data_size(header: Header, *, number: int) -> int:
    """Bytes of data that the header announces (FITS standard 4.0, equations 1 and 2)."""
    bitpix = _integer(header, "BITPIX", number=number)
    if bitpix not in TYPES:
        raise CutoutError(Reason.UNREADABLE, f"BITPIX of HDU {number} is {bitpix}, no FITS type")
    shape = _shape(header, number=number)
    if not shape:
        return 0
    if len(shape) > 1 and shape[-1] == 0 and header.get("GROUPS") is True:
        raise CutoutError(Reason.NOT_AN_IMAGE, "wanted a FITS image, came random groups")
    groups = _integer(header, "GCOUNT", number=number, default=1)
    extra = _integer(header, "PCOUNT", number=number, default=0)
    return abs(bitpix) // 8 * groups * (extra + math.prod(shape))


def _shape(header: Header, *, number: int) -> tuple[int, ...]:
    """Lengths of the axes, slowest first."""
    axes = _integer(header, "NAXIS", number=number)
    if not 0 <= axes <= 999:
        raise CutoutError(Reason.UNREADABLE, f"NAXIS of HDU {number} is {axes}")
    lengths = [_integer(header, f"NAXIS{axis}", number=number) for axis in range(axes, 0, -1)]
    return tuple(lengths)


def _integer(header: Header, name: str, *, number: int, default: int | None = None) -> int:
    """A keyword that must be an integer; negative ones only for BITPIX and BLANK."""
    value = header.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CutoutError(
            Reason.UNREADABLE, f"{name} of HDU {number}: wanted an integer, came {value!r}"
        )
    if value < 0 and name not in ("BITPIX", "BLANK"):
        raise CutoutError(Reason.UNREADABLE, f"{name} of HDU {number}: came {value}, below 0")
    return value


def _factor(hdu: _Hdu, name: str, default: float) -> float:
    """BSCALE or BZERO."""
    value = hdu.header.get(name, default)
    if not _is_number(value):
        raise CutoutError(
            Reason.UNREADABLE, f"{name} of HDU {hdu.number}: wanted a number, came {value!r}"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _image_and_mask(data: bytes) -> tuple[_Hdu, _Hdu | None]:
    """The first image with data, and the first extension named MASK."""
    image = mask = None
    for hdu in _hdus(data):
        if mask is None and _name(hdu) == "MASK":
            mask = hdu if _is_image(hdu) else None
        elif image is None and _is_image(hdu):
            image = hdu
    if image is None:
        raise CutoutError(Reason.NOT_AN_IMAGE, "wanted a FITS image with data, came none")
    return image, mask


def _is_image(hdu: _Hdu) -> bool:
    """Whether an HDU is an image with data; one packed in a table is refused, not overlooked."""
    kind = "IMAGE" if hdu.number == 0 else str(hdu.header.get("XTENSION")).strip()
    if hdu.header.get("ZIMAGE") is True:
        raise CutoutError(
            Reason.UNREADABLE,
            f"HDU {hdu.number}: wanted a plain FITS image, came a tile-compressed one; "
            "unpack it with funpack",
        )
    if _name(hdu) == "MASK" and (kind != "IMAGE" or hdu.size == 0):
        raise CutoutError(Reason.UNREADABLE, f"MASK: wanted an image with data, came {kind}")
    return kind == "IMAGE" and hdu.size > 0


def _name(hdu: _Hdu) -> str:
    return str(hdu.header.get("EXTNAME", "")).strip().upper()


def _values(data: bytes, hdu: _Hdu) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Physical values (C, H, W) and the raw ones; integers with BLANK or factors are float64."""
    shape = _shape(hdu.header, number=hdu.number)
    check_size(shape)
    if len(shape) < 2 or any(length != 1 for length in shape[:-3]):
        raise CutoutError(
            Reason.WRONG_SHAPE,
            f"wanted (H, W) or (C, H, W), came {len(shape)} axes: {_sides(shape)}",
        )
    bitpix = _integer(hdu.header, "BITPIX", number=hdu.number)
    raw = np.frombuffer(data, dtype=TYPES[bitpix], count=math.prod(shape), offset=hdu.start)
    raw = raw.reshape((1, *shape)[-3:])
    scale, zero = _factor(hdu, "BSCALE", 1.0), _factor(hdu, "BZERO", 0.0)
    blank = None
    if bitpix > 0 and "BLANK" in hdu.header:
        blank = _integer(hdu.header, "BLANK", number=hdu.number)
    if (scale, zero) == (1.0, 0.0) and blank is None:
        return raw, raw
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float64) * scale + zero
    if blank is not None:
        values[raw == blank] = np.nan
    return values, raw


def _saturated(
    hdu: _Hdu, *, values: npt.NDArray[Any], raw: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Where any band is at its integer type's greatest value, or at SATURATE or above; (H, W)."""
    full = np.zeros(values.shape, dtype=bool)
    if raw.dtype.kind in "iu":
        full |= raw == np.iinfo(raw.dtype).max
    limit = hdu.header.get("SATURATE")
    if _is_number(limit):
        full |= values >= limit
    saturated: npt.NDArray[np.bool_] = np.any(full, axis=0)
    return saturated
