"""Pictures of a phase's end: every image where it belongs."""

import io

import numpy as np
import pytest
from PIL import Image

from avader.report.figures import residual_limit, residual_picture
from avader.report.phase import GAP, HEAD, LABEL, MARGIN, phase_png, shown


def sheet(images, reconstructions, samples, names):
    png = phase_png(
        images, reconstructions, samples, title="after gamma", samples_title="drawn", names=names
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def tile(picture, block, row, column, side):
    """The tile in a row of strips, counted over both blocks."""
    top = (block + 1) * HEAD + row * (side + GAP)
    left = MARGIN + LABEL + column * (side + GAP)
    return picture[top : top + side, left : left + side]


def test_every_image_is_where_it_belongs():
    random = np.random.default_rng(0)
    images = 0.3 + 0.7 * random.random((3, 1, 40, 40))
    made = images + random.normal(size=images.shape) / 10
    samples = 0.3 + 0.7 * random.random((2, 4, 1, 40, 40))
    picture = sheet(images, made, samples, ["0 · 60 %", "1 · 40 %"])
    for n in range(3):
        wanted = np.rint(255 * images[n, 0]).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(tile(picture, 0, 0, n, 80)[..., 0], wanted, atol=1)
        wanted = np.rint(255 * np.clip(made[n, 0], 0, 1)).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(tile(picture, 0, 1, n, 80)[..., 0], wanted, atol=1)
        colours = residual_picture(images[n] - made[n], limit=residual_limit(images - made))
        wanted = np.rint(255 * colours).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(tile(picture, 0, 2, n, 80), wanted, atol=1)
    for k in range(2):
        wanted = np.rint(255 * samples[k, 3, 0]).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(tile(picture, 1, 3 + k, 3, 80)[..., 0], wanted, atol=1)
        label = picture[HEAD * 2 + (3 + k) * 83 :][:80, :LABEL]
        assert label.min() < 100  # its name is written


def test_a_perfect_reconstruction_leaves_nothing():
    images = np.random.default_rng(0).random((2, 3, 80, 80))
    picture = sheet(images, images, images[None], [""])
    assert tile(picture, 0, 2, 1, 80).min() > 240


@pytest.mark.parametrize(
    ("side", "least"), [(8, 80), (28, 84), (64, 128), (80, 80), (128, 128), (256, 85), (1024, 85)]
)
def test_images_of_any_size_are_shown_at_about_one(side, least):
    image = np.random.default_rng(0).random((side, side, 3))
    small = shown(image)
    assert small.shape == (least, least, 3)
    if side > 160:
        factor = side // 80
        np.testing.assert_allclose(
            small[2, 3], image[2 * factor : 3 * factor, 3 * factor : 4 * factor].mean((0, 1))
        )
