"""Whatever the bytes, decoding and preparing ends soon, in a cutout or in a CutoutError.

Warnings are errors in the tests, so none leaks either.
"""

import random
import time

import numpy as np
import pytest

from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import Cutout, prepare
from avader.images.decode import decode_image
from avader.recipe import Preprocessing
from tests.images.samples import colour, fits_bytes, grey, gzipped, jpeg, outcome, png

# The canonical frame takes every step of the sky's frame, and more.
PREPARE = Preprocessing(
    crop=16, size=16, missing="median", max_missing=1.0, orientation="canonical", source_mask=True
)
STARTS = {
    "jpeg": jpeg(colour(24)),
    "progressive": jpeg(grey(24), progressive=True),
    "png": png(colour(24)),
    "palette": png(colour(24), mode="P"),
    "png16": png(grey(24).astype(np.uint16) * 200),
    "fits": fits_bytes(grey(24).astype("f4"), saturate=200),
    "masked": fits_bytes(grey(24).astype("u2"), mask=(grey(24) > 180).astype("u1")),
    "gzip": gzipped(fits_bytes(grey(24).astype("f8"))),
}
MUTATIONS = 260  # of each start
WORDS = [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"9999999999", b"END     "]
WORDS += [
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc4",
    b"IHDR",
    b"IDAT",
    b"tRNS",
    b"-1",
    b"NAN",
    b"'",
    b"T",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes: flips, words, cuts, repeats, digits of a header."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if not changed:
            break
        at = (
            rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(len(changed[:800]))
        )
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            word = rng.choice(WORDS)
            changed[at : at + len(word)] = word
        elif kind == 2:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
        elif kind == 4:
            digits = [i for i, byte in enumerate(changed[:1200]) if 48 <= byte <= 57]
            changed[rng.choice(digits or [at])] = rng.choice(b"0123456789-. ")
        elif rng.random() < 0.3:
            del changed[max(at, 1) :]
    return bytes(changed)


@pytest.mark.parametrize("kind", STARTS)
def test_mutated_files_end_in_a_cutout_or_a_reason(kind):
    rng = random.Random(kind)
    slowest = 0.0
    for number in range(MUTATIONS):
        data = mutate(STARTS[kind], rng)
        begin = time.process_time()
        result = outcome(_cutout, data)
        if isinstance(result, CutoutError):
            assert isinstance(result.reason, Reason)
            assert result.detail, f"{kind} {number}"
            assert " at 0x" not in result.detail
        else:
            assert result.low < result.high
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 2, f"{slowest:.1f} s for one file"


@pytest.mark.parametrize("kind", STARTS)
def test_the_same_bytes_give_the_same_reason_twice(kind):
    rng = random.Random(kind + "again")
    for _ in range(25):
        data = mutate(STARTS[kind], rng)
        first, again = (outcome(_cutout, data) for _ in range(2))
        assert str(getattr(first, "pixels", first)) == str(getattr(again, "pixels", again))


def _cutout(data: bytes) -> Cutout:
    return prepare(decode_image(data), PREPARE)
