"""Arrays to image bytes: what decode reads back, for the mock survey."""

import io
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from astropy.io import fits
from PIL import Image as Picture


def encode_fits(
    flux: np.ndarray, *, header: Mapping[str, str | float] = MappingProxyType({})
) -> bytes:
    """FITS bytes of flux (H, W) or (C, H, W), with these header cards."""
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
