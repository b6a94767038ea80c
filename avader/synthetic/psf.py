"""A point spread function that the user gives, and images convolved with it.

The images that a model draws have the PSF of the survey it learned from already: what is given here
comes on top of it, the kernel that takes the one to the other. All bands get the same.

Legend: B images, C bands, H W pixels, h w pixels of the kernel.
"""

import math

import numpy as np
from numpy.typing import NDArray

from avader.errors import InputError
from avader.images.checks import CutoutError
from avader.images.decode import GZIP_START, decode_image
from avader.images.fits import START

Kernel = NDArray[np.float64]
Floats = NDArray[np.float32]

REACH = 5.0
"""Standard deviations that a Gaussian is drawn to, at least."""
FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""
LEAST_FWHM, MOST_FWHM = 0.1, 1000.0
"""Pixels; below it changes nothing, above it is larger than any image."""


def read_psf(data: bytes, name: str) -> Kernel:
    """The PSF (h, w) in the first image of a FITS file, plain or gzipped, its sum made 1.

    name: of the file, for messages. Rows are as in the file, the first one along the images' first.
    Its sides are odd and it peaks within a pixel of the middle,
    since elsewhere it would move every image; single values may be below 0. Raises InputError.
    """
    if not data.startswith((START, GZIP_START)):
        raise _error(name, "something else")
    try:
        image = decode_image(data)
    except CutoutError as error:
        raise _error(name, f"{error}") from error
    if len(image.flux) != 1:
        raise _error(name, f"{len(image.flux)} planes; give one of them, which all bands get")
    psf = image.flux[0].astype(np.float64)
    height, width = psf.shape
    if height % 2 == 0 or width % 2 == 0:
        raise _error(name, f"{height} x {width} pixels; pad or cut a row or column")
    if not np.isfinite(psf).all() or image.missing.any():
        raise _error(name, "pixels that are missing or not finite")
    if not psf.sum() > 0:
        raise _error(name, f"pixels whose sum is {psf.sum():g}")
    row, column = divmod(int(psf.argmax()), width)
    if abs(row - height // 2) > 1 or abs(column - width // 2) > 1:
        raise _error(
            name, f"a peak in row {row}, column {column} (from 0) of {height} x {width}; centre it"
        )
    return psf / psf.sum()


def gaussian_psf(fwhm: float) -> Kernel:
    """A round Gaussian (h, h) by its full width at half maximum in pixels; its sum is 1.

    Values are those at the pixels' centres. Raises InputError for one too narrow or too wide.
    """
    if not LEAST_FWHM <= fwhm <= MOST_FWHM:
        raise InputError(
            f"wanted a PSF's FWHM of {LEAST_FWHM} to {MOST_FWHM} pixels, got {fwhm}; leave a "
            "narrower one out"
        )
    sigma = fwhm / FWHM
    reach = math.ceil(REACH * sigma)
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(profile, profile)
    return kernel / kernel.sum()


def check_size(kernel: Kernel, shape: tuple[int, int]) -> None:
    """Raise InputError where a PSF is larger than images (H, W)."""
    if kernel.shape[0] > shape[0] or kernel.shape[1] > shape[1]:
        raise InputError(
            f"wanted a PSF of at most {shape[0]} x {shape[1]} pixels, as the images are, got "
            f"{kernel.shape[0]} x {kernel.shape[1]}; cut it, or give a smaller FWHM"
        )


def convolved(images: Floats, kernel: Kernel) -> Floats:
    """Images (B, C, H, W) convolved with a PSF (h, w) of odd sides, each image by itself.

    Beyond its edges an image goes on as its own mirror image, the outermost pixel repeated: an even
    background stays even, and with a PSF that is symmetric about its centre no flux is lost. In
    float64, by Fourier transforms, rounded once. Raises InputError for a PSF larger than they are.
    """
    height, width = images.shape[-2:]
    check_size(kernel, (height, width))
    rows, columns = kernel.shape
    beyond = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2))
    size = _quick(height + rows - 1), _quick(width + columns - 1)
    transfer = np.fft.rfft2(kernel, s=size)
    made = np.empty(images.shape, np.float32)
    for image, out in zip(images, made, strict=True):
        padded = np.pad(image.astype(np.float64), beyond, mode="symmetric")
        full = np.fft.irfft2(np.fft.rfft2(padded, s=size) * transfer, s=size)
        out[...] = full[:, rows - 1 : rows - 1 + height, columns - 1 : columns - 1 + width]
    return made


def _quick(size: int) -> int:
    """The least length from this one up that is a product of 2, 3 and 5: quick to transform."""
    rest = size
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return size if rest == 1 else _quick(size + 1)


def _error(name: str, came: str) -> InputError:
    return InputError(
        "wanted a PSF as one plane of a FITS file, with odd sides, its peak in the middle and a "
        f"positive sum, got {name} with {came}"
    )
