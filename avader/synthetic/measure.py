"""What is measured of a synthetic image: its light, where it lies and how it is spread.

Light is what the sum of the bands has above the background, which is the median of the frame's
outermost pixels; what lies below counts as none. All measures are of all light in the frame,
neighbours and an uneven sky included. Of a frame with most of its rim lit alike nothing is left.

It is counted in whole units of 2^-32 (a frame may hold less than 2^31 in all), and whole numbers
add up alike in any order: an image has the same numbers whatever lies beside it, with any number of
threads, and a GPU may add as it likes.

- Second moments count a pixel's light as spread over it: 1/12 px^2 along each axis.
- An aperture of radius R about the centroid takes of a pixel at distance d what it takes, by area,
  of the ring whose squared radii are d^2 + 1/6 -+ d: 1/6 px^2 is what the pixel's own points add on
  average. Pixels are put together by their distance, in steps of 1/16 px, and radii found by
  bisection. Against exact apertures radii err by 0.01 px, at most 0.05 px.
- For the Gini coefficient pixels are put together by their light, in 4096 steps of the brightest.

Legend: B images, C bands, H W pixels, N = H W, R steps of distance, L levels of light, M measures.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 2.0**32
STEP = 1 / 16
LEVELS = 4096
SHARES = (0.2, 0.5, 0.8)
REACH = 2.0
"""Half-light radii within which a pixel's centre lies that counts for the Gini coefficient."""
REST = 0.625
WINDOW = round(2 * REST / STEP)
HALVINGS = 20

MEASURES = (
    "flux",
    "centroid_x",
    "centroid_y",
    "half_light_radius",
    "axis_ratio",
    "position_angle",
    "concentration",
    "gini",
)


class Moments(NamedTuple):
    """Of light, float64 (B,): its sum in units, centroid in px, second central moments in px^2."""

    total: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor


def measured(images: Tensor) -> Tensor:
    """MEASURES of images (B, C, H, W) float32: (B, M) float32, on their device.

    flux: sum of the light. centroid_x, centroid_y: px, from 0 at the centre of the first column and
    row. half_light_radius: px. axis_ratio: minor over major axis, of the second moments.
    position_angle: of the major axis from the x axis, degrees in [0, 180), counter-clockwise with
    the first row on top; any for round light. concentration: 5 log10(r80 / r20) (Conselice 2003,
    ApJS 147, 1, eq. 1). gini: Lotz, Primack and Madau 2004, AJ 128, 163, eq. 6, of the pixels
    within two half-light radii. Without any light flux is 0 and all others are NaN; of an image
    with a pixel that is not finite all are.
    """
    whole = images.isfinite().flatten(1).all(1)
    light = units_of_light(images.nan_to_num(0, 0, 0))
    moments = moments_of(light)
    axis_ratio, angle = ellipse(moments)
    squared = squared_distances(light, moments)
    inner, half, outer = radii_of(squared, light, moments).unbind(1)
    near = squared <= (REACH * half[:, None]).square()
    found = [
        *(moments.total / UNIT, moments.x, moments.y, half, axis_ratio, angle),
        *(5 * torch.log10(outer / inner), gini(light.flatten(1), near)),
    ]
    table = torch.stack(found, dim=1)
    dark = (moments.total == 0)[:, None] & (torch.arange(len(MEASURES), device=table.device) > 0)
    return table.masked_fill(dark | ~whole[:, None], math.nan).float()


def units_of_light(images: Tensor) -> Tensor:
    """Images (B, C, H, W) -> their light (B, H, W) int64, in units of 2^-32."""
    summed = images.float().sum(1)
    rim = torch.cat([summed[:, 0], summed[:, -1], summed[:, 1:-1, 0], summed[:, 1:-1, -1]], dim=1)
    ordered = rim.sort(dim=1).values
    middle = rim.shape[1] // 2
    background = (ordered[:, middle] + ordered[:, (rim.shape[1] - 1) // 2]) / 2
    # A power of two: the product is exact, and what is below a unit is cut off.
    return ((summed - background[:, None, None]).clamp_min(0) * UNIT).long()


def moments_of(light: Tensor) -> Moments:
    """Moments of light (B, H, W)."""
    height, width = light.shape[1:]
    across = torch.arange(width, device=light.device)
    down = torch.arange(height, device=light.device)
    rows, columns = light.sum(2).double(), light.sum(1).double()
    slopes = (light * across).sum(2).double()  # (B, H)
    total = rows.sum(1)
    some = total.clamp_min(1)
    x, y = (columns * across).sum(1) / some, (rows * down).sum(1) / some
    from_x, from_y = across - x[:, None], down - y[:, None]
    xx = (columns * from_x.square()).sum(1) / some
    yy = (rows * from_y.square()).sum(1) / some
    xy = ((slopes - rows * x[:, None]) * from_y).sum(1) / some
    return Moments(total, x, y, xx + 1 / 12, yy + 1 / 12, xy)


def ellipse(moments: Moments) -> tuple[Tensor, Tensor]:
    """Minor over major axis (B,), and the major axis's position angle (B,), degrees."""
    mean, half = (moments.xx + moments.yy) / 2, (moments.xx - moments.yy) / 2
    spread = torch.hypot(half, moments.xy)
    ratio = ((mean - spread) / (mean + spread)).clamp_min(0).sqrt()
    # Rows go down, angles up. Rounded to float32 first, which has 180 for what is a little less.
    angle = (torch.rad2deg(torch.atan2(-moments.xy, half) / 2) % 180).float().double()
    return ratio, torch.where((angle > 0) & (angle < 180), angle, 0.0)


def squared_distances(light: Tensor, moments: Moments) -> Tensor:
    """Squared distance of each pixel's centre (B, N) from the centroid, px^2, float32."""
    height, width = light.shape[1:]
    across = torch.arange(width, device=light.device) - moments.x[:, None]
    down = torch.arange(height, device=light.device) - moments.y[:, None]
    return (across.square()[:, None, :] + down.square()[:, :, None]).flatten(1).float()


def radii_of(squared: Tensor, light: Tensor, moments: Moments) -> Tensor:
    """Radii (B, 3), px, of the circles about the centroid that hold SHARES of the light (B, H, W).

    squared: (B, N), as squared_distances gives them.
    """
    steps = (squared.sqrt() / STEP).round().long()
    farthest = math.ceil(math.hypot(*light.shape[1:]) / STEP) + 1
    light, total = light.flatten(1), moments.total
    rings = torch.zeros(len(light), farthest, dtype=torch.long, device=light.device)
    held = rings.scatter_add(1, steps, light).cumsum(1).double()  # (B, R), as of points
    # No tensor is made of numbers here: a GPU's graph takes no copy from the host.
    wanted = torch.stack([total * share for share in SHARES], dim=1)
    at = torch.searchsorted(held, wanted)  # (B, 3)
    # A ring's edges are within REST of its pixel: what is nearer by twice as much is all in.
    beside = torch.arange(-WINDOW, WINDOW, device=light.device)
    places = at[:, :, None] + beside  # (B, 3, 2 WINDOW)
    below = held[:, None].expand(-1, len(SHARES), -1).gather(2, places.clamp(0, farthest - 1))
    below = below.masked_fill(places < 0, 0.0)
    part, own = below[:, :, 1:].diff(dim=2, prepend=below[:, :, :1]), places[:, :, 1:] * STEP
    mean = own.square() + 1 / 6
    within = torch.where(own < 0.5, mean, own)  # the centroid lies in the pixel: a disc
    near, far = (mean - within).clamp_min(0), mean + within
    low, high = ((at * STEP + reach).clamp_min(0).double().square() for reach in (-REST, REST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2  # squared radii
        taken = ((middle[:, :, None] - near) / (far - near)).clamp(0, 1)
        less = below[:, :, 0] + (taken * part).sum(2) < wanted
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return ((low + high) / 2).sqrt()


def gini(light: Tensor, near: Tensor) -> Tensor:
    """Gini coefficients (B,) of light (B, N) of the pixels that are near (B, N)."""
    brightest = light.amax(1, keepdim=True).clamp_min(1)
    levels = (light.float() * ((LEVELS - 1) / brightest.float())).long().clamp_max(LEVELS - 1)
    none = torch.zeros(len(light), LEVELS, dtype=torch.long, device=light.device)
    counts = none.scatter_add(1, levels, near.long()).double()  # (B, L)
    sums = none.scatter_add(1, levels, light * near).double()
    pixels, total = counts.sum(1), sums.sum(1)
    # sum_i (2 i - n - 1) x_i over pixels by rising light; those of a level have its mean rank.
    ranks = 2 * counts.cumsum(1) - counts - pixels[:, None]
    return (ranks * sums).sum(1) / (total * (pixels - 1)).clamp_min(1)
