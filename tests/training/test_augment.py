"""Flips and views: against numpy and scipy, the same for a row in any batch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from avader.recipe import Views
from avader.training.augment import flipped, viewed
from avader.training.noise import flips, view_numbers

STILL = torch.zeros(1, 6)


@pytest.mark.parametrize(("across", "along"), [(False, False), (True, False), (False, True)])
def test_flips_are_numpys(across, along):
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    wanted = images.numpy()[1]
    wanted = wanted[:, :, ::-1] if across else wanted
    wanted = wanted[:, ::-1] if along else wanted
    got = flipped(images, np.array([[False, False], [across, along]]))
    np.testing.assert_array_equal(got[0], images[0])
    np.testing.assert_array_equal(got[1], wanted)


def numbers(**given: float) -> torch.Tensor:
    names = ("rotation", "scale", "shear", "along", "down", "gain")
    return torch.tensor([[given.get(name, 0.0) for name in names]])


def blob() -> torch.Tensor:
    y, x = np.mgrid[:32, :32]
    image = np.exp(-((x - 19) ** 2 / 20 + (y - 13) ** 2 / 6))
    return torch.from_numpy(image.astype(np.float32))[None, None]


def test_no_numbers_no_change():
    views = Views(rotation=30, scale=0.3, shear=0.2, shift=3, gain=0.2)
    torch.testing.assert_close(viewed(blob(), STILL, views), blob(), rtol=0, atol=1e-5)


def test_a_shift_is_in_pixels():
    got = viewed(blob(), numbers(along=0.5, down=-1.0), Views(shift=2))
    wanted = ndimage.shift(blob()[0, 0].numpy(), (2, -1), order=1, mode="nearest")
    np.testing.assert_allclose(got[0, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("share", [1.0, -0.5])
def test_a_rotation_is_scipys(share):
    got = viewed(blob(), numbers(rotation=share), Views(rotation=40))[0, 0]
    wanted = ndimage.rotate(
        blob()[0, 0].numpy(), 40 * share, reshape=False, order=1, mode="nearest"
    )
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_scale_shear_and_gain_do_what_they_say():
    views = Views(scale=0.25, shear=0.3, gain=0.1)
    image = blob() * 0.5
    larger = viewed(image, numbers(scale=-1.0), views)
    assert larger.sum() == pytest.approx(1.25**2 * image.sum().item(), rel=0.02)
    brighter = viewed(image, numbers(gain=1.0), views)
    torch.testing.assert_close(brighter, 1.1 * image, rtol=1e-4, atol=1e-5)
    sheared = viewed(image, numbers(shear=1.0), views)
    assert sheared.sum() == pytest.approx(image.sum().item(), rel=0.02)
    assert (sheared - image).abs().max() > 0.05


def test_a_row_is_alike_in_any_batch():
    images, rows = torch.rand(30, 1, 6, 6), np.arange(30)
    views = Views(rotation=20, shift=1)
    whole = viewed(flipped(images, flips(1, 2, rows)), view_numbers(1, 2, rows, 1), views)
    few = rows[7:9]
    part = viewed(flipped(images[7:9], flips(1, 2, few)), view_numbers(1, 2, few, 1), views)
    torch.testing.assert_close(part, whole[7:9], rtol=0, atol=0)


def test_views_have_flips_and_numbers_of_their_own():
    rows = np.arange(4000)
    for values in (
        [flips(1, 2, rows, view).ravel() * 2.0 - 1 for view in (0, 1)],
        [view_numbers(1, 2, rows, view).numpy().ravel() for view in (0, 1)],
    ):
        first, second = values
        assert abs(first.mean()) < 0.05
        assert -1 <= first.min() < first.max() <= 1
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
