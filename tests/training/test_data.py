"""Batches, shares, held-out rows, masks."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from avader.training.data import (
    MemoryImages,
    Sequence,
    as_images,
    as_masks,
    held_out_rows,
    near_equal,
    shares,
)


@given(st.integers(0, 200), st.integers(1, 40))
def test_near_equal_covers_once(count, parts):
    ranges = near_equal(count, parts)
    assert len(ranges) == parts
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(count))
    lengths = [stop - start for start, stop in ranges]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 120), st.integers(1, 50), st.integers(1, 5))
def test_global_batches_do_not_depend_on_the_ranks(rows, batch, world):
    def batches(world):
        by_rank = [
            list(shares(np.arange(rows), Sequence(3, 2, batch, rank, world)))
            for rank in range(world)
        ]
        return [np.concatenate([s.rows for s in parts]) for parts in zip(*by_rank, strict=True)]

    alone, together = batches(1), batches(world)
    assert [part.tolist() for part in alone] == [part.tolist() for part in together]
    assert sorted(np.concatenate(alone).tolist()) == list(range(rows))
    assert max(map(len, alone)) <= batch
    assert max(map(len, alone)) - min(map(len, alone)) <= 1


def test_share_tells_the_whole_batch():
    found = [next(shares(np.arange(10), Sequence(0, 0, 5, rank, 3))) for rank in range(3)]
    assert [len(share.rows) for share in found] == [1, 2, 2]
    assert [share.start for share in found] == [0, 1, 3]
    assert {share.batch for share in found} == {5}


def test_skipped_batches_are_left_out():
    whole = [share.rows.tolist() for share in shares(np.arange(20), Sequence(0, 1, 6))]
    rest = [share.rows.tolist() for share in shares(np.arange(20), Sequence(0, 1, 6, skip=2))]
    assert rest == whole[2:]


def test_epochs_have_other_orders():
    first, second = (next(shares(np.arange(50), Sequence(0, epoch, 50))).rows for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_stored_pixels_become_fractions():
    pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(as_images(pixels).ravel(), [0.0, 0.2, 1.0])
    halves = np.array([0.0, 0.25, 1.0], np.float16).reshape(3, 1, 1, 1)
    images = as_images(halves)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.ravel(), [0.0, 0.25, 1.0])


def test_masks_are_unpacked_row_by_row():
    masks = np.random.default_rng(0).random((3, 6, 5)) < 0.5
    packed = np.packbits(masks.reshape(3, -1), axis=1)
    np.testing.assert_array_equal(as_masks(packed, (6, 5))[:, 0], masks)


def test_held_out_rows_are_left_out_of_every_epoch():
    held = held_out_rows(40, share=0.2, seed=3)
    assert len(held) == 8
    source = MemoryImages(np.zeros((40, 1, 2, 2), np.uint8), held_out=held)
    seen = np.concatenate([part.share.rows for part in source.parts(Sequence(0, 0, 7))])
    assert sorted(seen.tolist() + held.tolist()) == list(range(40))
