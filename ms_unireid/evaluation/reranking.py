"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017); no row of the paper uses it.

Follows the published code of its authors where that says more than their equations, as the numbers in the literature
do: queries and gallery are neighbours of each other alike, the k nearest of a sample are beside the sample itself
except in the query expansion, a sample's distances are divided by its largest one, its weights add up to one, and a
neighbour's own neighbours join where *more* than two thirds of them are there already.

Its neighbours are found across queries and gallery, so a query's list depends on the other queries and on photos that
its protocol leaves out; and it can only help where queries and photos of a person are near each other as those of one
kind are.
"""

import numpy as np
from scipy import sparse

from ms_unireid.evaluation.similarity import normalize_rows, similarity_blocks

PAIRS_AT_ONCE = 1 << 14
SMALLEST_DISTANCE = 1e-12


def rerank(
    query_feats: np.ndarray, gallery_feats: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Compute similarities from common neighbours; `metrics.score_similarity` scores them.

    Besides the result it holds, for N = Q + G samples, the normalised features twice (8 N D bytes), the similarities of
    512 samples twice (4096 N bytes), and at most `k2 (k1 + 1) (k1 / 2 + 1)` numbers of 16 bytes for each sample, of
    which few occur.

    Args:
        query_feats: (Q, D) un-normalised.
        gallery_feats: (G, D) un-normalised.
        k1: Neighbours that must be mutual; all others where there are fewer.
        k2: Samples, the sample itself among them, whose weights are averaged; 1 averages nothing.
        weight: Share of the original distance, 0-1 (lambda in the paper).

    Returns:
        Minus the re-ranked distance (d* of Zhong et al.), which is 0 to 1: (Q, G) float32.

    Raises:
        ValueError: If a feature is not finite or a number is out of its range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(f"k1={k1} and k2={k2} must be at least 1, weight={weight} from 0 to 1")
    feats = np.concatenate([normalize_rows(query_feats), normalize_rows(gallery_feats)])
    count = len(query_feats)
    distance, largest, nearest = _neighbours(feats, count, max(k1 + 1, k2))
    weights = _weights(feats, largest, _mutual_neighbours(nearest, k1))
    weights = _mean_of(nearest[:, :k2]) @ weights
    distance *= -weight
    by_sample = weights[count:].tocsc()
    for query in range(count):
        common = _common_weight(weights[[query]], by_sample)
        distance[query] -= (1 - weight) * (1 - common / (2 - common))  # Jaccard distance of weights that add up to one
    return distance


def _neighbours(feats: np.ndarray, queries: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare all normalised samples (N, D), of which the first are queries.

    Returns:
        Distances between queries and gallery over the query's largest (Q, G) float32, each sample's largest distance
        (N,), and its `count` nearest samples, itself first (N, at most `count`).
    """
    total = len(feats)
    distance = np.empty((queries, total - queries), np.float32)
    largest, nearest = np.empty(total, np.float32), np.empty((total, min(count, total)), np.intp)
    for rows, block in similarity_blocks(feats, feats):
        block *= -2
        block += 2  # squared distances of unit vectors
        np.maximum(block, 0, out=block)
        largest[rows] = np.maximum(block.max(axis=1), SMALLEST_DISTANCE)
        asked = distance[rows]
        asked[:] = block[: len(asked), queries:] / largest[rows][: len(asked), None]
        np.fill_diagonal(block[:, rows], -1)
        nearest[rows] = [_smallest(row, nearest.shape[1]) for row in block]
    return distance, largest, nearest


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Return where the smallest values are, in order, equal ones by their place."""
    last = np.partition(values, count - 1)[count - 1]
    candidates = np.flatnonzero(values <= last)
    return candidates[np.argsort(values[candidates], kind="stable")[:count]]


def _mutual_neighbours(nearest: np.ndarray, k1: int) -> sparse.csr_array:
    """Return which samples are mutual neighbours, extended by theirs: R* in the paper, (N, N) with few entries."""
    mutual, closer = _mutual(nearest[:, : k1 + 1]), _mutual(nearest[:, : round(k1 / 2) + 1])
    shared = ((mutual @ closer.T) * mutual).tocoo()
    enough = 3 * shared.data > 2 * closer.sum(axis=1)[shared.col]
    joining = sparse.csr_array(
        (np.ones(enough.sum(), np.int32), (shared.row[enough], shared.col[enough])), shape=shared.shape
    )
    return (mutual + joining @ closer).tocsr()


def _mutual(nearest: np.ndarray) -> sparse.csr_array:
    """Return 1 where two samples are among the nearest (N, k) of each other: R in the paper."""
    near = _mean_of(nearest).astype(np.bool_).astype(np.int32)
    return (near * near.T).tocsr()


def _mean_of(nearest: np.ndarray) -> sparse.csr_array:
    """Return the matrix (N, N) that averages over the nearest samples (N, k) of each."""
    total, count = nearest.shape
    ends = np.arange(0, total * count + 1, count)
    return sparse.csr_array((np.full(nearest.size, 1 / count), nearest.ravel(), ends), shape=(total, total))


def _weights(feats: np.ndarray, largest: np.ndarray, neighbours: sparse.csr_array) -> sparse.csr_array:
    """Weigh each sample's neighbours by their distance, all weights of a sample adding up to one: V in the paper."""
    pairs = neighbours.tocoo()
    weights = np.empty(pairs.nnz)
    for start in range(0, pairs.nnz, PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        cosine = np.einsum("nd,nd->n", feats[pairs.row[part]], feats[pairs.col[part]])
        weights[part] = np.exp(-np.maximum(2 - 2 * cosine, 0) / largest[pairs.row[part]])
    weights /= np.bincount(pairs.row, weights)[pairs.row]
    return sparse.csr_array((weights, (pairs.row, pairs.col)), shape=pairs.shape)


def _common_weight(query: sparse.csr_array, gallery: sparse.csc_array) -> np.ndarray:
    """Sum the smaller of the query's weight (1, N) and each photo's (G, N) over all neighbours, (G,)."""
    start, length = gallery.indptr[query.indices], np.diff(gallery.indptr)[query.indices]
    entries = np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)
    smaller = np.minimum(gallery.data[entries], np.repeat(query.data, length))
    return np.bincount(gallery.indices[entries], smaller, minlength=gallery.shape[0])
