"""How a galaxy lies on the sky, and images turned so that all lie alike: invertible.

The canonical frame has the source's major axis along x, and more of its outlying light at +x
and, with the first row on top, above the axis. Angles are degrees, counter-clockwise with the
first row on top (so east of north or west of it by the cutout's own axes). Turns and flips are
about the centre of the cutout, which the survey put on the object: nothing is shifted, so angle
and flips alone put an image back. Legend: C bands, H W pixels, S side of the output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avader.images.resize import resize
from avader.images.source import Mask, Plane, radius, sky

FLIP_X, FLIP_Y = 1, 2
CENTRING_STEPS = 8
# Order of the splines for kernels that take values at the output's centres, without averaging.
DIRECT = {"nearest": 0, "bilinear-unfiltered": 1}
# Pillow's bicubic transform is a sharpening kernel (Keys, a = -1): on a galaxy of 3 px it errs by
# 2 % of the peak, a cubic spline by 0.002 %.
CUBIC, LINEAR = 3, 1
# An asymmetry below this, relative to the moment without signs, is rounding: no axis, no flip.
LEAST_ASYMMETRY = 1e-6

Flux = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Orientation:
    """angle: of the major axis from x, degrees in [0, 180), counter-clockwise, a float32 value.

    flips: bits, FLIP_X along x and FLIP_Y along y, done after the turn by -angle.
    """

    angle: float
    flips: int


def find_orientation(image: Plane, source: Mask) -> Orientation:
    """How the source (H, W) of a square image (H, W) lies.

    Light is the source's above the sky, within the inscribed circle, so that corners do not
    attract the axis. The angle a is that of the second moments of its symmetric part, the lesser
    of each pixel and the one opposite the core (core), so that companions that touch the source
    hardly turn it: tan 2a = 2 m_xy / (m_xx - m_yy). Flips make the third moments of all its light
    along both axes, about the cutout's centre, positive. A source without light, or without an
    axis, has angle 0.
    """
    level, _ = sky(image)
    light = np.where(source & (radius(image.shape) <= 1), image.astype(np.float64) - level, 0.0)
    light = np.maximum(light, 0.0)
    peak = light.max()
    if not peak > 0:
        return Orientation(0.0, 0)
    light /= peak
    y, x = ((length - 1) / 2 - np.arange(length) for length in image.shape)
    x, y = np.meshgrid(-x, y)
    x0, y0 = core(light)
    angle = _axis(np.minimum(light, _opposite(light, x0, y0)), x - x0, y - y0)
    along, across = _turned(x, y, angle)
    flips = FLIP_X * _leans_back(light, along) | FLIP_Y * _leans_back(light, across)
    return Orientation(angle, flips)


def to_canonical(
    flux: Flux,
    orientation: Orientation,
    *,
    side: int,
    size: int,
    resample: str,
    fill: Sequence[float],
) -> Flux:
    """The central square of flux (C, H, W), of `side` px, in the canonical frame (C, S, S).

    fill: value for each band of what lies beyond the flux. Flux is interpolated once, on a grid at
    least as fine as the input and a multiple of the output, which the kernel `resample` then
    reduces as it does in the sky frame: by cubic splines, or linearly where three or more points
    of the grid make a pixel. "nearest" and "bilinear-unfiltered" take the values at the output's
    centres alone.
    """
    factor = 1 if resample in DIRECT else -(-side // size)
    turned = _sampled(
        flux,
        _to_sky(orientation) * (side / (factor * size)),
        size=factor * size,
        order=DIRECT.get(resample, CUBIC if factor < 3 else LINEAR),
        fill=fill,
    )
    return resize(turned, size=size, resample=resample)


def mask_to_canonical(mask: Mask, orientation: Orientation) -> Mask:
    """A mask (S, S) of the sky frame in the canonical frame; False beyond it."""
    turned = _sampled(
        mask[np.newaxis].astype(np.float32),
        _to_sky(orientation),
        size=len(mask),
        order=LINEAR,
        fill=[0.0],
    )
    return turned[0] >= 0.5


def to_sky(image: Flux, orientation: Orientation) -> Flux:
    """A canonical image (C, S, S) put back on the sky, float32 (C, S, S): flips, then the turn.

    Corners that the canonical frame does not hold take the median of its band's rim, which is
    sky as a rule. Values may go slightly beyond the image's own (splines).
    """
    rim = np.ones(image.shape[1:], bool)
    rim[1:-1, 1:-1] = False
    return _sampled(
        np.asarray(image, np.float32),
        _to_sky(orientation).T,
        size=image.shape[1],
        order=CUBIC,
        fill=np.median(image[:, rim], axis=1),
    )


def _to_sky(orientation: Orientation) -> Matrix:
    """Orthogonal (2, 2): an offset (right, down) in the canonical frame -> that on the sky."""
    angle = math.radians(orientation.angle)
    cosine, sine = math.cos(angle), math.sin(angle)
    flips = [-1 if orientation.flips & bit else 1 for bit in (FLIP_X, FLIP_Y)]
    return np.array([[cosine, sine], [-sine, cosine]]) * flips


def _sampled(
    flux: Flux, matrix: Matrix, *, size: int, order: int, fill: Sequence[float] | Matrix
) -> Flux:
    """Flux (C, H, W) at size x size points, by splines of this order; fill (C,): beyond it.

    matrix: a step (right, down) of the points -> one of the flux, px. Both have one centre.
    """
    from scipy import ndimage  # a third of a second, of every worker that turns nothing

    steps = np.arange(size) - (size - 1) / 2
    x, y = np.tensordot(matrix, np.meshgrid(steps, steps), axes=1)
    places = np.stack([y, x])  # axes: (row, column), point row, point column
    beyond = np.zeros((size, size), bool)
    for place, length in zip(places, flux.shape[1:], strict=True):
        beyond |= np.abs(place) > length / 2
        place += (length - 1) / 2
    turned = np.empty((len(flux), size, size), np.float32)
    for band, value, out in zip(flux, fill, turned, strict=True):
        ndimage.map_coordinates(band, places, out, order=order, mode="nearest")
        out[beyond] = value
    return turned


def _axis(weight: Matrix, x: Matrix, y: Matrix) -> float:
    """Angle of the major axis of weighted points, degrees in [0, 180), a float32 value."""
    m_xy, difference = np.sum(weight * x * y), np.sum(weight * (x * x - y * y))
    if math.hypot(2 * m_xy, difference) <= LEAST_ASYMMETRY * np.sum(weight * (x * x + y * y)):
        return 0.0
    angle = math.degrees(math.atan2(2 * m_xy, difference)) / 2
    return float(np.float32(angle % 180)) % 180


def core(light: Matrix) -> tuple[float, float]:
    """Centre of the brightest light (H, W) near a cutout's centre, px right and up of it.

    The windowed centroid (Bertin's XWIN): weights are a Gaussian about the centre found last, with
    a sigma of 1/16 of the side, so that what lies further out counts little. Where it strays by
    more than 1/8 of the side, the cutout's own centre is taken.
    """
    side = min(light.shape)
    y, x = ((length - 1) / 2 - np.arange(length) for length in light.shape)
    x, place = -x, np.zeros(2)
    for _ in range(CENTRING_STEPS):
        columns = np.exp(-(((x - place[0]) / (side / 16)) ** 2) / 2)
        rows = np.exp(-(((y - place[1]) / (side / 16)) ** 2) / 2)
        across, down = rows @ light * columns, light @ columns * rows
        total = across.sum()
        if not total > 0:
            return 0.0, 0.0
        place += 2 * (np.array([across @ x, down @ y]) / total - place)
        if np.hypot(*place) > side / 8:
            return 0.0, 0.0
    return float(place[0]), float(place[1])


def _opposite(light: Matrix, x: float, y: float) -> Matrix:
    """Light (H, W) turned by 180 degrees about a place, px right and up of the centre; 0 beyond."""
    from scipy import ndimage  # as above

    ends = np.array(light.shape) - 1 + 2 * np.array([-y, x])
    return ndimage.affine_transform(light, np.full(2, -1.0), ends, order=LINEAR, mode="constant")


def _turned(x: Matrix, y: Matrix, angle: float) -> tuple[Matrix, Matrix]:
    """Coordinates along and across an axis at this angle, of points (x, y), y upwards."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def _leans_back(weight: Matrix, along: Matrix) -> bool:
    """Whether the third moment about 0 is negative, by more than rounding."""
    moments = weight * along**3
    return bool(moments.sum() < -LEAST_ASYMMETRY * np.abs(moments).sum())
