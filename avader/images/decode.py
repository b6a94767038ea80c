"""Bytes to flux: PNG (8 bits, or 16 bits grey), JPEG and FITS, plain or gzipped.

Legend: C bands, H W pixels. Row 0 is the first row in the file (top in PNG and JPEG, bottom in
the usual display of FITS). Orientation tags are not applied.
"""

import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from avader.images import fits
from avader.images.checks import CutoutError, Reason
from avader.images.fits import MAX_VALUES, Planes, check_size

# The largest file worth reading: the greatest image in float64, its mask and its headers.
MAX_BYTES = 10 * MAX_VALUES
# A progressive JPEG of ordinary make has about ten scans; thousands would only burn time.
MAX_SCANS = 50
# No survey's flux is beyond this; sentinels for "no value" often are.
MAX_FLUX = 1e30

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
GZIP_START = b"\x1f\x8b"
_END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded cutout.

    flux: float32 (C, H, W), input units; NaN where that band has no value (NaN, infinite or
    beyond 1e30 in the file). missing: bool (H, W), pixels that the file marks as bad in every
    band: non-zero in MASK, or wholly transparent. saturated: bool (H, W), a band is at the
    greatest value that its integer type can hold, or at SATURATE or above.
    """

    flux: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]
    saturated: npt.NDArray[np.bool_]


def decode_image(data: bytes) -> Image:
    """The image in the bytes of a PNG, JPEG or FITS file.

    FITS: the first image HDU with data, (H, W) or (C, H, W); an extension named MASK marks bad
    pixels by non-zero values. The size is checked before any pixel is decoded.

    Raises CutoutError for anything wrong with the bytes. Only MemoryError may pass besides: it
    tells of the machine, not of the cutout.
    """
    try:
        # Both libraries warn about odd but readable files; what matters is checked here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _image(_planes(data))
    except (CutoutError, MemoryError):
        raise
    except Exception as error:
        # The libraries raise almost anything on corrupt bytes.
        raise CutoutError(
            Reason.UNREADABLE, f"cannot decode the image: {type(error).__name__}: {error}"
        ) from error


def _planes(data: bytes) -> Planes:
    if len(data) > MAX_BYTES:
        raise CutoutError(
            Reason.TOO_LARGE, f"wanted at most {MAX_BYTES} bytes, came {len(data)} bytes"
        )
    if data.startswith(PNG_START):
        _check_png_depth(data)
        return _pillow_planes(data, kind="PNG")
    if data.startswith(JPEG_START):
        _check_jpeg_scans(data)
        return _pillow_planes(data, kind="JPEG")
    if data.startswith(GZIP_START):
        data = _gunzip(data)
    if data.startswith(fits.START):
        return fits.read_planes(data)
    raise CutoutError(Reason.NOT_AN_IMAGE, f"wanted PNG, JPEG or FITS, came {_describe(data)}")


def _describe(data: bytes) -> str:
    """What bytes that are no image look like, for people."""
    if not data:
        return "an empty file"
    if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return f"text of {len(data)} bytes, perhaps a service's error message: {data[:80]!r}"
    return f"{len(data)} bytes that begin {data[:8]!r}"


def _check_png_depth(data: bytes) -> None:
    """Refuse 16-bit colour, of which Pillow would silently keep 8 bits."""
    depth, colour = (*data[24:26], 0, 0)[:2]
    if depth == 16 and colour != 0:
        raise CutoutError(
            Reason.UNREADABLE,
            "wanted PNG of 8 bits, or 16 bits grey, came 16-bit colour; save it as FITS",
        )


def _check_jpeg_scans(data: bytes) -> None:
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise CutoutError(Reason.UNREADABLE, f"wanted JPEG of {MAX_SCANS} scans, came {scans}")


def _gunzip(data: bytes) -> bytes:
    """The contents of a gzip file, never more than MAX_BYTES."""
    pieces, size = [], 0
    while data.startswith(GZIP_START):
        member = zlib.decompressobj(wbits=31)
        try:
            pieces.append(member.decompress(data, MAX_BYTES + 1 - size))
        except zlib.error as error:
            raise CutoutError(Reason.UNREADABLE, f"the gzip file is corrupt: {error}") from error
        size += len(pieces[-1])
        if size > MAX_BYTES:
            raise CutoutError(
                Reason.TOO_LARGE, f"wanted at most {MAX_BYTES} bytes, the gzip file holds more"
            )
        if not member.eof:
            raise CutoutError(
                Reason.TRUNCATED, f"the gzip file ends early, after {size} bytes of contents"
            )
        data = member.unused_data
    return b"".join(pieces)


def _pillow_planes(data: bytes, *, kind: str) -> Planes:
    try:
        with Pillow.open(BytesIO(data), formats=(kind,)) as file:
            bands = 4 if file.mode in ("P", "PA") else len(file.getbands())
            check_size((bands, file.height, file.width))
            file.load()
            return _raster_planes(file)
    except (CutoutError, MemoryError):
        raise
    except Pillow.DecompressionBombError as error:
        raise CutoutError(Reason.TOO_LARGE, f"{kind}: {error}") from error
    except UnidentifiedImageError as error:
        raise CutoutError(_broken(data, kind), f"the header of the {kind} is broken") from error
    except Exception as error:
        raise CutoutError(
            _broken(data, kind), f"cannot decode the {kind}: {type(error).__name__}: {error}"
        ) from error


def _broken(data: bytes, kind: str) -> Reason:
    """Truncated where the mark that ends such a file is absent, else unreadable."""
    return Reason.UNREADABLE if _END_MARKS[kind] in data else Reason.TRUNCATED


def _raster_planes(file: Pillow.Image) -> Planes:
    """Grey or RGB planes; palettes become RGB, wholly transparent pixels are missing."""
    if file.mode == "CMYK":
        raise CutoutError(Reason.WRONG_BANDS, "wanted grey or RGB, came CMYK, which is inks")
    if file.mode.startswith("I"):
        values = np.asarray(file)[np.newaxis]
        return Planes(values, None, np.any(values == 65_535, axis=0))
    mode = "L" if file.mode in ("1", "L", "LA") else "RGB"
    if "transparency" in file.info or file.mode in ("LA", "RGBA", "PA"):
        mode += "A"
    pixels = np.asarray(file if file.mode == mode else file.convert(mode))
    values = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    values = np.ascontiguousarray(values)
    bad = None
    if mode.endswith("A"):
        values, bad = values[:-1], values[-1] == 0
    return Planes(values, bad, np.maximum.reduce(values) == 255)


def _image(planes: Planes) -> Image:
    with np.errstate(over="ignore", invalid="ignore"):
        flux = np.ascontiguousarray(planes.values, dtype=np.float32)
        if planes.values.dtype.kind == "f":
            flux = np.where(np.abs(flux) <= MAX_FLUX, flux, np.float32(np.nan))
    missing = np.zeros(flux.shape[1:], bool) if planes.bad is None else planes.bad
    return Image(flux=flux, missing=missing, saturated=planes.saturated)
