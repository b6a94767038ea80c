"""The summary of a catalogue, part by part, against the same numbers of the whole at once."""

from dataclasses import replace

import numpy as np
import pytest

from avader.report import summary as summaries
from avader.report.summary import Rows, Summary

K, D = 5, 3


def make_rows(count, seed=0, part="parts/0.parquet"):
    """A catalogue where component 3 has no members."""
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.full(K, 0.4), count).astype(np.float32)
    probability[:, 3] = 0
    return Rows(
        part=part,
        object_id=np.array([f"g{i:05d}" for i in range(count)], object),
        component=probability.argmax(axis=1).astype(np.int16),
        probability=probability,
        latent=generator.normal(size=(count, D)).astype(np.float32),
        log_likelihood=generator.normal(-30, 2, count),
        reconstruction_error=generator.exponential(0.002, count),
        flags=generator.integers(0, 16, count).astype(np.int32),
    )


def cut(rows, sizes):
    """The rows as parts of these sizes."""
    parts, start = [], 0
    for number, size in enumerate(sizes):
        at = slice(start, start + size)
        columns = {
            name: getattr(rows, name)[at] for name in rows.__dataclass_fields__ if name != "part"
        }
        parts.append(Rows(part=f"parts/{number}.parquet", **columns))
        start += size
    return parts


def summarise(parts, rows):
    summary = Summary(rows=rows, components=K, latent=D)
    for part in parts:
        summary.add(part)
    return summary


@pytest.mark.parametrize("sizes", [[400], [1, 0, 150, 249], [100] * 4])
def test_numbers_are_those_of_the_whole(sizes):
    rows = make_rows(400)
    summary = summarise(cut(rows, sizes), 400)
    own = rows.probability.max(axis=1)
    np.testing.assert_array_equal(summary.counts, np.bincount(rows.component, minlength=K))
    for k in range(K):
        members = rows.component == k
        np.testing.assert_array_equal(summary.above[k, 1], (own[members] > 0.75).sum())
        if members.any():
            mean = rows.probability[members].astype(float).mean(axis=0)
            np.testing.assert_allclose(summary.matrix[:, k], mean, rtol=1e-9)
    assert np.isnan(summary.matrix[:, 3]).all()
    assert summary.mean_log_likelihood == pytest.approx(rows.log_likelihood.mean())
    assert summary.mean_highest_probability == pytest.approx(own.mean())
    assert summary.median_error == np.median(rows.reconstruction_error)
    assert summary.flag_counts == {bit: int((rows.flags & bit > 0).sum()) for bit in (1, 2, 4, 8)}


@pytest.mark.parametrize("sizes", [[400], [1, 0, 150, 249], [100] * 4])
def test_members_are_the_most_probable_and_know_their_part(sizes):
    rows = make_rows(400)
    parts = cut(rows, sizes)
    summary = summarise(parts, 400)
    for k, members in enumerate(summary.members):
        candidates = [i for i in range(400) if rows.component[i] == k]
        best = sorted(candidates, key=lambda i: (-rows.probability[i, k], i))[:8]
        assert [chosen.row for chosen in members] == best
        for chosen in members:
            part = next(part for part in parts if part.part == chosen.part)
            assert chosen.object_id in part.object_id
    assert summary.members[3] == []


def test_equal_probabilities_keep_the_first_rows():
    rows = make_rows(60)
    probability = np.tile(np.eye(K, dtype=np.float32)[2], (60, 1))
    rows = replace(rows, probability=probability, component=np.full(60, 2, np.int16))
    summary = summarise(cut(rows, [20, 40]), 60)
    assert [chosen.row for chosen in summary.members[2]] == list(range(8))


@pytest.mark.parametrize("count", [1, 23, 24, 25, 400, 12_345])
@pytest.mark.parametrize("step", [1000, 7])
def test_examples_and_latents_are_spread_evenly(count, step):
    rows = make_rows(count)
    sizes = [min(step, count - at) for at in range(0, count, step)]
    summary = summarise(cut(rows, sizes), count)
    wanted = min(count, summaries.EXAMPLES)
    expected = [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
    assert [chosen.row for chosen in summary.examples] == expected
    latents, labels = summary.latents
    assert len(latents) == len(labels) == min(count, summaries.LATENTS)
    for chosen in summary.examples:
        np.testing.assert_array_equal(chosen.latent, rows.latent[chosen.row])


def test_medians_are_of_a_bounded_sample(monkeypatch):
    monkeypatch.setattr(summaries, "VALUES", 50)
    rows = make_rows(10_000)
    summary = summarise(cut(rows, [5000, 5000]), 10_000)
    at = (2 * np.arange(50) + 1) * 10_000 // 100
    assert summary.median_error == np.median(rows.reconstruction_error[at])


def test_a_catalogue_without_rows_or_values_says_none():
    empty = Summary(rows=0, components=K, latent=D)
    empty.add(make_rows(0))
    assert empty.median_error is empty.mean_log_likelihood is None
    assert empty.mean_highest_probability is None
    assert empty.latents[0].shape == (0, D)
    rows = replace(make_rows(5), reconstruction_error=np.full(5, np.nan))
    assert summarise([rows], 5).median_error is None
