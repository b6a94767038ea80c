"""Convolution against scipy's direct sums, kernels against astropy's."""

import gzip

import numpy as np
import pytest
from astropy.convolution import Gaussian2DKernel
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve, shift
from scipy.signal import fftconvolve

from avader.errors import InputError
from avader.synthetic.psf import check_size, convolved, gaussian_psf, read_psf
from tests.images.samples import fits_bytes, grey, png


def images(count=3, bands=2, side=24, *, seed=0) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(0, 1, (count, bands, side, side))
    return drawn.astype(np.float32)


def lopsided(height=7, width=5) -> np.ndarray:
    """A kernel without symmetry that peaks in its middle."""
    kernel = np.random.default_rng(1).uniform(0, 1, (height, width))
    kernel[height // 2, width // 2] = 2
    return kernel / kernel.sum()


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (1, 9), (23, 23), (3, 21)])
def test_it_is_the_direct_convolution(shape):
    kernel = lopsided(*shape)
    given = images()
    wanted = convolve(given.astype(np.float64), kernel[None, None], mode="reflect")
    found = convolved(given, kernel)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    np.testing.assert_array_equal(given, images())


def test_away_from_the_edges_it_is_anyones():
    kernel, given = lopsided(), images()
    wanted = fftconvolve(given.astype(np.float64), kernel[None, None], mode="valid", axes=(2, 3))
    np.testing.assert_allclose(convolved(given, kernel)[:, :, 3:-3, 2:-2], wanted, atol=1e-7)


def test_flux_inside_is_conserved():
    given = np.zeros((1, 1, 33, 31), np.float32)
    given[0, 0, 15:18, 14] = 1, 5, 2
    assert convolved(given, lopsided()).sum(dtype=np.float64) == pytest.approx(8, rel=1e-6)


def test_a_symmetric_psf_loses_no_flux_at_the_edges():
    given = images(side=17)
    found = convolved(given, gaussian_psf(2.5))
    np.testing.assert_allclose(found.sum(axis=(2, 3)), given.sum(axis=(2, 3)), rtol=1e-5)


def test_an_even_background_stays_even():
    given = np.full((1, 2, 20, 20), 0.1, np.float32)
    np.testing.assert_allclose(convolved(given, lopsided()), given, atol=1e-7)


def test_a_point_changes_nothing():
    point = np.zeros((5, 5))
    point[2, 2] = 1
    np.testing.assert_allclose(convolved(images(), point), images(), atol=1e-7)


GIVEN, KERNEL = images(8, seed=3), lopsided()
ALONE = [convolved(GIVEN[number : number + 1], KERNEL)[0] for number in range(8)]


@given(st.lists(st.integers(0, 7), max_size=10))
def test_an_images_numbers_hang_on_it_alone(numbers):
    found = convolved(GIVEN[numbers], KERNEL)
    assert found.shape == (len(numbers), *GIVEN.shape[1:])
    for number, image in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(image, ALONE[number])


def test_a_psf_larger_than_the_images_is_refused():
    check_size(lopsided(23, 23), (24, 24))
    message = "wanted a PSF of at most 24 x 24 pixels, as the images are, got 25 x 3; cut it"
    with pytest.raises(InputError, match=message):
        check_size(lopsided(25, 3), (24, 24))
    with pytest.raises(InputError, match=message):
        convolved(images(), lopsided(25, 3))


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 3.3, 8.0])
def test_a_gaussian_has_its_width(fwhm):
    kernel = gaussian_psf(fwhm)
    side = len(kernel)
    sigma = fwhm / (2 * np.sqrt(2 * np.log(2)))
    wanted = Gaussian2DKernel(sigma, x_size=side, y_size=side)
    np.testing.assert_allclose(kernel, wanted.array / wanted.array.sum(), atol=1e-12)
    assert side % 2 == 1
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel[0].sum() < 1e-5
    middle = side // 2
    half = np.exp(-4 * np.log(2) * np.arange(side - middle) ** 2 / fwhm**2)
    np.testing.assert_allclose(kernel[middle, middle:] / kernel.max(), half, atol=1e-12)


def test_a_very_narrow_gaussian_is_a_point():
    kernel = gaussian_psf(0.1)
    assert kernel[1, 1] == pytest.approx(1)
    assert kernel.shape == (3, 3)


@pytest.mark.parametrize("fwhm", [0.0, -2.0, 0.09, 1000.1, np.nan, np.inf])
def test_a_width_that_is_none_is_refused(fwhm):
    with pytest.raises(InputError, match=r"wanted a PSF's FWHM of 0.1 to 1000.0 pixels, got"):
        gaussian_psf(fwhm)


def test_a_psf_from_a_fits_file():
    kernel = lopsided(7, 5)
    kernel[0, 0] = -0.001
    for data in (fits_bytes(40 * kernel), gzip.compress(fits_bytes(40 * kernel[None]))):
        found = read_psf(data, "psf.fits")
        np.testing.assert_allclose(found, kernel / kernel.sum(), atol=1e-7)
        assert found.sum() == pytest.approx(1, abs=1e-12)


def test_rows_of_the_file_are_rows_of_the_images():
    """A PSF with a tail to higher rows smears that way, as scipy's shift tells."""
    kernel = np.zeros((5, 5), np.float32)
    kernel[2, 2], kernel[3, 2] = 3, 1
    given = images()
    found = convolved(given, read_psf(fits_bytes(kernel), "psf.fits"))
    moved = shift(given, (0, 0, 1, 0), order=0, mode="nearest")
    np.testing.assert_allclose(found, 0.75 * given + 0.25 * moved, atol=1e-6)


def corner() -> np.ndarray:
    kernel = lopsided()
    kernel[0, 0] = 9
    return kernel


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (fits_bytes(np.ones((6, 7))), "6 x 7 pixels; pad or cut a row or column"),
        (fits_bytes(np.ones((2, 7, 7))), "2 planes; give one of them"),
        (fits_bytes(np.full((5, 5), -1.0)), "pixels whose sum is -25"),
        (fits_bytes(np.where(np.eye(5), np.nan, 1.0)), "pixels that are missing or not finite"),
        (fits_bytes(lopsided(5, 5), mask=np.eye(5, dtype=np.uint8)), "pixels that are missing"),
        (fits_bytes(corner()), r"a peak in row 0, column 0 \(from 0\) of 7 x 5; centre it"),
        (fits_bytes(None), "no_fits_image"),
        (fits_bytes(lopsided())[:3000], "truncated"),
        (png(grey(9)), "something else"),
        (b"", "something else"),
    ],
)
def test_what_is_no_psf_is_refused(data, came):
    with pytest.raises(InputError, match=rf"wanted a PSF as one plane .* got psf.fits with {came}"):
        read_psf(data, "psf.fits")
