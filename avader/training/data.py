"""The images of a training in memory, and which of them each batch and rank takes.

Legend: N rows, B rows of a batch, C bands, H W pixels.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.training.noise import Purpose, Rows, flips, permutation

Pixels = NDArray[np.uint8] | NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank takes of a global batch.

    rows: its row numbers; batch: rows of the whole batch, over all ranks.
    """

    rows: Rows
    batch: int


def near_equal(count: int, parts: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover 0..count in `parts` whose lengths differ by at most 1."""
    edges = [count * part // max(parts, 1) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def shares(
    rows: int, *, batch: int, seed: int, epoch: int, rank: int, world: int
) -> Iterator[Share]:
    """A rank's share of every global batch of an epoch.

    The epoch's order is a permutation of all rows under (seed, epoch), cut into the fewest batches
    of at most `batch` rows whose sizes differ by at most 1: every row once, none dropped, and no
    small last batch. Each batch is cut among the ranks in the same way; a share may be empty.
    """
    order = permutation(seed, Purpose.ORDER, epoch, rows)
    for start, stop in near_equal(rows, -(-rows // batch)):
        first, last = near_equal(stop - start, world)[rank]
        yield Share(order[start + first : start + last], stop - start)


def as_images(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """Stored pixels (B, C, H, W) as float32 in [0, 1] on a device; uint8 holds round(255 x)."""
    images = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last).float()
    return images / 255.0 if pixels.dtype == np.uint8 else images


def flipped(images: Tensor, which: NDArray[np.bool_]) -> Tensor:
    """Images (B, C, H, W), those that `which` (B, 2) says flipped along W and along H."""
    for column, axis in ((0, -1), (1, -2)):
        chosen = torch.from_numpy(which[:, column]).to(images.device)[:, None, None, None]
        images = torch.where(chosen, images.flip(axis), images)
    return images


def augmented(images: Tensor, *, seed: int, epoch: int, rows: Rows) -> Tensor:
    """Images (B, C, H, W) of these rows with the flips that the epoch gives them."""
    return flipped(images, flips(seed, epoch, rows))
