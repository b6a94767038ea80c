"""Drift between a catalogue and the training images."""

import numpy as np
import pyarrow as pa
import pytest

from avader.catalogue.drift import Drift, Tally, drift, tally, warnings


def test_a_tally_of_parts():
    parts = [
        pa.table({"component": pa.array(labels, pa.int16()), "log_likelihood": values})
        for labels, values in (([0, 2, 2], [-1.0, -2.0, -3.0]), ([1], [-6.0]), ([], []))
    ]
    parts[2] = parts[1][:0]
    assert tally(parts, 4) == Tally((1, 1, 2, 0), -3.0)
    assert tally([], 2) == Tally((0, 0), None)


def test_distance_is_half_the_sum_of_differences_of_shares():
    seen = drift(Tally((30, 70), -4.0), Tally((500, 500), -5.5))
    assert seen.distance == pytest.approx(0.2)
    assert seen.nats == pytest.approx(1.5)
    assert drift(Tally((5, 0), None), Tally((0, 9), -1.0)).distance == 1
    assert drift(Tally((5, 0), None), Tally((0, 9), -1.0)).nats is None


def test_chance_is_what_samples_of_one_mixture_differ_by():
    generator = np.random.default_rng(0)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    pairs = [
        drift(*(Tally(tuple(generator.multinomial(n, shares)), None) for n in (300, 2000)))
        for _ in range(2000)
    ]
    drawn = np.mean([pair.distance for pair in pairs])
    assert np.mean([pair.chance for pair in pairs]) == pytest.approx(drawn, rel=0.05)


def test_what_is_worth_a_warning():
    assert warnings(Drift(0.11, 0.02, -1.9), latent=20) == []
    assert warnings(Drift(0.35, 0.02, None), latent=20) == [
        "components are filled otherwise than by the training images: the shares differ by 0.35 "
        "(0 is alike, 1 is disjoint; chance gives 0.02)"
    ]
    assert warnings(Drift(0.0, 0.0, -2.1), latent=20) == [
        "the mean log p(z) is 2.1 nats below that of the training images"
    ]
    assert "2.1 nats above" in warnings(Drift(0.0, 0.0, 2.1), latent=20)[0]
