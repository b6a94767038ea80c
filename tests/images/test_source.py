"""The mask of the central source, and the level of the sky."""

import numpy as np
import pytest

from avader.images.cutouts import prepare
from avader.images.source import find_source, radius, sky
from avader.recipe import Preprocessing
from tests.images.test_orientation import blob, image


def noise(side=64, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(side, side))


def test_sky_is_that_of_the_noise_whatever_lies_on_it():
    light = 50 + 2 * noise(200) + blob(30, side=200, sigmas=(30, 20))
    light += blob(side=200, centre=(85, 85), sigmas=(4, 4), flux=1000)
    level, sigma = sky(light)
    assert level == pytest.approx(50, abs=0.2)
    assert sigma == pytest.approx(2, rel=0.1)
    assert sky(np.full((8, 8), 3.0)) == (3, 0)


def test_radius_is_1_at_the_middle_of_the_sides():
    found = radius((5, 9))
    assert found[2, 4] == 0
    assert found[2, 8] == pytest.approx(8 / 9)
    assert found[4, 4] == pytest.approx(4 / 5)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_mask_is_the_source_s_own_pixels(side):
    """Those where the light is well above the noise; none far from it."""
    light = blob(30, side=side, sigmas=(side / 8, side / 14))
    mask = find_source(light + noise(side))
    assert mask.dtype == bool
    assert mask[light > 8].all()
    assert not mask[light < 0.3].any()


def test_a_companion_apart_is_left_out_and_one_on_a_thin_bridge_too():
    companion = blob(centre=(22, 0), sigmas=(2.5, 2.5))
    light = blob(90) + companion
    assert not find_source(light + noise())[companion > 5].any()
    for width, joined in ((1, False), (6, True)):
        bridged = light.copy()
        bridged[32 - width // 2 :][:width, 40:50] += 3.5
        mask = find_source(bridged + noise())
        assert mask[blob(90) > 20].all()
        assert (mask[companion > 20].all(), mask[companion > 20].any()) == (joined, joined)


def test_the_source_nearest_to_the_centre_is_taken():
    near, far = (blob(centre=(x, 0), sigmas=(3, 3)) for x in (6, -18))
    mask = find_source(near + 5 * far + noise())
    assert mask[near > 20].all()
    assert not mask[far > 20].any()


def test_holes_are_filled():
    ring = blob(sigmas=(12, 12)) - blob(sigmas=(5, 5))
    assert find_source(ring + 0.5 * noise())[28:36, 28:36].all()


def test_a_thin_source_is_kept():
    light = np.zeros((16, 16))
    light[8, 3:13] = 100
    assert find_source(light)[8, 4:12].all()


def test_nothing_above_the_sky():
    assert not find_source(np.full((32, 32), 4.0)).any()
    assert find_source(noise()).mean() < 0.05


@pytest.mark.parametrize("orientation", ["sky", "canonical"])
def test_prepare_gives_the_mask_in_the_frame_of_the_pixels(orientation):
    settings = Preprocessing(size=64, crop=96, orientation=orientation, source_mask=True)
    made = prepare(image(20 + blob(70, side=128, sigmas=(16, 6)) + noise(128)), settings)
    assert made.source.shape == (64, 64)
    bright = made.pixels[0] > 60
    assert made.source[bright].all()
    assert made.source.sum() < 6 * bright.sum()


def test_without_the_settings_nothing_is_looked_for():
    made = prepare(image(blob(70)), Preprocessing())
    assert (made.source, made.orientation) == (None, None)
