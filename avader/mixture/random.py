"""Counter-based random numbers, addressed by (seed, stream, object index).

Any object's numbers can be made alone, in any order, by anyone. Only raw Philox words are used:
they are stable across numpy versions, a Generator's methods are not. Object i of a stream owns
the words of `blocks` whole Philox blocks (4 words each), beginning at counter i * blocks; it uses
the first `per_object` of them. Changing anything here changes every synthetic sky: raise
LAYOUT_VERSION, which manifests record.
"""

from enum import IntEnum
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError

LAYOUT_VERSION = 1
WORDS_PER_BLOCK = 4
NEAR = 64
"""Objects whose words take about as long as one more call."""
LONGEST = 2**16
"""Objects whose words are made by one call, those between the wanted ones included."""

# The half added to the greatest 53-bit integer rounds up to 1 exactly, which has no finite
# normal; the greatest double below 1 takes its place.
BELOW_ONE = 1.0 - 2.0**-53


class Stream(IntEnum):
    """One stream of numbers per purpose."""

    LATENT = 0
    ORIENTATION = 1
    POSITION = 2
    NOISE = 3


def words(seed: int, stream: Stream, start: int, count: int, per_object: int) -> NDArray[np.uint64]:
    """Raw words (count, per_object) of objects start .. start + count - 1, in one Philox call.

    seed: 0 to 2^63 - 1. Raises InputError for a range that the counter does not hold.
    """
    blocks = -(-per_object // WORDS_PER_BLOCK)
    _check(seed, start, count, blocks)
    key = np.array([seed, int(stream)], dtype=np.uint64)
    counter = np.array([start * blocks, 0, 0, 0], dtype=np.uint64)
    return _next(np.random.Philox(key=key, counter=counter), count, blocks)[:, :per_object]


def words_at(
    seed: int, stream: Stream, indices: NDArray[np.int64], per_object: int
) -> NDArray[np.uint64]:
    """Raw words (B, per_object) of the objects of these indices (B,), in any order.

    Indices that lie near each other are made as one run, of LONGEST objects at most, since a call
    costs as much as NEAR objects. Raises InputError as `words` does.
    """
    wanted, places = np.unique(indices, return_inverse=True)
    found = np.empty((len(wanted), per_object), np.uint64)
    if not len(wanted):
        return found
    blocks = -(-per_object // WORDS_PER_BLOCK)
    _check(seed, int(wanted[0]), int(wanted[-1] - wanted[0]) + 1, blocks)
    apart = (np.diff(wanted) > NEAR) | (np.diff(wanted // LONGEST) > 0)
    edges = np.array([0, *(np.flatnonzero(apart) + 1), len(wanted)])
    starts, lasts = wanted[edges[:-1]].tolist(), wanted[edges[1:] - 1].tolist()
    # One generator that moves on: to make another takes four times as long.
    generator, at = np.random.Philox(key=np.array([seed, int(stream)], np.uint64), counter=0), 0
    for (first, stop), start, last in zip(pairwise(edges.tolist()), starts, lasts, strict=True):
        generator.advance((start - at) * blocks)
        at = last + 1
        made = _next(generator, at - start, blocks)
        # Most runs of scattered objects have no gaps, and an index takes as long as the words.
        if at - start > stop - first:
            made = made[wanted[first:stop] - start]
        found[first:stop] = made[:, :per_object]
    return found[places]


def _next(generator: np.random.Philox, count: int, blocks: int) -> NDArray[np.uint64]:
    """The next words (count, 4 blocks) of a generator that is at the beginning of a block."""
    width = blocks * WORDS_PER_BLOCK
    return generator.random_raw(count * width).reshape(count, width)


def uniforms(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words of any shape -> numbers strictly between 0 and 1: (w >> 11, plus 1/2) x 2^-53."""
    values = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(values, BELOW_ONE)


def normals(raw: NDArray[np.uint64], *, within: float = 0.0) -> NDArray[np.float64]:
    """Words of any shape -> standard normals: the inverse normal distribution, in float64.

    within: the normals are those of the distribution cut at -within and +within; 0 cuts nothing.
    The words are copied to one contiguous run first, so that a number never depends on how
    its neighbours lie in memory.
    """
    flat = torch.from_numpy(np.ascontiguousarray(uniforms(raw)))
    if within:
        low, high = torch.special.ndtr(torch.tensor([-within, within], dtype=torch.float64))
        flat = low + flat * (high - low)
    drawn = torch.special.ndtri(flat)
    result: NDArray[np.float64] = (drawn.clamp(-within, within) if within else drawn).numpy()
    return result


def orientations(
    seed: int, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Uniform orientations on the sky of the objects of these indices: angles and flips (B,).

    An object uses 2 words of the orientation stream: word 0 gives the angle, 180 u degrees in
    [0, 180), rounded to float32; the two highest bits of word 1 are the flips, 2 along y then
    1 along x. Half turns are both flips together, so every pose is as likely as its mirror image.
    """
    raw = words_at(seed, Stream.ORIENTATION, indices, 2)
    angle = (180.0 * uniforms(raw[:, 0])).astype(np.float32) % np.float32(180)
    return angle, (raw[:, 1] >> np.uint64(62)).astype(np.uint8)


def _check(seed: int, start: int, count: int, blocks: int) -> None:
    if not 0 <= seed < 2**63:
        raise InputError(f"seed: wanted 0 to 2^63 - 1, got {seed}")
    if start < 0 or count < 0 or (start + count) * blocks >= 2**64:
        raise InputError(
            f"wanted a range of objects from 0 up, below 2^64 / {blocks}, "
            f"got start {start} and count {count}"
        )
