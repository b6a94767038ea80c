"""Object i is the same bit for bit; the draws have the mixture's moments."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chisquare, kstest, multivariate_normal, truncnorm

from avader.errors import InputError
from avader.mixture.sample import (
    Draw,
    MixtureArrays,
    draw,
    draw_at,
    low_likelihood_threshold,
    sample,
)

SMALL = MixtureArrays(
    np.array([0.2, 0.5, 0.3]),
    np.array([[0.0, 1], [2, -3], [-4, 5]]),
    np.array([[1.0, 0.25], [4, 1], [0.0625, 9]]),
)


def random_mixture(components=12, latent=20, seed=0) -> MixtureArrays:
    rng = np.random.default_rng(seed)
    shape = (components, latent)
    weights = rng.dirichlet(np.ones(components))
    return MixtureArrays(weights, rng.normal(0, 2, shape), rng.uniform(0.3, 13, shape))


LARGE = random_mixture()


def test_literal_objects_of_layout_1():
    z, component = sample(SMALL, count=4, seed=2026, start=10**8 - 2)
    assert component.tolist() == [1, 0, 1, 2]
    assert component.dtype == np.int16
    assert z.dtype == np.float32
    assert z.view(np.uint32).tolist() == [
        [1069802001, 3223108248],
        [3204286583, 1037115207],
        [1079656939, 3220049889],
        [3230133643, 1059815756],
    ]


def test_objects_follow_from_raw_philox_words_alone():
    """An oracle without avader: one Philox per object, scipy's inverse, plain arithmetic."""
    z, component = sample(LARGE, count=50, seed=9, start=1000)
    cumulative = np.cumsum(LARGE.weights)
    for row, index in enumerate(range(1000, 1050)):
        raw = np.random.Philox(key=[9, 0], counter=[index * 6, 0, 0, 0]).random_raw(21)
        u = [((int(w) >> 11) + 0.5) * 2**-53 for w in raw]
        expected = int((cumulative / cumulative[-1] <= u[0]).sum())
        assert component[row] == expected
        spread = np.sqrt(LARGE.variances[expected])
        np.testing.assert_allclose(
            z[row], LARGE.means[expected] + spread * ndtri(u[1:]), rtol=2e-7, atol=1e-12
        )


ELSEWHERE = """
import sys
import numpy as np
import torch
from avader.mixture.sample import Draw, MixtureArrays, draw
mixture = np.load(sys.argv[1])
parts = (mixture[name] for name in MixtureArrays._fields)
z, component = draw(MixtureArrays(*parts), Draw(5, truncation=3.0), start=0, count=20_000)
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
numpy = sum(__cpu_features__[name] for name in __cpu_dispatch__)
kind = torch.backends.cpu.get_cpu_capability()
np.savez(sys.argv[2], z=z, component=component, kind=kind, numpy=numpy)
"""


def test_an_older_machine_draws_the_same_but_for_a_last_place(tmp_path):
    """Of the first x86-64s: libraries have other code for it, which promises no bits."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    np.savez(tmp_path / "mixture.npz", **LARGE._asdict())
    here = [feature for feature in __cpu_dispatch__ if __cpu_features__[feature]]
    without = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": " ".join(here)}
    command = [sys.executable, "-c", ELSEWHERE, tmp_path / "mixture.npz", tmp_path / "drawn.npz"]
    subprocess.run(command, env={**os.environ, **without}, check=True)
    found = np.load(tmp_path / "drawn.npz")
    assert found["kind"] in ("DEFAULT", "NO AVX")
    assert found["numpy"] == 0
    z, component = draw(LARGE, Draw(5, truncation=3.0), start=0, count=20_000)
    np.testing.assert_array_equal(found["component"], component)
    np.testing.assert_array_max_ulp(found["z"], z, maxulp=1)


@settings(deadline=None, max_examples=60)
@given(
    start=st.integers(0, 10**9),
    cuts=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    seed=st.integers(0, 2**63 - 1),
    components=st.none() | st.sets(st.integers(0, 11), min_size=1).map(list),
    scale=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_chunks_are_the_same_bits(start, cuts, seed, components, scale):
    how = {"seed": seed, "components": components, "variance_scale": scale}
    z, component = sample(LARGE, count=sum(cuts), start=start, **how)
    at = 0
    for count in cuts:
        part, part_component = sample(LARGE, count=count, start=start + at, **how)
        assert part.tobytes() == z[at : at + count].tobytes()
        assert part_component.tobytes() == component[at : at + count].tobytes()
        at += count


def test_single_objects_are_the_same_bits():
    z, component = sample(LARGE, count=3000, seed=1)
    for index in range(0, 3000, 7):
        one, one_component = sample(LARGE, count=1, seed=1, start=index)
        assert one.tobytes() == z[index].tobytes()
        assert one_component[0] == component[index]


def test_moments_and_weights():
    z, component = sample(SMALL, count=60_000, seed=5)
    counts = np.bincount(component, minlength=3)
    assert chisquare(counts, SMALL.weights * 60_000).pvalue > 0.01
    for c in range(3):
        own = z[component == c].astype(np.float64)
        error = np.sqrt(SMALL.variances[c] / len(own))
        assert (abs(own.mean(axis=0) - SMALL.means[c]) < 4 * error).all()
        np.testing.assert_allclose(own.var(axis=0), SMALL.variances[c], rtol=0.05)
        assert abs(np.corrcoef(own.T)[0, 1]) < 4 / np.sqrt(len(own))


def test_variance_scale_multiplies_variances():
    z, component = sample(SMALL, count=2000, seed=5)
    halved, same = sample(SMALL, count=2000, seed=5, variance_scale=0.5)
    assert (component == same).all()
    expected = (z - SMALL.means[component]) * np.sqrt(0.5)
    np.testing.assert_allclose(halved - SMALL.means[component], expected, atol=2e-6)


def test_chosen_components_keep_their_relative_weights():
    _, component = sample(SMALL, count=40_000, seed=5, components=[2, 0])
    assert set(component.tolist()) == {0, 2}
    assert (component == 0).mean() == pytest.approx(0.4, abs=0.01)
    _, same = sample(SMALL, count=40_000, seed=5, components=(0, 2))
    assert (component == same).all()
    everything = sample(SMALL, count=100, seed=5, components=None)[1]
    assert (everything == sample(SMALL, count=100, seed=5)[1]).all()


def test_a_component_without_weight_is_never_drawn():
    weights = np.array([0.0, 1.0, 0.0])
    _, component = sample(SMALL._replace(weights=weights), count=1000, seed=0)
    assert set(component.tolist()) == {1}


@pytest.mark.parametrize("components", [[3], [-1], [0, 0], [0, 1, 12]])
def test_wrong_components_are_refused(components):
    with pytest.raises(InputError, match=r"components: wanted distinct numbers from 0 to 2, got"):
        sample(SMALL, count=1, seed=0, components=components)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_scales_are_refused(scale):
    with pytest.raises(InputError, match="variance_scale: wanted a number above 0"):
        sample(SMALL, count=1, seed=0, variance_scale=scale)


SKIES = [
    Draw(3),
    Draw(3, components=(7, 2), weights=(1.0, 3.0), variance_scale=0.5),
    Draw(3, blocks=((4, 100), (1, 250)), truncation=1.0),
]


@pytest.mark.parametrize("sky", SKIES)
def test_scattered_objects_are_those_of_the_range(sky):
    z, component = draw(LARGE, sky, start=0, count=350)
    indices = np.random.default_rng(0).integers(0, 350, 60)
    found, of = draw_at(LARGE, sky, indices)
    assert found.tobytes() == z[indices].tobytes()
    assert of.tobytes() == component[indices].tobytes()


def test_weights_replace_the_mixtures_own():
    """One for each of the components that are drawn from, in the order of their numbers."""
    _, component = draw(LARGE, Draw(1, (7, 2), (1.0, 3.0)), start=0, count=40_000)
    assert set(component.tolist()) == {2, 7}
    assert (
        chisquare([(component == 2).sum(), (component == 7).sum()], [10_000, 30_000]).pvalue > 0.01
    )


def test_blocks_have_their_components_and_the_same_normals():
    sky = Draw(5, blocks=((2, 10), (0, 5)))
    z, component = draw(SMALL, sky, start=0, count=15)
    assert component.tolist() == [2] * 10 + [0] * 5
    free, drawn = draw(SMALL, Draw(5), start=0, count=15)
    own, others = (
        (each - SMALL.means[c]) / np.sqrt(SMALL.variances[c])
        for each, c in ((z, component), (free, drawn))
    )
    np.testing.assert_allclose(own, others, atol=1e-5)
    assert draw(SMALL, sky, start=8, count=4)[1].tolist() == [2, 2, 0, 0]
    with pytest.raises(InputError, match="wanted objects below 15, got 15"):
        draw(SMALL, sky, start=14, count=2)


def test_truncation_bounds_every_latent():
    z, component = draw(SMALL, Draw(5, truncation=1.5, variance_scale=4.0), start=0, count=20_000)
    off = (z - SMALL.means[component]) / np.sqrt(4 * SMALL.variances[component])
    assert abs(off).max() <= 1.5 + 1e-5
    assert kstest(off[:, 1], truncnorm(-1.5, 1.5).cdf).pvalue > 0.01
    same = draw(SMALL, Draw(5), start=0, count=20_000)[1]
    assert (component == same).all()


@pytest.mark.parametrize(
    ("sky", "words"),
    [
        (Draw(0, truncation=-1.0), "truncation: wanted a number above 0, or 0 for no bound"),
        (Draw(0, truncation=float("nan")), "truncation: wanted"),
        (Draw(0, weights=(1.0, 2.0)), "weights: wanted one for each of 3 components, got 2"),
        (Draw(0, (1,), (0.0,)), "weights: wanted numbers from 0, one above it"),
        (Draw(0, (1, 2), (2.0, -1.0)), "weights: wanted numbers from 0, one above it"),
        (Draw(0, blocks=((3, 5),)), "counts: wanted components from 0 to 2, got 3"),
    ],
)
def test_what_can_not_be_drawn_is_refused(sky, words):
    with pytest.raises(InputError, match=words):
        draw(SMALL, sky, start=0, count=1)


def test_no_objects():
    z, component = sample(SMALL, count=0, seed=0)
    assert z.shape == (0, 2)
    assert component.shape == (0,)


def test_low_likelihood_is_the_quantile_of_the_mixtures_own_draws():
    threshold = low_likelihood_threshold(SMALL)
    assert threshold == low_likelihood_threshold(SMALL)
    z, _ = sample(SMALL, count=300_000, seed=77)
    density = sum(
        w * multivariate_normal(m, np.diag(v)).pdf(z.astype(np.float64))
        for w, m, v in zip(*SMALL, strict=True)
    )
    assert (np.log(density) < threshold).mean() == pytest.approx(0.001, abs=3e-4)
