"""Spectra against plain Fourier sums, fields against the spectrum that they are to have."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import fft2
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from avader.errors import InputError
from avader.mixture.random import Stream
from avader.synthetic.noise import Noise, power_spectrum

SHAPE = (2, 12, 10)
SIGMA = 0.05


def waves(height: int, width: int) -> np.ndarray:
    """Cycles a pixel of each mode (H, W // 2 + 1)."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])


def red(shape=SHAPE) -> np.ndarray:
    """A smooth spectrum, another in each band, (C, H, W // 2 + 1)."""
    bands = np.arange(1, shape[0] + 1)[:, None, None]
    return SIGMA**2 * bands / (0.05 + waves(*shape[1:]) ** 2)


def white(count: int, shape=SHAPE, *, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, SIGMA, (count, *shape))


def full_plane(images: np.ndarray) -> np.ndarray:
    """Mean |F|^2 / (H W) of every mode (C, H, W), by the whole complex transform."""
    height, width = images.shape[-2:]
    return (np.abs(fft2(images)) ** 2).mean(axis=0) / (height * width)


def test_white_noise_is_its_variance_everywhere():
    count = 4000
    found = power_spectrum(white(count))
    assert found.shape == (2, 12, 6)
    # A mode that is its own mirror has one degree of freedom, others two.
    assert np.abs(found / SIGMA**2 - 1).max() < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize("shape", [(2, 12, 10), (1, 9, 7), (1, 8, 9), (1, 1, 1)])
def test_it_is_half_of_the_whole_plane(shape):
    images = white(5, shape)
    whole = full_plane(images)
    np.testing.assert_allclose(power_spectrum(images), whole[..., : shape[2] // 2 + 1], rtol=1e-10)
    np.testing.assert_allclose(power_spectrum(iter(images)), power_spectrum(images))


@pytest.mark.parametrize("shape", [(2, 12, 10), (1, 9, 7), (1, 8, 9), (1, 1, 1)])
def test_its_sum_is_the_mean_square(shape):
    """Parseval, the mean of images and the half plane's mirrors counted."""
    images = 0.01 + white(5, shape)
    rms = Noise(power_spectrum(images), shape).rms
    np.testing.assert_allclose(rms**2, np.square(images).mean(axis=(0, 2, 3)), rtol=1e-10)


def test_pixels_left_out_change_no_total():
    """White noise beside a bright source that is left out is white noise."""
    count = 4000
    images = white(count)
    source = np.hypot(*(np.mgrid[:12, :10] - 5.0)) < 3
    images[:, :, source] = 9.0
    images[:, :, source] = np.nan
    images[0] = np.nan
    found = power_spectrum(images)
    seen = images[~np.isnan(images)]
    np.testing.assert_allclose(np.square(Noise(found, SHAPE).rms).mean(), np.square(seen).mean())
    assert np.abs(found / SIGMA**2 - 1).max() < 5 * np.sqrt(2 / count)


def test_nothing_left_is_nothing_measured():
    images = white(3)
    images[:, 1] = np.nan
    found = power_spectrum(images)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert not np.isfinite(power_spectrum([])).any()


def test_a_field_is_filtered_normals_of_its_own_words():
    """By numpy's Philox, scipy's normals and the whole complex transform."""
    spectrum, (bands, height, width) = red(), SHAPE
    mirror = -np.arange(height) % height
    whole = np.empty(SHAPE)
    whole[..., : width // 2 + 1] = spectrum
    whole[..., width // 2 + 1 :] = spectrum[:, mirror, 1 : width - width // 2][..., ::-1]
    size = bands * height * width
    for index in (0, 7, 10**8):
        philox = np.random.Philox(key=[3, Stream.NOISE], counter=[index * size // 4, 0, 0, 0])
        uniform = ((philox.random_raw(size) >> np.uint64(11)) + 0.5) * 2.0**-53
        normal = ndtri(uniform).reshape(SHAPE)
        wanted = np.fft.ifft2(fft2(normal) * np.sqrt(whole))
        assert np.abs(wanted.imag).max() < 1e-12
        (found,) = Noise(spectrum, SHAPE).fields(3, np.array([index]))
        np.testing.assert_allclose(found, wanted.real, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 12, 10), (1, 9, 7)])
def test_fields_have_the_spectrum(shape):
    """Mode by mode, and by pixels: their variance, and that bands are independent."""
    count, spectrum = 6000, red(shape)
    noise = Noise(spectrum, shape)
    fields = noise.fields(1, np.arange(count))
    assert fields.dtype == np.float32
    assert np.abs(power_spectrum(fields) / spectrum - 1).max() < 5 * np.sqrt(2 / count)
    np.testing.assert_allclose(np.square(fields).mean(axis=(0, 2, 3)), noise.rms**2, rtol=0.02)
    # A mean is that of mode 0 alone.
    means = fields.mean(axis=(2, 3), dtype=np.float64)
    wanted = np.sqrt(spectrum[:, 0, 0] / (shape[1] * shape[2]))
    np.testing.assert_allclose(means.std(axis=0), wanted, rtol=5 / np.sqrt(2 * count))
    if shape[0] > 1:
        assert np.abs(np.corrcoef(fields[:, 0].ravel(), fields[:, 1].ravel())[0, 1]) < 0.01


def test_correlated_noise_comes_again():
    """Smoothed white noise: fields of its measured spectrum correlate over as many pixels."""
    images = gaussian_filter(white(3000, (1, 16, 16)), (0, 0, 1, 1), mode="wrap")
    fields = Noise(power_spectrum(images), (1, 16, 16)).fields(0, np.arange(3000))
    for shift in ((0, 1), (1, 0), (1, 1), (0, 3)):
        ours, theirs = (
            (each * np.roll(each, shift, axis=(2, 3))).mean() / np.square(each).mean()
            for each in (fields, images)
        )
        assert ours == pytest.approx(theirs, abs=0.02), shift


NOISE = Noise(red(), SHAPE)
ALONE = {index: NOISE.fields(5, np.array([index]))[0] for index in [*range(70), 10**9, 2**51]}


@given(st.lists(st.sampled_from(sorted(ALONE)), max_size=12))
def test_a_field_is_the_same_whatever_is_drawn_beside_it(indices):
    """Bit for bit, in any order, near and far, repeated or not, none at all."""
    found = NOISE.fields(5, np.array(indices, np.int64))
    assert found.shape == (len(indices), *SHAPE)
    for index, field in zip(indices, found, strict=True):
        np.testing.assert_array_equal(field, ALONE[index])


def test_a_field_is_the_same_with_more_threads():
    shape = (3, 128, 128)
    noise = Noise(red(shape), shape)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        found.append(noise.fields(0, np.array([9])))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_seeds_and_objects_differ():
    one, other = NOISE.fields(5, np.array([1, 2]))
    (third,) = NOISE.fields(6, np.array([1]))
    for field in (other, third):
        assert np.abs(np.corrcoef(one.ravel(), field.ravel())[0, 1]) < 0.4
        assert not np.array_equal(one, field)


def test_no_noise_is_none():
    assert not Noise(np.zeros((2, 12, 6)), SHAPE).fields(0, np.arange(2)).any()


@pytest.mark.parametrize("shape", [(1, 12, 10), (2, 12, 12), (2, 10, 12)])
def test_another_models_noise_is_refused(shape):
    with pytest.raises(InputError, match=r"got one of \(2, 12, 6\); take that of this model's own"):
        Noise(red(), shape)


@pytest.mark.parametrize("wrong", [-1e-9, np.nan, np.inf])
def test_what_is_no_spectrum_is_refused(wrong):
    spectrum = red()
    spectrum[1, 2, 3] = wrong
    with pytest.raises(InputError, match="wanted a power spectrum of finite numbers from 0"):
        Noise(spectrum, SHAPE)
