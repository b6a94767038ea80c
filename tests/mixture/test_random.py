"""The layout is fixed for ever: literal words, and per-object calls against ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chisquare, kstest, truncnorm

from avader.errors import InputError
from avader.mixture import random
from avader.mixture.random import (
    LAYOUT_VERSION,
    NEAR,
    Stream,
    normals,
    orientations,
    uniforms,
    words,
    words_at,
)

SEEDS = st.integers(0, 2**63 - 1)


def test_literal_words_of_layout_1():
    assert LAYOUT_VERSION == 1
    assert words(2026, Stream.LATENT, 5, 2, 5).tolist() == [
        [
            0x452A12BDA36CB1BB,
            0x81C68D196F1EFCAA,
            0x274935FCFE98C60C,
            0xDEA9D3099B530729,
            0x1D30997EA98EF5A3,
        ],
        [
            0xC34D61B3B420ECF5,
            0xDAA45831E1D725A2,
            0x835C9EB82F94BAB5,
            0xD628A63057B92039,
            0x6869D2299C6655BE,
        ],
    ]
    assert words(2026, Stream.POSITION, 5, 1, 3).tolist() == [
        [0xF92589E3751E3C02, 0x6F6F1BABC0D22B56, 0xD60CDC2823818A60]
    ]


def test_streams_have_their_numbers():
    assert [(s.name, s.value) for s in Stream] == [
        ("LATENT", 0),
        ("ORIENTATION", 1),
        ("POSITION", 2),
        ("NOISE", 3),
    ]


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.sampled_from(Stream), st.integers(0, 10**10), st.integers(1, 40))
def test_words_are_numpys_philox_object_by_object(seed, stream, start, per_object):
    blocks = -(-per_object // 4)
    together = words(seed, stream, start, 3, per_object)
    for row, index in enumerate(range(start, start + 3)):
        philox = np.random.Philox(key=[seed, stream], counter=[index * blocks, 0, 0, 0])
        assert together[row].tolist() == philox.random_raw(per_object).tolist()


def test_no_objects_are_no_words():
    assert words(1, Stream.LATENT, 5, 0, 21).shape == (0, 21)
    assert words_at(1, Stream.LATENT, np.zeros(0, np.int64), 21).shape == (0, 21)


@settings(deadline=None, max_examples=50)
@given(
    SEEDS,
    st.lists(st.integers(0, 10**10), max_size=20),
    st.lists(st.integers(0, 3 * NEAR), max_size=20),
    st.integers(1, 40),
)
def test_scattered_words_are_those_of_their_objects(seed, far, near, per_object):
    """In any order, repeated or not, near each other or far apart."""
    indices = np.array([*far, *near, *far[:2]], np.int64)
    found = words_at(seed, Stream.LATENT, indices, per_object)
    assert found.shape == (len(indices), per_object)
    for row, index in zip(found, indices.tolist(), strict=True):
        assert row.tolist() == words(seed, Stream.LATENT, index, 1, per_object)[0].tolist()


def test_scattered_words_refuse_what_words_refuses():
    with pytest.raises(InputError, match="wanted a range of objects from 0 up"):
        words_at(0, Stream.LATENT, np.array([-1]), 4)


def test_normals_within_a_bound_are_those_of_the_truncated_normal():
    raw = words(5, Stream.LATENT, 0, 20_000, 1)
    found = normals(raw, within=1.5)
    assert abs(found).max() <= 1.5
    np.testing.assert_allclose(found, truncnorm(-1.5, 1.5).ppf(uniforms(raw)), atol=1e-12)
    extreme = np.array([0, 2**64 - 1], np.uint64)
    assert (abs(normals(extreme, within=1e-3)) <= 1e-3).all()
    assert np.isfinite(normals(extreme, within=40.0)).all()


def test_last_objects_of_the_counter():
    assert words(1, Stream.LATENT, 2**62 - 2, 1, 16).shape == (1, 16)
    with pytest.raises(InputError, match="below 2\\^64 / 4"):
        words(1, Stream.LATENT, 2**62 - 1, 1, 16)


@pytest.mark.parametrize(("seed", "start", "count"), [(-1, 0, 1), (2**63, 0, 1), (0, -1, 1)])
def test_wrong_addresses_are_refused(seed, start, count):
    with pytest.raises(InputError, match="wanted"):
        words(seed, Stream.LATENT, start, count, 4)


def test_uniforms_are_the_formula_and_inside_the_interval():
    raw = np.array([0, 1, 2**11, 2**64 - 1, 2**63], dtype=np.uint64)
    assert uniforms(raw).tolist() == [2**-54, 2**-54, 1.5 * 2**-53, 1 - 2**-53, 0.5]
    assert np.isfinite(normals(raw)).all()


def test_literal_uniforms_and_normals():
    raw = words(2026, Stream.LATENT, 5, 1, 3)
    assert uniforms(raw).tolist() == [
        [int(w) // 2**11 * 2**-53 + 2**-54 for w in raw[0]]  # exact below 1/2, rounded above
    ]
    expected = [[0.7811961601414564, 0.2588560563072423, -0.5127863971435034]]
    np.testing.assert_allclose(normals(raw), expected, rtol=1e-15)


def test_normals_are_scipys_inverse_and_normal():
    raw = words(7, Stream.NOISE, 0, 20_000, 5)
    drawn = normals(raw)
    np.testing.assert_allclose(drawn, ndtri(uniforms(raw)), atol=2e-15)
    assert kstest(drawn.ravel(), "norm").pvalue > 0.01
    correlation = np.corrcoef(drawn.T) - np.eye(5)
    assert abs(correlation).max() < 5 / np.sqrt(20_000)


def test_literal_orientations_of_layout_1():
    """Angle from word 0, flips from the two highest bits of word 1, of one block an object."""
    raw = words(2026, Stream.ORIENTATION, 5, 3, 4)
    assert raw[:, :2].tolist() == [
        [0x35685FB5CA70D351, 0x475D9CD1F9485CBF],
        [0xCAE5C7E3A1D67726, 0xE431814A7F146A95],
        [0xC2E9DA328D5C717D, 0x42CF7CD24D3B3663],
    ]
    angles, flips = orientations(2026, np.arange(5, 8))
    assert angles.tolist() == [37.55229568481445, 142.66236877441406, 137.0485382080078]
    assert flips.tolist() == [1, 3, 1]
    assert (angles.dtype, flips.dtype) == (np.float32, np.uint8)


def test_orientations_are_uniform_and_each_object_s_own():
    angles, flips = orientations(3, np.arange(20_000))
    assert angles.min() >= 0
    assert angles.max() < 180
    assert kstest(angles / 180, "uniform").pvalue > 0.01
    assert chisquare(np.bincount(flips)).pvalue > 0.01
    for index in (0, 1, 777):
        one = orientations(3, np.array([index]))
        assert (one[0][0], one[1][0]) == (angles[index], flips[index])


def test_streams_and_seeds_are_unrelated():
    draws = [normals(words(s, t, 0, 20_000, 1)).ravel() for s in (0, 1) for t in Stream]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert abs(correlation).max() < 5 / np.sqrt(20_000)


def test_every_fiftieth_of_many_objects_takes_no_memory_of_all(monkeypatch):
    made, following = [], random._next

    def watched(generator, count, blocks):
        made.append(count)
        return following(generator, count, blocks)

    monkeypatch.setattr(random, "_next", watched)
    indices = np.arange(3, 10 * random.LONGEST, 50)
    found = words_at(7, Stream.LATENT, indices, 2)
    assert max(made) <= random.LONGEST
    for at in (0, 1, 1310, 1311, len(indices) - 1):
        assert found[at].tolist() == words(7, Stream.LATENT, int(indices[at]), 1, 2)[0].tolist()
