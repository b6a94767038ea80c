"""Bytes to flux: PNG (8 bits, or 16 bits grey), JPEG and FITS, plain or gzipped.

Legend: C bands, H W pixels. Row 0 is the first row in the file (top in PNG and JPEG, bottom in
the usual display of FITS). Orientation tags are not applied.
"""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avader.images import fits, raster
from avader.images.checks import CutoutError, Reason
from avader.images.limits import MAX_BYTES, MAX_MEMBERS, Data, Deadline
from avader.images.planes import Planes

# No survey's flux is beyond this; sentinels for "no value" often are.
MAX_FLUX = 1e30

READERS = {raster.PNG_START: raster.read_png, raster.JPEG_START: raster.read_jpeg}
GZIP_START = b"\x1f\x8b"
GZIP_PIECE = 2**16
# What is recognised, to be told by its name.
OTHER_FORMATS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"RIFF": "RIFF, such as WebP",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x89HDF": "HDF5",
    b"#ASDF": "ASDF",
    b"%PDF": "PDF",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}


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


def decode_image(data: bytes, *, extensions: Sequence[str] = ()) -> Image:
    """The image in the bytes of a PNG, JPEG or FITS file.

    FITS: the first image HDU with data, (H, W) or (C, H, W), or the extensions of these names, one
    after another; an extension named MASK marks bad pixels by non-zero values. The size is checked
    before any pixel is decoded, and there is a limit to all that could take long (limits.py).

    Raises CutoutError for anything wrong with the bytes. Only MemoryError may pass besides: it
    tells of the machine, not of the cutout.
    """
    try:
        # Both libraries warn about odd but readable files; what matters is checked here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _image(_planes(data, tuple(extensions), Deadline()))
    except (CutoutError, MemoryError):
        raise
    except Exception as error:
        # The libraries raise almost anything on corrupt bytes.
        raise CutoutError(
            Reason.CORRUPT, f"cannot decode the image: {type(error).__name__}: {error}"
        ) from error


def _planes(data: bytes, extensions: tuple[str, ...], deadline: Deadline) -> Planes:
    if len(data) > MAX_BYTES:
        raise CutoutError(
            Reason.FILE_TOO_LARGE, f"wanted at most {MAX_BYTES} bytes, came {len(data)} bytes"
        )
    contents = _gunzip(data, deadline) if data.startswith(GZIP_START) else data
    if contents.startswith(fits.START):
        return fits.read_planes(contents, deadline, extensions=extensions)
    for start, read in READERS.items():
        if contents.startswith(start):
            if extensions:
                raise CutoutError(
                    Reason.WRONG_BANDS, f"wanted FITS with {', '.join(extensions)}, came no FITS"
                )
            return read(contents, deadline)
    raise _refusal(contents)


def _refusal(data: Data) -> CutoutError:
    """What is wrong with bytes that are no image that is read."""
    wanted = "wanted PNG, JPEG or FITS, came"
    if not data:
        return CutoutError(Reason.EMPTY_FILE, f"{wanted} an empty file")
    for start, name in OTHER_FORMATS.items():
        if data.startswith(start):
            return CutoutError(Reason.OTHER_FORMAT, f"{wanted} {name}; convert it")
    if _is_text(data):
        return CutoutError(
            Reason.TEXT,
            f"{wanted} text of {len(data)} bytes, perhaps an error message: {bytes(data[:80])!r}",
        )
    return CutoutError(
        Reason.NOT_AN_IMAGE, f"{wanted} {len(data)} bytes that begin {bytes(data[:8])!r}"
    )


def _is_text(data: Data) -> bool:
    """Whether the first bytes are printable, in ASCII or UTF-8."""
    start = data[:512].decode(errors="ignore")
    return all(character.isprintable() or character in "\t\r\n\ufeff" for character in start) and (
        len(start.encode()) >= min(len(data), 512) - 3
    )


def _gunzip(data: bytes, deadline: Deadline) -> bytearray:
    """The contents of a gzip file, never more than MAX_BYTES."""
    contents, at, members = bytearray(), 0, 0
    while data.startswith(GZIP_START, at):
        members += 1
        if members > MAX_MEMBERS:
            raise CutoutError(
                Reason.TOO_COMPLEX, f"wanted at most {MAX_MEMBERS} gzip members, came more"
            )
        at = _member(data, at, contents, deadline)
    return contents


def _member(data: bytes, at: int, contents: bytearray, deadline: Deadline) -> int:
    """Add the contents of the gzip member at an offset; the offset of what follows it."""
    member = zlib.decompressobj(wbits=31)
    while not member.eof:
        deadline.check()
        piece = data[at : at + GZIP_PIECE]
        if not piece:
            raise CutoutError(
                Reason.TRUNCATED, f"the gzip file ends early, after {len(contents)} bytes"
            )
        try:
            contents += member.decompress(piece, MAX_BYTES + 1 - len(contents))
        except zlib.error as error:
            reason = Reason.BAD_CHECKSUM if "check" in str(error) else Reason.CORRUPT
            raise CutoutError(reason, f"the gzip file is corrupt: {error}") from error
        if len(contents) > MAX_BYTES:
            raise CutoutError(
                Reason.FILE_TOO_LARGE, f"wanted at most {MAX_BYTES} bytes, the gzip file holds more"
            )
        at += len(piece) - len(member.unused_data) - len(member.unconsumed_tail)
    return at


def _image(planes: Planes) -> Image:
    with np.errstate(over="ignore", invalid="ignore"):
        flux = np.ascontiguousarray(planes.values, dtype=np.float32)
        if planes.values.dtype.kind == "f":
            flux = np.where(np.abs(flux) <= MAX_FLUX, flux, np.float32(np.nan))
    missing = np.zeros(flux.shape[1:], bool) if planes.bad is None else planes.bad
    return Image(flux=flux, missing=missing, saturated=planes.saturated)
