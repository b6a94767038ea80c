"""Batches, shares and flips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avader.training.data import as_images, augmented, flipped, near_equal, shares
from avader.training.noise import flips


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
            list(shares(rows, batch=batch, seed=3, epoch=2, rank=rank, world=world))
            for rank in range(world)
        ]
        return [np.concatenate([s.rows for s in parts]) for parts in zip(*by_rank, strict=True)]

    alone, together = batches(1), batches(world)
    assert [part.tolist() for part in alone] == [part.tolist() for part in together]
    assert sorted(np.concatenate(alone).tolist()) == list(range(rows))
    assert max(map(len, alone)) <= batch
    assert max(map(len, alone)) - min(map(len, alone)) <= 1


def test_share_tells_the_whole_batch():
    found = [next(shares(10, batch=5, seed=0, epoch=0, rank=rank, world=3)) for rank in range(3)]
    assert [len(share.rows) for share in found] == [1, 2, 2]
    assert {share.batch for share in found} == {5}


def test_epochs_have_other_orders():
    first, second = (
        next(shares(50, batch=50, seed=0, epoch=epoch, rank=0, world=1)).rows for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)


def test_stored_pixels_become_fractions():
    pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(as_images(pixels).ravel(), [0.0, 0.2, 1.0])
    halves = np.array([0.0, 0.25, 1.0], np.float16).reshape(3, 1, 1, 1)
    images = as_images(halves)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.ravel(), [0.0, 0.25, 1.0])


@pytest.mark.parametrize(("across", "along"), [(False, False), (True, False), (False, True)])
def test_flips_are_numpys(across, along):
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    wanted = images.numpy()[1]
    wanted = wanted[:, :, ::-1] if across else wanted
    wanted = wanted[:, ::-1] if along else wanted
    got = flipped(images, np.array([[False, False], [across, along]]))
    np.testing.assert_array_equal(got[0], images[0])
    np.testing.assert_array_equal(got[1], wanted)


def test_a_row_is_flipped_alike_in_any_batch():
    images = torch.rand(30, 1, 6, 6)
    rows = np.arange(30)
    whole = augmented(images, seed=1, epoch=2, rows=rows)
    part = augmented(images[7:9], seed=1, epoch=2, rows=rows[7:9])
    torch.testing.assert_close(part, whole[7:9], rtol=0, atol=0)
    assert 0 < flips(1, 2, rows).mean() < 1
