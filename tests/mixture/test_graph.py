"""The graph partition: shapes that k-means cannot cut, a brute-force cut, and hard cases."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from avader.errors import InputError
from avader.mixture import graph
from avader.mixture.graph import graph_partition, normalised_cut, partition_mixture

D = 8
CENTERS = [[0, 0], [0, 4], [0, -4]]


def embedded(points, noise=0.02):
    """Points (N, 2) turned into D dimensions, with noise in all of them."""
    random = np.random.default_rng(7)
    frame = np.linalg.qr(random.standard_normal((D, D)))[0][:2]
    return points @ frame + noise * random.standard_normal((len(points), D))


def moons():
    points, truth = make_moons(1500, noise=0.04, random_state=0)
    return embedded(points), truth, 2


def rings():
    points, truth = make_circles(2000, noise=0.03, factor=0.5, random_state=0)
    return embedded(points), truth, 2


def unequal_blobs():
    """Wide clouds side by side, of 3000, 600 and 150 rows."""
    counts = [3000, 600, 150]
    points, truth = make_blobs(counts, centers=CENTERS, cluster_std=0.6, random_state=0)
    return embedded(points * [2.0, 1.0]), truth, 3


def spread_blobs():
    return *make_blobs(2000, D, centers=6, cluster_std=0.7, random_state=3), 6


@pytest.mark.parametrize("make", [moons, rings, unequal_blobs])
def test_shapes_that_kmeans_cannot_cut(make):
    latents, truth, components = make()
    kmeans = KMeans(components, n_init=10, random_state=0).fit(latents).labels_
    assert adjusted_rand_score(truth, kmeans) < 0.7
    labels = graph_partition(latents, components=components, seed=0)
    assert adjusted_rand_score(truth, labels) >= 0.95
    assert labels.shape == truth.shape
    assert set(labels) == set(range(components))


@pytest.mark.parametrize("make", [moons, unequal_blobs, spread_blobs])
def test_subsets_carried_to_all_rows(make):
    latents, truth, components = make()
    labels = graph_partition(latents, components=components, seed=1, rows=700)
    assert adjusted_rand_score(truth, labels) >= 0.95


@pytest.mark.parametrize("rows", [700, 5000])
def test_the_least_normalised_cut_is_kept(monkeypatch, rows):
    """Among bad partitions the good one is what comes out, wherever it stands."""
    latents, truth, components = unequal_blobs()
    found, random = graph._candidates, np.random.default_rng(0)

    def among_bad(weights, components, starts, generator):
        good = found(weights, components, starts, generator)
        return np.concatenate([random.permuted(good, axis=1), good, np.zeros_like(good)])

    monkeypatch.setattr(graph, "_candidates", among_bad)
    labels = graph_partition(latents, components=components, seed=1, rows=rows)
    assert adjusted_rand_score(truth, labels) >= 0.95


def test_normalised_cut_by_hand_and_by_sums():
    """Two pairs joined by one edge: each side has volume 3 and cut 1. Then by plain loops."""
    path = csr_array(np.diag([1.0, 1.0, 1.0], 1) + np.diag([1.0, 1.0, 1.0], -1))
    assert normalised_cut(path, np.array([0, 0, 1, 1]), 2) == pytest.approx(2 / 3)
    random = np.random.default_rng(0)
    dense = random.random((30, 30)) * (random.random((30, 30)) < 0.3)
    dense += dense.T
    labels = random.integers(0, 4, 30)
    expected = 0.0
    for c in range(4):
        cut = sum(dense[i, j] for i in range(30) for j in range(30) if labels[i] == c != labels[j])
        expected += cut / dense[labels == c].sum()
    assert normalised_cut(csr_array(dense), labels, 4) == pytest.approx(expected)
    assert normalised_cut(csr_array(dense), labels, 6) == pytest.approx(expected + 2)


def test_weights_are_the_jaccard_index_of_neighbourhoods():
    latents = np.random.default_rng(0).standard_normal((60, 3))
    distance = np.square(latents[:, None] - latents).sum(2)
    near = [set(row) for row in np.argsort(distance, axis=1)[:, :6]]  # the row itself and 5
    weights = graph._shared_neighbours(latents, 5).toarray()
    for i in range(60):
        for j in range(60):
            joined = i != j and (j in near[i] or i in near[j])
            expected = len(near[i] & near[j]) / len(near[i] | near[j]) if joined else 0.0
            assert weights[i, j] == pytest.approx(expected)


def test_the_spectral_space_is_that_of_the_dense_laplacian(monkeypatch):
    """By Lanczos, in several parts: the same subspace as numpy's eigenvectors span."""
    monkeypatch.setattr(graph, "DENSE_ROWS", 50)
    latents = np.concatenate([spread_blobs()[0][:400], moons()[0][:300] + 100])
    weights = graph._shared_neighbours(latents, 10)
    space = graph._spectral_space(weights, 12, np.random.RandomState(0))
    dense = weights.toarray()
    root = np.sqrt(dense.sum(1))
    vectors = np.linalg.eigh(dense / root / root[:, None])[1][:, -12:]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    # Rows' inner products do not depend on signs, nor on the base of a repeated eigenvalue.
    np.testing.assert_allclose(space @ space.T, expected @ expected.T, atol=1e-3)


@pytest.mark.parametrize("rows", [500, 20_000])
def test_same_latents_and_seed_same_labels_in_any_order(rows):
    latents, _, components = moons()
    first = graph_partition(latents, components=components, seed=3, rows=rows)
    again = graph_partition(latents, components=components, seed=3, rows=rows)
    np.testing.assert_array_equal(first, again)
    order = np.random.default_rng(0).permutation(len(latents))
    shuffled = graph_partition(latents[order], components=components, seed=3, rows=rows)
    np.testing.assert_array_equal(first[order], shuffled)


def test_parts_that_nothing_joins():
    """Six far blobs are six parts of the graph; asked for four, whole blobs are joined."""
    latents, truth = make_blobs(1800, D, centers=6, cluster_std=0.05, random_state=0)
    assert adjusted_rand_score(truth, graph_partition(latents, components=6, seed=0)) == 1
    labels = graph_partition(latents, components=4, seed=0)
    assert len(set(zip(truth, labels, strict=True))) == 6
    assert len(set(labels)) == 4


def test_an_island_is_not_a_cluster():
    """20 rows far away cost nothing to cut off, yet they are not what is looked for."""
    latents, truth, components = moons()
    island = latents[:1] - 50 + 0.01 * np.random.default_rng(0).standard_normal((20, D))
    labels = graph_partition(np.concatenate([latents, island]), components=components, seed=0)
    assert adjusted_rand_score(truth, labels[:-20]) >= 0.95
    assert len(set(labels[-20:])) == 1


def test_islands_alone():
    latents = np.repeat(np.arange(40.0), 20)[:, None] + 0.001 * np.arange(800)[:, None]
    labels = graph_partition(latents * np.ones((1, 2)), components=3, seed=0)
    assert set(labels) <= {0, 1, 2}


def test_equal_rows_get_one_label_and_do_not_pull():
    latents, truth, components = moons()
    repeated = np.concatenate([latents, np.repeat(latents[:2], 4000, axis=0)])
    labels = graph_partition(repeated, components=components, seed=0)
    assert adjusted_rand_score(truth, labels[:1500]) >= 0.95
    np.testing.assert_array_equal(labels[1500:], np.repeat(labels[:2], 4000))


@pytest.mark.parametrize("distinct", [1, 2, 3, 4, 5, 7, 20])
def test_few_distinct_rows(distinct):
    latents = np.random.default_rng(0).standard_normal((distinct, 2))
    labels = graph_partition(np.tile(latents, (4, 1)), components=3, seed=0)
    np.testing.assert_array_equal(labels, np.tile(labels[:distinct], 4))
    assert len(set(labels)) == min(distinct, 3)
    assert set(labels) <= {0, 1, 2}


def test_one_component_takes_all():
    latents = np.random.default_rng(0).standard_normal((30, 2))
    assert graph_partition(latents, components=1, seed=0).tolist() == [0] * 30


def test_moments_of_a_partition():
    latents, truth, components = unequal_blobs()
    weights, means, variances = partition_mixture(latents, truth, components, 1e-4)
    for c in range(components):
        members = latents[truth == c]
        assert weights[c] == pytest.approx(len(members) / len(latents))
        np.testing.assert_allclose(means[c], members.mean(0), atol=1e-12)
        np.testing.assert_allclose(variances[c], members.var(0), rtol=1e-9)


def test_an_empty_cluster_and_a_single_row_have_usable_moments():
    latents = np.random.default_rng(0).standard_normal((101, 3))
    labels = np.array([0] * 100 + [2])
    weights, means, variances = partition_mixture(latents, labels, 3, 0.01)
    np.testing.assert_allclose(weights, np.array([100, 1, 1]) / 102)
    np.testing.assert_allclose(means[1], latents.mean(0))
    np.testing.assert_allclose(variances[1], latents.var(0))
    np.testing.assert_allclose(variances[2], 0.01)


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_rows_than_components(count):
    with pytest.raises(InputError, match=f"at least 3 latents, one per component, got {count}"):
        graph_partition(np.zeros((count, 2)), components=3, seed=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_that_are_not_finite(bad):
    latents = np.zeros((10, 2))
    latents[3, 1] = bad
    with pytest.raises(InputError, match="1 of 10 rows that are not"):
        graph_partition(latents, components=3, seed=0)


@pytest.mark.long
def test_digits_without_labels(real_data):
    """Principal components of MNIST: k-means stays far below the graph.

    Digits 4 and 9, 3 and 5 overlap there, so mutual information says more than accuracy.
    """
    with np.load(real_data / "mnist.npz") as digits:
        images, truth = digits["x_train"][::3], digits["y_train"][::3]
    latents = PCA(20, random_state=0).fit_transform(images.reshape(len(images), -1) / 255)
    kmeans = KMeans(10, n_init=3, random_state=0).fit(latents).labels_
    for seed in (0, 1):
        labels = graph_partition(latents, components=10, seed=seed, rows=7000)
        assert normalized_mutual_info_score(truth, labels) > 0.70
        assert accuracy(truth, labels) > accuracy(truth, kmeans) + 0.08


def accuracy(truth, labels):
    table = np.zeros((10, 10))
    np.add.at(table, (truth, labels), 1)
    return table[linear_sum_assignment(-table)].sum() / len(truth)
