"""PNG and JPEG to planes of values, by Pillow.

What Pillow leaves unseen is looked at here: the checksums of PNG's pixels, colours of 16 bits (it
keeps 8), further frames. Legend: C bands, H W pixels.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from avader.images.checks import CutoutError, Reason
from avader.images.limits import MAX_CHUNKS, MAX_SCANS, Data, Deadline, Reader, check_size
from avader.images.planes import Planes

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
_END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
# Chunks that make the pixels; others, such as texts, may be what they like.
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}


def read_png(data: Data, deadline: Deadline) -> Planes:
    """Planes of a PNG: 8 bits, or 16 bits grey. Raises CutoutError."""
    depth, colour = (*data[24:26], 0, 0)[:2]
    if depth == 16 and colour != 0:
        raise CutoutError(
            Reason.OTHER_COLOURS,
            "wanted PNG of 8 bits, or 16 bits grey, came 16-bit colour; save it as FITS",
        )
    for kind, whole in _chunks(data):
        if not whole and kind in _PIXEL_CHUNKS:
            raise CutoutError(
                Reason.BAD_CHECKSUM, f"the checksum of a chunk {kind.decode()} of the PNG is wrong"
            )
    return _planes(data, "PNG", deadline)


def read_jpeg(data: Data, deadline: Deadline) -> Planes:
    """Planes of a JPEG, grey or RGB. Raises CutoutError."""
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise CutoutError(Reason.TOO_COMPLEX, f"wanted JPEG of {MAX_SCANS} scans, came {scans}")
    return _planes(data, "JPEG", deadline)


def _chunks(data: Data) -> Iterator[tuple[bytes, bool]]:
    """Name of every chunk that is there to its end, and whether its checksum fits."""
    view, at, count = memoryview(data), len(PNG_START), 0
    while at + 12 <= len(data):
        stop = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if stop + 4 > len(data):
            return
        count += 1
        if count > MAX_CHUNKS:
            raise CutoutError(Reason.TOO_COMPLEX, f"wanted at most {MAX_CHUNKS} chunks, came more")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, zlib.crc32(view[at + 4 : stop]) == int.from_bytes(view[stop : stop + 4], "big")
        if kind == b"IEND":
            return
        at = stop + 4


def _planes(data: Data, kind: str, deadline: Deadline) -> Planes:
    try:
        with Pillow.open(Reader(data, deadline), formats=(kind,)) as file:
            bands = 4 if file.mode in ("P", "PA") else len(file.getbands())
            check_size((bands, file.height, file.width))
            if (frames := getattr(file, "n_frames", 1)) > 1:
                raise CutoutError(Reason.SEVERAL_FRAMES, f"wanted one image, came {frames} frames")
            file.load()
            return _values(file)
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


def _broken(data: Data, kind: str) -> Reason:
    """Truncated where the mark that ends such a file is absent, else corrupt."""
    return Reason.CORRUPT if _END_MARKS[kind] in data else Reason.TRUNCATED


def _values(file: Pillow.Image) -> Planes:
    """Grey or RGB planes; palettes become RGB, wholly transparent pixels are missing."""
    if file.mode == "CMYK":
        raise CutoutError(Reason.OTHER_COLOURS, "wanted grey or RGB, came CMYK, which is inks")
    if file.mode.startswith("I"):
        values = np.asarray(file)[np.newaxis]
        clear = file.info.get("transparency")  # a grey level
        bad = None if clear is None else values[0] == clear
        return Planes(values, bad, np.any(values == 65_535, axis=0))
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
