"""The images of a training, and which of them each batch and rank takes.

Legend: N rows, B rows of a batch, C bands, H W pixels.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.training.noise import Purpose, Rows, permutation
from avader.training.order import block_edges, epoch_order

Pixels = NDArray[np.uint8] | NDArray[np.float16]
Masks = NDArray[np.uint8]
"""Packed bits (B, H W / 8) of source masks, as numpy.packbits makes them row by row."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank takes of a global batch.

    rows: its row numbers, in the whole data set; start: where they begin in the batch; batch: rows
    of the whole batch, over all ranks.
    """

    rows: Rows
    start: int
    batch: int


@dataclass(frozen=True, slots=True)
class Part:
    """A share with its images: pixels (B, C, H, W), masks (B, H W / 8) where there are any."""

    share: Share
    pixels: Pixels
    masks: Masks | None = None


@dataclass(frozen=True, slots=True)
class Sequence:
    """The order of an epoch: which rows a rank takes from batch to batch.

    batch: rows of a global batch at most; skip: batches that are done already; window: rows that
    are shuffled as one (see order.py).
    """

    seed: int
    epoch: int
    batch: int
    rank: int = 0
    world: int = 1
    skip: int = 0
    window: int = sys.maxsize


class Images(Protocol):
    """Where a training gets its images from."""

    @property
    def rows(self) -> int:
        """Images in all, held out or not."""

    @property
    def training_rows(self) -> Rows:
        """Numbers of the images to train on."""

    @property
    def held_out_rows(self) -> Rows:
        """Numbers of the images held out."""

    @property
    def mean_pixel(self) -> float:
        """Mean of all pixels, in [0, 1]."""

    @property
    def line(self) -> str:
        """Where the images are, for people."""

    def parts(self, order: Sequence) -> Iterator[Part]:
        """An epoch's shares of a rank, in order."""

    def some(self, rows: Rows, at_once: int) -> Iterator[Part]:
        """These rows, sorted, `at_once` at a time, for one rank alone."""


class MemoryImages:
    """Images held in memory as they are stored."""

    def __init__(
        self,
        pixels: Pixels,
        masks: Masks | None = None,
        *,
        held_out: Rows | None = None,
        edges: Rows | None = None,
    ) -> None:
        """pixels (N, C, H, W), masks (N, H W / 8). held_out: rows set aside. edges (S + 1,): of
        the blocks they lie in, one by default."""
        self.pixels, self.masks = pixels, masks
        self.rows = len(pixels)
        self.edges = block_edges([len(pixels)]) if edges is None else edges
        self.held_out_rows = np.zeros(0, np.int64) if held_out is None else np.sort(held_out)
        self.training_rows = np.setdiff1d(np.arange(self.rows), self.held_out_rows)

    @property
    def mean_pixel(self) -> float:
        """Mean of all pixels, in [0, 1]."""
        blocks = itertools.pairwise(self.edges)
        total = sum(pixel_sum(self.pixels[start:stop]) for start, stop in blocks)
        return total / max(self.pixels.size, 1)

    @property
    def line(self) -> str:
        """Where the images are, for people."""
        shape = " x ".join(map(str, self.pixels.shape))
        size = self.pixels.nbytes / 2**20
        return f"{shape} {self.pixels.dtype} images, {size:,.1f} MiB in every worker"

    def parts(self, order: Sequence) -> Iterator[Part]:
        """An epoch's shares of a rank, in order."""
        for share in shares(self.training_rows, order, self.edges):
            yield self._part(share)

    def some(self, rows: Rows, at_once: int) -> Iterator[Part]:
        """These rows, `at_once` at a time, for one rank alone."""
        for share in some_shares(rows, at_once):
            yield self._part(share)

    def _part(self, share: Share) -> Part:
        masks = None if self.masks is None else self.masks[share.rows]
        return Part(share, self.pixels[share.rows], masks)


def held_out_rows(count: int, *, share: float, seed: int) -> Rows:
    """Rows that are set aside: this share of `count`, chosen by the seed, sorted."""
    order = permutation(seed, Purpose.HELD_OUT, 0, count)
    return np.sort(order[: round(count * share)])


def near_equal(count: int, parts: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover 0..count in `parts` whose lengths differ by at most 1."""
    edges = [count * part // max(parts, 1) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def shares(rows: Rows, order: Sequence, blocks: Rows | None = None) -> Iterator[Share]:
    """A rank's share of every global batch of an epoch over these rows, sorted as given.

    The epoch's order (order.py; blocks: their edges, one block by default) is cut into the fewest
    batches of at most `batch` rows whose sizes differ by at most 1: every row once, none dropped,
    and no small last batch. Each batch is cut among the ranks alike; a share may be empty.
    """
    if blocks is None:
        blocks = block_edges([int(rows.max(initial=-1)) + 1])
    shuffled = epoch_order(rows, blocks, window=order.window, seed=order.seed, epoch=order.epoch)
    edges = near_equal(len(rows), -(-len(rows) // order.batch))
    for start, stop in edges[order.skip :]:
        first, last = near_equal(stop - start, order.world)[order.rank]
        yield Share(shuffled[start + first : start + last], first, stop - start)


def some_shares(rows: Rows, at_once: int) -> list[Share]:
    """These rows cut into the fewest shares of at most `at_once`, each a batch of one rank."""
    parts = np.array_split(rows, max(1, -(-len(rows) // at_once)))
    return [Share(part, 0, len(part)) for part in parts]


def pixel_sum(pixels: Pixels) -> float:
    """Sum of stored pixels, each in [0, 1]."""
    total = float(pixels.sum(dtype=np.float64))
    return total / 255.0 if pixels.dtype == np.uint8 else total


def as_images(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """Stored pixels (B, C, H, W) as float32 in [0, 1] on a device; uint8 holds round(255 x)."""
    images = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last).float()
    return images / 255.0 if pixels.dtype == np.uint8 else images


def as_masks(masks: Masks, shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Packed masks (B, H W / 8) as booleans (B, 1, H, W) on a device."""
    height, width = shape
    bits = np.unpackbits(masks, axis=1, count=height * width).view(np.bool_)
    return torch.from_numpy(bits.reshape(-1, 1, height, width)).to(device)
