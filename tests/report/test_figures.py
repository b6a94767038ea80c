"""Figures: arrays in, PNG bytes out, checked pixel by pixel where that says something."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from avader.report import figures


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_grey_image_is_shown_pixel_by_pixel():
    image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    shown = pixels(figures.image_png(image))
    assert shown.shape == (8, 8, 3)
    np.testing.assert_array_equal(shown[..., 1], np.rint(255 * image[0]))
    np.testing.assert_array_equal(pixels(figures.image_png(image, inverted=True)), 255 - shown)


def test_three_bands_are_colours_and_others_their_mean():
    image = np.zeros((3, 4, 4))
    image[0] = 1
    assert (pixels(figures.image_png(image)) == [255, 0, 0]).all()
    two = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    assert (np.abs(pixels(figures.image_png(two)) - 127.5) < 1).all()


def test_values_outside_zero_to_one_are_clipped():
    image = np.array([[[-1.0, 2.0]]])
    np.testing.assert_array_equal(pixels(figures.image_png(image))[0, :, 0], [0, 255])


def test_the_stretch_keeps_its_ends_and_lifts_what_is_faint():
    u = np.linspace(0, 1, 11).reshape(1, 1, -1)
    v = figures.stretched(u, softening=0.1)
    assert (v[0, 0, 0], v[0, 0, -1]) == (0, 1)
    assert (np.diff(v) > 0).all()
    assert v[0, 0, 1] == pytest.approx(np.arcsinh(1) / np.arcsinh(10))


def test_only_dark_images_are_stretched():
    dark = np.zeros((2, 1, 16, 16))
    dark[:, :, 8, 8] = 1
    assert figures.display_softening(dark) == figures.SOFTENING
    assert figures.display_softening(dark + 0.5) is None
    assert figures.display_softening(np.zeros((0, 1, 4, 4))) is None


def test_a_residual_of_zero_is_white_and_its_signs_are_blue_and_red():
    residual = np.array([[[-0.2, 0.0, 0.2]]])
    blue, white, red = figures.residual_picture(residual, limit=0.2)[0]
    assert white.min() > 0.95
    assert blue[2] > 2 * blue[0]
    assert red[0] > 2 * red[2]


def test_a_comparison_has_three_panels_and_the_residual_last():
    image = np.full((1, 10, 10), 0.5)
    shown = pixels(figures.comparison_png(image, image, limit=0.1))
    assert shown.shape == (10, 36, 3)
    np.testing.assert_array_equal(shown[:, :10], shown[:, 13:23])
    assert shown[:, 26:].min() > 240


@pytest.mark.parametrize(("size", "limit"), [(0.001, 0.05), (0.12, 0.15), (0.2, 0.2)])
def test_the_scale_of_residuals_covers_them_in_round_steps(size, limit):
    residuals = np.full((3, 1, 4, 4), size)
    assert figures.residual_limit(residuals) == pytest.approx(limit)
    assert figures.residual_limit(-residuals) == pytest.approx(limit)


def test_colours_are_distinct():
    for count in (1, 12, 20, 50):
        assert len(set(figures.component_colours(count))) == count


def test_the_principal_plane_is_that_of_the_covariance():
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(500, 5)) * [3, 1, 0.2, 5, 0.1] + 7
    centre, plane, shares = figures.principal_plane(latents)
    values, vectors = np.linalg.eigh(np.cov(latents.T))
    np.testing.assert_allclose(centre, latents.mean(axis=0))
    np.testing.assert_allclose(np.abs(plane @ vectors[:, [4, 3]]), np.eye(2), atol=1e-10)
    np.testing.assert_allclose(shares, values[[4, 3]] / values.sum())
    assert (plane[[0, 1], np.abs(plane).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 1), (2, 2)])
def test_the_principal_plane_of_few_rows_or_dimensions_is_finite(shape):
    centre, plane, shares = figures.principal_plane(np.random.default_rng(1).normal(size=shape))
    assert centre.shape == (shape[1],)
    assert plane.shape == (2, shape[1])
    assert np.isfinite(plane).all()
    assert 0 <= sum(shares) <= 1 + 1e-12


CHARTS = [
    lambda: figures.occupancy_chart(np.array([3, 0, 7]), np.array([0.2, 0.3, 0.5])),
    lambda: figures.occupancy_chart(np.zeros(3, int), np.array([0.2, 0.3, 0.5])),
    lambda: figures.probability_chart(np.array([[0.9, np.nan], [0.1, np.nan]])),
    lambda: figures.probability_chart(np.eye(25)),
    lambda: figures.latent_chart(
        np.zeros((0, 2)), np.zeros(0, int), np.eye(2), variance_shares=(0.0, 0.0)
    ),
    lambda: figures.latent_chart(
        np.eye(2), np.array([1, 0]), np.eye(2), variance_shares=(0.7, 0.2)
    ),
    lambda: figures.reject_chart({"constant": 3, "truncated": 1}),
    lambda: figures.residual_bar(0.2),
]


@pytest.mark.parametrize("draw", CHARTS)
def test_a_chart_is_a_png_the_same_every_time_and_leaves_no_state(draw):
    before = dict(matplotlib.rcParams)
    png = draw()
    assert png == draw()
    assert pixels(png).std() > 0
    assert dict(matplotlib.rcParams) == before
