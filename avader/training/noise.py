"""Random numbers of a training, addressed by (seed, stream, epoch, row).

A number depends on the row it is for and never on the rank or the batch that asks, so one worker
and many see the same training. Raw Philox 4x64-10 words only: word i of a row in an epoch is what
`numpy.random.Philox(key=[seed, stream], counter=[row * blocks, epoch, 0, 0])` gives as its i-th,
where blocks is the number of four-word blocks that a row takes. Computed here for many scattered
rows at once. Source: Salmon et al. 2011.

Legend: B rows of a batch, D latent dimensions.
"""

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.mixture import random

Words = NDArray[np.uint64]
Rows = NDArray[np.int64]

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


class Purpose(IntEnum):
    """Stream numbers of a training; those of synthetic skies are lower."""

    ORDER = 64
    FLIP = 65
    LATENT = 66
    SAMPLE = 67
    VIEW = 68
    HELD_OUT = 69
    BLOCKS = 70


VIEW_NUMBERS = 6
"""Numbers that make a view."""


def row_words(seed: int, purpose: Purpose, epoch: int, rows: Rows, per_row: int) -> Words:
    """Raw words (B, per_row) of scattered rows (B,) in an epoch."""
    blocks = -(-per_row // 4)
    # numpy counts up before it draws, so its first block is that of counter + 1.
    first = rows.astype(np.uint64)[:, None] * np.uint64(blocks)
    counter = (first + np.arange(1, blocks + 1, dtype=np.uint64)).astype(np.uint64)
    zero = np.zeros_like(counter)
    state = (counter, np.full_like(counter, epoch), zero, zero)
    words = np.stack(_philox(state, seed, int(purpose)), axis=-1)  # (B, blocks, 4)
    return words.reshape(len(rows), 4 * blocks)[:, :per_row]


def normals(seed: int, epoch: int, rows: Rows, latent: int) -> Tensor:
    """Standard normals (B, D), float32, that sample z of each row in an epoch."""
    words = row_words(seed, Purpose.LATENT, epoch, rows, latent)
    return torch.from_numpy(random.normals(words).astype(np.float32)).view(len(rows), latent)


def flips(seed: int, epoch: int, rows: Rows, view: int = 0) -> NDArray[np.bool_]:
    """Whether each row is flipped left to right and top to bottom in an epoch: (B, 2).

    view: 0 or 1, for two views of an image.
    """
    word = row_words(seed, Purpose.FLIP, epoch, rows, 1)
    shifts = np.array([63, 62], dtype=np.uint64) - np.uint64(2 * view)
    return (word >> shifts) & np.uint64(1) == 1


def view_numbers(seed: int, epoch: int, rows: Rows, view: int) -> Tensor:
    """Uniforms in [-1, 1), float32 (B, 6), that make a row's view 0 or 1 in an epoch."""
    words = row_words(seed, Purpose.VIEW, epoch, rows, 2 * VIEW_NUMBERS)
    own = words[:, view * VIEW_NUMBERS : (view + 1) * VIEW_NUMBERS]
    uniforms = 2 * random.uniforms(own) - 1
    return torch.from_numpy(uniforms.astype(np.float32)).view(len(rows), VIEW_NUMBERS)


def permutation(seed: int, purpose: Purpose, epoch: int, count: int, *, part: int = 0) -> Rows:
    """Row numbers 0 .. count - 1 in the order of their words in an epoch.

    part: a number for each of several permutations in an epoch.
    """
    bits = np.random.Philox(key=[seed, int(purpose)], counter=[0, epoch, part, 0])
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)


def _philox(state: tuple[Words, Words, Words, Words], *key: int) -> tuple[Words, ...]:
    """Ten rounds of Philox 4x64 on counters of any shape, under a key of two words."""
    a, b, c, d = state
    for number in range(ROUNDS):
        k0, k1 = (
            np.uint64((word + number * step) % 2**64)
            for word, step in zip(key, INCREMENTS, strict=True)
        )
        high_a, low_a = _product(a, MULTIPLIERS[0])
        high_c, low_c = _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
    return a, b, c, d


def _product(x: Words, y: np.uint64) -> tuple[Words, Words]:
    """High and low 64 bits of x * y, by halves of 32 bits."""
    x_high, x_low, y_high, y_low = x >> HALF, x & LOW, y >> HALF, y & LOW
    low = x_low * y_low
    middle = x_high * y_low + (low >> HALF)
    other = x_low * y_high + (middle & LOW)
    return x_high * y_high + (middle >> HALF) + (other >> HALF), x * y
