"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017); no row of the paper uses it.

Follows the authors' code where their equations leave a choice: neighbours are searched among queries and gallery
together; the k nearest do not count the sample itself, except in the query expansion; distances are divided by the
sample's largest one; weights add up to one; a neighbour's neighbours join if *more* than two thirds are shared.

A query's list therefore depends on the other queries and on photos that its protocol removes.
"""

import numpy as np
from scipy import sparse

from ms_unireid.evaluation.similarity import normalize_rows, similarity_blocks

PAIRS_AT_ONCE = 1 << 14
SMALLEST_DISTANCE = 1e-12


def rerank(
    query_feats: np.ndarray, gallery_feats: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Return minus the re-ranked distance (d* of Zhong et al., 0-1) of queries and gallery, (Q, G) float32.

    Needs `8 N D + 4096 N` bytes for N = Q + G samples, and 16 bytes for each weight. `metrics.score_similarity` scores
    the result.

    Of un-normalised features (Q, D) and (G, D), `k1` neighbours must be mutual, and the weights of `k2` samples, the
    sample itself included, are averaged; `weight` is the share of the original distance, 0-1 (lambda in the paper). A
    feature that is not finite or a number out of range raises a ValueError.
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
    """Compare all normalised samples (N, D), queries first, by squared distance.

    Returns the distances of queries and gallery over the query's largest one (Q, G) float32, each sample's largest
    distance (N,), and its nearest samples, itself first (N, `count` or N).
    """
    total = len(feats)
    distance = np.empty((queries, total - queries), np.float32)
    largest, nearest = np.empty(total, np.float32), np.empty((total, min(count, total)), np.intp)
    for rows, block in similarity_blocks(feats, feats):
        block *= -2
        block += 2  # squared distances of unit vectors
        np.maximum(block, 0, out=block)
        largest[rows] = np.maximum(block.max(axis=1), SMALLEST_DISTANCE)
        part = distance[rows]
        part[:] = block[: len(part), queries:] / largest[rows][: len(part), None]
        np.fill_diagonal(block[:, rows], -1)
        nearest[rows] = [_smallest(row, nearest.shape[1]) for row in block]
    return distance, largest, nearest


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the smallest values in order; ties by index."""
    last = np.partition(values, count - 1)[count - 1]
    candidates = np.flatnonzero(values <= last)
    return candidates[np.argsort(values[candidates], kind="stable")[:count]]


def _mutual_neighbours(nearest: np.ndarray, k1: int) -> sparse.csr_array:
    """Return the mutual neighbours and the neighbours' neighbours that join: R* in the paper, sparse (N, N)."""
    mutual, closer = _mutual(nearest[:, : k1 + 1]), _mutual(nearest[:, : round(k1 / 2) + 1])
    shared = ((mutual @ closer.T) * mutual).tocoo()
    enough = 3 * shared.data > 2 * closer.sum(axis=1)[shared.col]
    joining = sparse.csr_array(
        (np.ones(enough.sum(), np.int32), (shared.row[enough], shared.col[enough])), shape=shared.shape
    )
    return (mutual + joining @ closer).tocsr()


def _mutual(nearest: np.ndarray) -> sparse.csr_array:
    """Return 1 where two samples are among each other's nearest (N, k): R in the paper."""
    near = _mean_of(nearest).astype(np.bool_).astype(np.int32)
    return (near * near.T).tocsr()


def _mean_of(nearest: np.ndarray) -> sparse.csr_array:
    """Return the matrix (N, N) that averages over the nearest samples (N, k) of each."""
    total, count = nearest.shape
    ends = np.arange(0, total * count + 1, count)
    return sparse.csr_array((np.full(nearest.size, 1 / count), nearest.ravel(), ends), shape=(total, total))


def _weights(feats: np.ndarray, largest: np.ndarray, neighbours: sparse.csr_array) -> sparse.csr_array:
    """Weigh each sample's neighbours by distance; a sample's weights add up to one: V in the paper."""
    pairs = neighbours.tocoo()
    weights = np.empty(pairs.nnz)
    for start in range(0, pairs.nnz, PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        cosine = np.einsum("nd,nd->n", feats[pairs.row[part]], feats[pairs.col[part]])
        weights[part] = np.exp(-np.maximum(2 - 2 * cosine, 0) / largest[pairs.row[part]])
    weights /= np.bincount(pairs.row, weights)[pairs.row]
    return sparse.csr_array((weights, (pairs.row, pairs.col)), shape=pairs.shape)


def _common_weight(query: sparse.csr_array, gallery: sparse.csc_array) -> np.ndarray:
    """Sum the smaller of the weights of query (1, N) and each photo (G, N) over all neighbours: (G,)."""
    start, length = gallery.indptr[query.indices], np.diff(gallery.indptr)[query.indices]
    entries = np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)
    smaller = np.minimum(gallery.data[entries], np.repeat(query.data, length))
    return np.bincount(gallery.indices[entries], smaller, minlength=gallery.shape[0])
