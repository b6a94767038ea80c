"""Arrays to image bytes: what decode reads back, for mock surveys and synthetic skies."""

import io
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image as Picture


def encode_fits(
    flux: np.ndarray, *, header: Mapping[str, str | float] = MappingProxyType({})
) -> bytes:
    """FITS bytes of flux (H, W) or (C, H, W), with these header cards."""
    from astropy.io import fits  # half a second, of every worker that writes other files

    hdu = fits.PrimaryHDU(np.asarray(flux))
    for name, value in header.items():
        hdu.header[name] = value
    out = io.BytesIO()
    hdu.writeto(out)
    return out.getvalue()


def encode_png(values: np.ndarray) -> bytes:
    """PNG bytes of grey values (H, W), uint8 or uint16, or of colours (H, W, 3), uint8.

    The first row of the array is the top row of the picture.
    """
    out = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(values)).save(out, format="PNG")
    return out.getvalue()


def encode_image(pixels: np.ndarray, encoding: str, *, quality: int = 95) -> bytes:
    """PNG or JPEG bytes of uint8 (1 or 3, H, W): lossless, or of this quality with full colours.

    PNG at the fastest compression, which takes a quarter of the default's time for a file a third
    larger.
    """
    values = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    picture = Picture.fromarray(np.ascontiguousarray(values))
    out = io.BytesIO()
    if encoding == "png":
        picture.save(out, format="PNG", compress_level=1)
    else:
        picture.save(out, format="JPEG", quality=quality, subsampling=0)
    return out.getvalue()
