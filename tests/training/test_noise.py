"""Random numbers of a training: numpy's own Philox, and what must not matter."""

import numpy as np
import pytest
from scipy import stats

from avader.training.noise import Purpose, flips, normals, permutation, row_words

SEED = 2**62 + 12345
ROWS = np.array([5, 0, 77, 2**40, 3])
LITERAL = [
    ["0xe6dcedf6447e18ac", "0xb14a61d04834c501"],
    ["0xb0bdf7570ae0283", "0x7de2a8ab2fa1eaf3"],
]


@pytest.mark.parametrize("per_row", [1, 4, 5, 21])
def test_words_are_numpys(per_row):
    blocks = -(-per_row // 4)
    got = row_words(SEED, Purpose.LATENT, 3, ROWS, per_row)
    for row, words in zip(ROWS, got, strict=True):
        bits = np.random.Philox(key=[SEED, 66], counter=[int(row) * blocks, 3, 0, 0])
        np.testing.assert_array_equal(words, bits.random_raw(per_row))


def test_literal_words():
    """The layout must not change: a training that goes on would see other numbers."""
    got = row_words(7, Purpose.FLIP, 2, np.array([0, 10]), 2)
    assert [[hex(word) for word in row] for row in got.tolist()] == LITERAL


def test_a_row_keeps_its_numbers_in_any_company():
    whole = normals(1, 4, np.arange(50), 6)
    part = normals(1, 4, np.array([40, 2]), 6)
    np.testing.assert_array_equal(part, whole[[40, 2]])


def test_epochs_streams_and_seeds_differ():
    base = row_words(1, Purpose.LATENT, 0, ROWS, 4)
    for other in ((2, Purpose.LATENT, 0), (1, Purpose.FLIP, 0), (1, Purpose.LATENT, 1)):
        assert not (row_words(*other, ROWS, 4) == base).any()


def test_normals_are_normal():
    values = normals(3, 0, np.arange(20_000), 3).numpy()
    assert values.dtype == np.float32
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(3), atol=0.03)


def test_flips_are_fair_and_independent():
    which = flips(3, 1, np.arange(20_000))
    assert which.shape == (20_000, 2)
    counts = np.bincount(which @ [1, 2], minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_permutation():
    order = permutation(9, Purpose.ORDER, 5, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, permutation(9, Purpose.ORDER, 6, 1000))
    np.testing.assert_array_equal(order, permutation(9, Purpose.ORDER, 5, 1000))


def test_no_rows():
    assert normals(0, 0, np.arange(0), 4).shape == (0, 4)
    assert flips(0, 0, np.arange(0)).shape == (0, 2)
    assert permutation(0, Purpose.ORDER, 0, 0).shape == (0,)
