"""The central source of an image: which pixels are its, and the sky around it.

Meant for the frame that a model sees, where a galaxy spans tens of pixels: lengths below are
fractions of the image's side. Legend: H W pixels.
"""

import numpy as np
import numpy.typing as npt

# Light this many sigmas of the smoothed noise above the sky belongs to a source,
NOISE_FACTOR = 3.0
# and at least this fraction of the central peak, for images that hardly have noise.
PEAK_FRACTION = 0.02
# Sigma of the Gaussian that is laid over the image before the threshold, a fraction of its side.
SMOOTHING = 1 / 64
# Bridges and spikes of the mask thinner than this many pixels are cut.
OPENING = np.ones((3, 3), bool)
CLIPPING = 3.0
# Galaxies take four, rarely thirty; pixels can be made that lose one at a time.
MOST_CLIPPINGS = 200
# A normal distribution's standard deviation over its median absolute deviation.
MAD_TO_SIGMA = 1.4826

Plane = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def sky(image: Plane) -> tuple[float, float]:
    """Level and standard deviation of the sky in an image (H, W).

    Median and scaled median absolute deviation of the pixels outside the inscribed ellipse, after
    clipping at 3 sigma until nothing changes, so that companions do not count. The deviation is 0
    where most of these pixels are the same.
    """
    values = image[radius(image.shape) > 1].astype(np.float64)
    for _ in range(MOST_CLIPPINGS):
        level = float(np.median(values))
        distance = np.abs(values - level)
        sigma = MAD_TO_SIGMA * float(np.median(distance))
        kept = values[distance <= CLIPPING * sigma]
        if len(kept) == len(values):
            break
        values = kept
    return level, sigma


def find_source(image: Plane) -> Mask:
    """The pixels (H, W) of the source at, or else nearest to, the centre of an image (H, W).

    The image is smoothed and cut at 3 sigma above the sky (sky); thin bridges to companions are
    cut (binary opening), the connected pixels that come nearest to the centre are taken, and
    their holes filled. All False where nothing stands above the sky, as in a constant image.
    """
    from scipy import ndimage  # a third of a second, of every worker that looks for none

    smooth = ndimage.gaussian_filter(
        image.astype(np.float64), SMOOTHING * min(image.shape), mode="nearest"
    )
    level, sigma = sky(smooth)
    central = radius(image.shape) <= 0.5
    peak = float(smooth[central].max())
    above = smooth > level + max(NOISE_FACTOR * sigma, PEAK_FRACTION * (peak - level))
    opened = ndimage.binary_opening(above, OPENING)
    if opened[central].any():  # else the source itself is a thin one
        above = opened
    labels, _ = ndimage.label(above)
    distance = np.where(above, radius(image.shape), np.inf)
    nearest = np.unravel_index(np.argmin(distance), image.shape)
    if not above[nearest]:
        return above
    return ndimage.binary_fill_holes(labels == labels[nearest])


def radius(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Distance (H, W) of pixel centres from the image's centre; 1 at the middle of its sides."""
    y, x = (2 * (np.arange(length) + 0.5) / length - 1 for length in shape)
    return np.hypot(y[:, np.newaxis], x)
