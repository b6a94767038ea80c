"""The 8 symmetries of a square, and shares that can be counted by hand."""

import itertools

import numpy as np

from avader.inference.symmetry import stability, turned


def test_the_eight_are_all_there_is():
    """With the image itself: every transpose and flip of it, each once."""
    image = np.arange(2 * 9).reshape(1, 2, 3, 3)
    views = [image, *turned(image)]
    expected = {
        (image.swapaxes(2, 3) if transposed else image)[:, :, ::down, ::along].tobytes()
        for transposed, down, along in itertools.product((False, True), (1, -1), (1, -1))
    }
    assert len(views) == len(expected) == 8
    assert {np.ascontiguousarray(view).tobytes() for view in views} == expected


def brightest_corner(images: np.ndarray) -> np.ndarray:
    """A posterior that is sure of the brightest of the four corners (K = 4), NaN for darkness."""
    corners = images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    with np.errstate(invalid="ignore"):
        return corners / corners.sum(axis=1, keepdims=True)


def test_shares_of_corners():
    """A lit corner visits each of the four twice in 8 views; where all are lit, none is left."""
    images = np.zeros((3, 1, 5, 5), np.uint8)
    images[0, 0, 0, -1] = 200
    images[1, 0, [0, 0, -1, -1], [0, -1, 0, -1]] = 50
    component = np.array([1, 0, 0])
    shares = stability(images, component, brightest_corner)
    assert shares.tolist() == [2 / 8, 1.0, 1 / 8]  # of darkness no view has a component
    assert stability(images[:0], component[:0], brightest_corner).shape == (0,)
