"""The first partition, from a graph: spectral clustering, chosen by least normalised cut.

K-means and EM look for round clouds; latents lie in bent ones that touch. Here rows are joined to
their nearest neighbours, edges weigh the neighbours that both ends share, and the graph is cut
where it is thinnest. No label is used. Legend: N rows, D latent dimensions, K components; n rows
and E edges of one graph. Sources: Shi & Malik 2000 (normalised cut); Ng, Jordan & Weiss 2001
(spectral clustering with rows normalised); Jarvis & Patrick 1973 (shared neighbours).
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

from avader.mixture.initial import Floats, checked_latents, generator_of, moments

Labels = NDArray[np.int64]

DENSE_ROWS = 500
"""Up to this many rows the eigenvectors are computed from the dense matrix: as fast, and there
Lanczos would lack room."""
ISLAND_SHARE = 0.05
"""A connected part with fewer rows than this fraction of an equal share n / K is an island. To
cut it off costs nothing, and it isn't what is looked for."""
EIGEN_TOLERANCE = 1e-5
"""Relative accuracy of the eigenvalues: more does not move the k-means partitions."""


class Graph(NamedTuple):
    """Positions of a graph's rows in the data (n,) and its symmetric weights (n, n)."""

    rows: Labels
    weights: csr_array


def graph_partition(
    latents: NDArray[np.floating],
    *,
    components: int,
    seed: int,
    rows: int = 20_000,
    neighbours: int = 15,
    starts: int = 20,
    subsets: int = 3,
) -> Labels:
    """Cluster numbers 0 to K - 1 (N,) of latents (N, D), by spectral clustering without labels.

    `subsets` random subsets of `rows` rows each make a graph; each gives `starts` k-means
    partitions of its spectral space. Every partition is carried over to the graph of one further
    subset by a vote of the nearest rows; the one of least normalised cut there is kept and carried
    to all rows. Where `rows` are all there are, one graph serves for all.

    Equal latents count once and get one label; with at most K distinct ones each is a cluster.
    Islands (see ISLAND_SHARE) get the label of the nearest rows. A cluster can be empty. The
    result is a function of the latents and the seed. Raises InputError for fewer rows than
    components and for latents that are not finite.
    """
    data = checked_latents(latents, components)
    data, place = np.unique(data, axis=0, return_inverse=True)
    place = place.reshape(-1)  # numpy 2.0 gives (N, 1)
    if len(data) <= components or components == 1:
        return np.arange(len(data))[place] % components
    generator = generator_of(seed)
    if len(data) <= rows:
        judge = _graph(data, np.arange(len(data)), neighbours, components)
        graphs = [judge]
    else:
        chosen = [generator.permutation(len(data))[:rows] for _ in range(subsets + 1)]
        judge, *graphs = (_graph(data, part, neighbours, components) for part in chosen)
    best, least = None, np.inf
    for graph in graphs:
        candidates = _candidates(graph.weights, components, starts, generator)
        carried = _carried(data, graph, candidates, judge.rows, neighbours)
        cuts = [normalised_cut(judge.weights, labels, components) for labels in carried]
        if min(cuts) < least:
            least = min(cuts)
            best = (graph, candidates[[int(np.argmin(cuts))]])
    assert best is not None
    return _carried(data, *best, np.arange(len(data)), neighbours)[0][place]


def partition_mixture(
    latents: NDArray[np.floating], labels: Labels, components: int, variance_floor: float
) -> tuple[Floats, Floats, Floats]:
    """Weights (K,), means (K, D), variances (K, D), float64, of a partition (N,) of latents (N, D).

    By moments. Variances are at least `variance_floor`; weights are above 0 and sum to 1. An empty
    cluster gets the mean and variance of all latents and the weight of one row. Raises InputError
    for fewer rows than components and for latents that are not finite.
    """
    data = checked_latents(latents, components)
    count = np.bincount(labels, minlength=components)
    _, means, variances = moments(data, labels, components)
    means[count == 0] = data.mean(0)
    variances[count == 0] = data.var(0)
    weights = np.maximum(count, 1.0)
    return weights / weights.sum(), means, np.maximum(variances, variance_floor)


def normalised_cut(weights: csr_array, labels: Labels, components: int) -> float:
    """sum_c cut(c, rest) / volume(c) of a partition (n,) of a graph (n, n): 0 to K.

    An empty cluster costs 1, as much as one without an inner edge, so that using fewer clusters
    than wanted is never cheaper.
    """
    edges = weights.tocoo()
    ends = labels[edges.row], labels[edges.col]
    inside = ends[0] == ends[1]
    volume = np.bincount(ends[0], edges.data, minlength=components)
    inner = np.bincount(ends[0][inside], edges.data[inside], minlength=components)
    kept = np.divide(inner, volume, out=np.zeros(components), where=volume > 0)
    return float(components - kept.sum())


def _graph(data: Floats, rows: Labels, neighbours: int, components: int) -> Graph:
    """The graph of some rows of data (N, D), without its islands unless they are most of it."""
    weights = _shared_neighbours(data[rows], neighbours)
    _, part = connected_components(weights, directed=False)
    size = np.bincount(part)[part]  # (n,)
    kept = size >= ISLAND_SHARE * len(rows) / components
    if kept.mean() < 0.5:
        return Graph(rows, weights)
    return Graph(rows[kept], weights[kept][:, kept])


def _shared_neighbours(data: Floats, neighbours: int) -> csr_array:
    """Jaccard index of the neighbourhoods of rows (n, D) that are neighbours: symmetric (n, n).

    A row is in its own neighbourhood, so that every edge weighs more than 0; there are no loops.
    """
    size = min(neighbours, len(data) - 1)
    near = csr_array(kneighbors_graph(data, size, mode="connectivity"))
    whole = csr_array(near + eye_array(len(data)))
    edges = near.maximum(near.T).tocoo()
    shared = whole[edges.row].multiply(whole[edges.col]).sum(axis=1)
    return coo_array(
        (shared / (2 * (size + 1) - shared), (edges.row, edges.col)), shape=edges.shape
    ).tocsr()


def _candidates(
    weights: csr_array, components: int, starts: int, generator: np.random.RandomState
) -> Labels:
    """K-means partitions (starts, n) of a graph's spectral space."""
    space = _spectral_space(weights, components, generator)
    with warnings.catch_warnings():
        # Fewer distinct points than components: normalised_cut judges what comes.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            KMeans(components, n_init=1, random_state=generator).fit(space) for _ in range(starts)
        ]
    return np.stack([fit.labels_.astype(np.int64) for fit in fits])


def _spectral_space(
    weights: csr_array, components: int, generator: np.random.RandomState
) -> Floats:
    """First K eigenvectors of the normalised Laplacian, rows brought to length 1: (n, K).

    Connected parts are solved one by one: the first eigenvalue comes once for each part, and
    Lanczos finds repeated eigenvalues by luck alone.
    """
    count, part = connected_components(weights, directed=False)
    values, vectors = [], []
    for number in range(count):
        inside = np.flatnonzero(part == number)
        found, columns = _leading(weights[inside][:, inside], components, generator)
        whole = np.zeros((len(found), len(part)))
        whole[:, inside] = columns.T
        values.append(found)
        vectors.append(whole)
    order = np.argsort(-np.concatenate(values), kind="stable")[:components]
    space = np.concatenate(vectors)[order].T
    return space / np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)


def _leading(
    weights: csr_array, components: int, generator: np.random.RandomState
) -> tuple[Floats, Floats]:
    """Greatest eigenvalues and their vectors, (k,) and (n, k), of D^-1/2 W D^-1/2, connected.

    They are the least of the normalised Laplacian, 1 minus this matrix; k = min(K, n).
    """
    size = weights.shape[0]
    scale = diags_array(1 / np.sqrt(np.maximum(weights.sum(axis=1), 1e-12)))
    matrix = scale @ weights @ scale
    if size <= max(DENSE_ROWS, 4 * components):
        first = max(size - components, 0)
        return eigh(matrix.toarray(), subset_by_index=(first, size - 1))
    start = generator.standard_normal(size)
    room = min(size - 1, max(4 * components, 40))
    return eigsh(matrix, components, which="LA", v0=start, ncv=room, tol=EIGEN_TOLERANCE)


def _carried(
    data: Floats, graph: Graph, candidates: Labels, points: Labels, neighbours: int
) -> Labels:
    """Partitions (C, n) of a graph as labels (C, P) of the rows of data at points (P,).

    Rows of the graph keep theirs; others get the commonest among the nearest rows of the graph
    (of equally common ones the lowest number).
    """
    position = np.full(len(data), -1)
    position[graph.rows] = np.arange(len(graph.rows))
    own = position[points]
    labels = candidates[:, own]  # (C, P)
    strange = np.flatnonzero(own < 0)
    if len(strange):
        size = min(neighbours, len(graph.rows))
        index = NearestNeighbors(n_neighbors=size).fit(data[graph.rows])
        near = index.kneighbors(data[points[strange]], return_distance=False)
        for row, partition in zip(labels, candidates, strict=True):
            row[strange] = _commonest(partition[near])
    return labels


def _commonest(votes: Labels) -> Labels:
    """The commonest number of each row of votes (P, k): (P,)."""
    width = int(votes.max()) + 1
    cells = np.arange(len(votes))[:, None] * width + votes
    counts = np.bincount(cells.ravel(), minlength=len(votes) * width)
    return counts.reshape(len(votes), width).argmax(axis=1)
