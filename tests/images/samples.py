"""Image bytes for the tests, made by the libraries themselves and never by our own encoder."""

import gzip
import io
import struct
import zlib

import numpy as np
from astropy.io import fits
from PIL import Image as Pillow

from avader.images.checks import CutoutError


def grey(side: int = 32, *, seed: int = 0) -> np.ndarray:
    """uint8 (side, side): a soft blob on noise, 0 to 230."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    blob = 200 * np.exp(-(x**2 + y**2) / (2 * (side / 6) ** 2))
    return (blob + 30 * rng.random((side, side))).astype(np.uint8)


def colour(side: int = 32) -> np.ndarray:
    """uint8 (side, side, 3)."""
    return np.stack([grey(side, seed=band) for band in range(3)], axis=-1)


def pillow_bytes(array: np.ndarray, kind: str = "PNG", *, mode: str | None = None, **options):
    out = io.BytesIO()
    picture = Pillow.fromarray(array)
    (picture.convert(mode) if mode else picture).save(out, format=kind, **options)
    return out.getvalue()


def png(array: np.ndarray, **options) -> bytes:
    return pillow_bytes(array, "PNG", **options)


def jpeg(array: np.ndarray, **options) -> bytes:
    return pillow_bytes(array, "JPEG", **{"quality": 92, **options})


def fits_bytes(array: np.ndarray | None, *, mask: np.ndarray | None = None, **cards) -> bytes:
    """A primary image, an extension MASK if there is one, and extra cards in the primary."""
    primary = fits.PrimaryHDU(array)
    primary.header.update({name.upper(): value for name, value in cards.items()})
    hdus = [primary] if mask is None else [primary, fits.ImageHDU(mask, name="MASK")]
    return hdu_bytes(hdus)


def hdu_bytes(hdus) -> bytes:
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out, output_verify="ignore")
    return out.getvalue()


def card(data: bytes, name: str, text: str) -> bytes:
    """FITS bytes with the value of the first card of this name replaced by raw text."""
    at = data.index(f"{name:<8}=".encode())
    return data[:at] + f"{name:<8}= {text}".ljust(80).encode() + data[at + 80 :]


def add_cards(data: bytes, **cards: str) -> bytes:
    """FITS bytes with raw cards put before the END of the first header, its length unchanged."""
    at = data.index(b"END".ljust(80))
    lines = [f"{name:<8}= {text}".ljust(80).encode() for name, text in cards.items()]
    text = b"".join([*lines, b"END".ljust(80)])
    return data[:at] + text + data[at + len(text) :]


def outcome(work, *arguments):
    """What a function gives, or the CutoutError that it raises."""
    try:
        return work(*arguments)
    except CutoutError as error:
        return error


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_chunks(
    width: int,
    height: int,
    *,
    depth: int = 8,
    kind: int = 0,
    body: bytes = b"",
    packed: bytes | None = None,
) -> bytes:
    """A PNG with this header and this body, right in all its checksums; packed: as it stands."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = zlib.compress(body) if packed is None else packed
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
