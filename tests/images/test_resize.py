"""Resampling kernels against plain numpy and scipy."""

import numpy as np
import pytest
from scipy import ndimage

from avader.images.resize import resize
from tests.images.oracles import KERNELS, noise, sampled


class TestResize:
    @pytest.mark.parametrize(("side", "size"), [(192, 128), (30, 13), (17, 16), (8, 21), (9, 9)])
    def test_unfiltered_bilinear_is_point_sampling(self, side, size):
        band = noise(side, side)
        found = resize(band[np.newaxis], size=size, resample="bilinear-unfiltered")[0]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, sampled(band.astype(float), size), rtol=2e-7, atol=2e-7)

    @pytest.mark.parametrize(("side", "size"), [(192, 128), (30, 13), (8, 21)])
    def test_unfiltered_bilinear_agrees_with_scipy(self, side, size):
        band = noise(side, side)
        places = (np.arange(size) + 0.5) * side / size - 0.5
        grid = np.meshgrid(places, places, indexing="ij")
        wanted = ndimage.map_coordinates(band.astype(float), grid, order=1, mode="nearest")
        found = resize(band[np.newaxis], size=size, resample="bilinear-unfiltered")[0]
        np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=2e-7)

    def test_unfiltered_bilinear_on_unequal_sides(self):
        band = noise(20, 30)
        found = resize(band[np.newaxis], size=12, resample="bilinear-unfiltered")[0]
        np.testing.assert_allclose(found, sampled(band.astype(float), 12), rtol=3e-7)

    def test_scikit_image_pattern_of_the_published_reduction(self):
        """192 to 128: weights 3/4 and 1/4 of neighbours, in turn (rows and columns alike)."""
        ramp = np.repeat(noise(1, 192), 192, axis=0)
        found = resize(ramp[np.newaxis], size=128, resample="bilinear-unfiltered")[0, 7]
        left, right = ramp[0, 0::3], ramp[0, 2::3]
        middle = ramp[0, 1::3]
        np.testing.assert_allclose(found[0::2], 0.75 * left + 0.25 * middle, rtol=1e-6)
        np.testing.assert_allclose(found[1::2], 0.25 * middle + 0.75 * right, rtol=1e-6)

    def test_box_is_the_mean_of_blocks(self):
        band = noise(24, 24)
        found = resize(band[np.newaxis], size=8, resample="box")[0]
        np.testing.assert_allclose(found, band.reshape(8, 3, 8, 3).mean((1, 3)), rtol=1e-6)

    def test_nearest_takes_centres(self):
        band = noise(24, 24)
        assert np.array_equal(resize(band[None], size=8, resample="nearest")[0], band[1::3, 1::3])

    @pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos"])
    def test_filters_widen_when_they_reduce(self, kernel):
        """A kernel that skips pixels would keep all of this noise."""
        band = noise(256, 256) - 5
        found = resize(band[np.newaxis], size=16, resample=kernel)
        assert found.std() < 0.25 * band.std()

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_bands_are_apart_and_mirror_images_stay_so(self, kernel):
        flux = noise(3, 40, 40)
        found = resize(flux, size=24, resample=kernel)
        for band, whole in zip(flux, found, strict=True):
            assert np.array_equal(resize(band[None], size=24, resample=kernel)[0], whole)
        if kernel != "nearest":
            mirrored = resize(np.ascontiguousarray(flux[:, :, ::-1]), size=24, resample=kernel)
            np.testing.assert_allclose(mirrored[:, :, ::-1], found, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_same_size_changes_nothing(self, kernel):
        flux = noise(2, 16, 16)
        assert np.array_equal(resize(flux, size=16, resample=kernel), flux)
