"""The order of an epoch by windows, and the delivery of what is read block by block."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avader.training.data import MemoryImages, Sequence, held_out_rows, shares, some_shares
from avader.training.delivery import Delivery
from avader.training.noise import Purpose, permutation
from avader.training.order import block_edges, epoch_order

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12)


def blocks_of(rows, edges):
    return np.searchsorted(edges, rows, side="right") - 1


@given(SIZES, st.integers(1, 200), st.integers(0, 3))
def test_every_row_once(sizes, window, epoch):
    edges = block_edges(sizes)
    order = epoch_order(np.arange(edges[-1]), edges, window=window, seed=5, epoch=epoch)
    assert sorted(order.tolist()) == list(range(edges[-1]))


@given(SIZES, st.integers(1, 60))
def test_no_more_than_a_window_and_a_block_is_open_at_once(sizes, window):
    """Open: blocks of which some rows are behind and some are still to come."""
    edges = block_edges(sizes)
    order = epoch_order(np.arange(edges[-1]), edges, window=window, seed=1, epoch=0)
    block = blocks_of(order, edges)
    for position in range(1, len(order)):
        both = set(block[:position]) & set(block[position:])
        assert sum(sizes[number] for number in both) <= window + max(sizes)


def test_a_window_that_holds_all_shuffles_all_as_one():
    edges, rows = block_edges([10] * 5), np.arange(50)
    order = epoch_order(rows, edges, window=50, seed=3, epoch=2)
    np.testing.assert_array_equal(order, permutation(3, Purpose.ORDER, 2, 50))


def test_windows_change_from_epoch_to_epoch():
    edges = block_edges([10] * 20)
    found = [
        set(blocks_of(epoch_order(np.arange(200), edges, window=50, seed=3, epoch=e)[:50], edges))
        for e in range(3)
    ]
    assert len({frozenset(blocks) for blocks in found}) == 3
    assert all(len(blocks) == 5 for blocks in found)


def memory(sizes, held=0.0):
    count = sum(sizes)
    pixels = np.arange(count * 4, dtype=np.float16).reshape(count, 1, 2, 2)
    masks = np.arange(count, dtype=np.uint8)[:, None]
    held_out = held_out_rows(count, share=held, seed=1)
    return MemoryImages(pixels, masks, held_out=held_out, edges=block_edges(sizes))


def reader(images, seen):
    def read(errands):
        for errand in errands:
            seen.append(errand.block)
            rows = images.edges[errand.block] + errand.rows
            yield images.pixels[rows], images.masks[rows]

    return read


def assert_same(found, wanted):
    for ours, theirs in itertools.zip_longest(found, wanted):
        np.testing.assert_array_equal(ours.share.rows, theirs.share.rows)
        assert ours.share.start == theirs.share.start
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        np.testing.assert_array_equal(ours.masks, theirs.masks)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("skip", [0, 4])
def test_delivery_is_what_memory_gives(world, skip):
    images = memory([7, 12, 1, 0, 20, 9, 11], held=0.1)
    none = images.pixels[:0], images.masks[:0]
    for rank in range(world):
        order = Sequence(2, 1, 5, rank, world, skip=skip, window=15)
        delivery = Delivery(list(shares(images.training_rows, order, images.edges)), images.edges)
        seen: list[int] = []
        found = list(delivery.parts(reader(images, seen), none))
        assert_same(found, images.parts(order))
        assert len(set(seen)) == len(seen), "a block was read twice"
        assert delivery.most <= (15 + 20) // world + 5


def test_blocks_that_are_done_are_not_read_again():
    images = memory([10] * 10)
    order = Sequence(0, 0, 10, skip=5, window=10)
    delivery = Delivery(list(shares(images.training_rows, order, images.edges)), images.edges)
    assert len(delivery.errands) == 5


def test_some_rows_for_one_rank():
    images = memory([7, 12, 1, 20])
    rows = np.array([2, 5, 6, 7, 30, 31, 32, 39])
    delivery = Delivery(some_shares(rows, 3), images.edges)
    seen: list[int] = []
    none = images.pixels[:0], images.masks[:0]
    assert_same(delivery.parts(reader(images, seen), none), images.some(rows, 3))
    assert seen == [0, 1, 3]


def test_an_empty_share_before_anything_was_read():
    images = memory([3])
    order = Sequence(0, 0, 1, rank=0, world=2)  # batches of one row, all of them rank 1's
    delivery = Delivery(list(shares(images.training_rows, order, images.edges)), images.edges)
    none = images.pixels[:0], images.masks[:0]
    found = list(delivery.parts(reader(images, []), none))
    assert [part.pixels.shape for part in found] == [(0, 1, 2, 2)] * 3
