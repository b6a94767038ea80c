"""What is done to images at every read: flips, and the random views of the contrast.

Every number depends on (seed, epoch, row) alone (noise.py). Legend: B images, C bands, H W pixels.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avader.recipe import Views


def flipped(images: Tensor, which: NDArray[np.bool_]) -> Tensor:
    """Images (B, C, H, W), those that `which` (B, 2) says flipped along W and along H."""
    for column, axis in ((0, -1), (1, -2)):
        chosen = torch.from_numpy(which[:, column]).to(images.device)[:, None, None, None]
        images = torch.where(chosen, images.flip(axis), images)
    return images


def viewed(images: Tensor, numbers: Tensor, views: Views) -> Tensor:
    """Images (B, C, H, W) moved about their centres by an affine map, bilinearly, edges repeated.

    numbers (B, 6), in [-1, 1): rotation, log scale, shear, shift along W and H, gain, each as a
    share of the greatest that `views` allows. Values stay in [0, 1].
    """
    if not len(images):  # a rank's empty share
        return images
    height, width = images.shape[-2:]
    angle, scale, shear, along, down, gain = numbers.to(images.device).unbind(1)
    angle = angle * math.radians(views.rotation)
    scale = (scale * math.log1p(views.scale)).exp()
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shear = shear * views.shear
    # Rows of the map from output to input, both in [-1, 1] along each axis.
    first = torch.stack([cosine, cosine * shear - sine, along * 2 * views.shift / width], 1)
    second = torch.stack([sine, sine * shear + cosine, down * 2 * views.shift / height], 1)
    grid = functional.affine_grid(
        torch.stack([first, second], 1), list(images.shape), align_corners=False
    )
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    brighter = (1 + gain * views.gain)[:, None, None, None]
    return (moved * brighter).clamp(0, 1).contiguous(memory_format=torch.channels_last)
