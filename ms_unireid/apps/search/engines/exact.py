"""Exact search in an index, which may be larger than the memory: all rows are compared."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.linalg.blas import sgemm

from ms_unireid.evaluation.similarity import normalize_rows

# Rows and queries of one matrix product of the search.
SEARCH_ROWS = 1 << 15
SEARCH_QUERIES = 32
# A query is split into two float16 vectors, the second scaled by this factor, and so keeps float32 precision.
_FINE_SCALE = np.float32(2048)
# Products of equal float32 rows may differ by this, since a BLAS rounds by a row's place.
_ROUNDING = np.float32(1e-6)


def exact_search(
    features: np.ndarray, queries: np.ndarray, k: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k most similar rows for each query (Q, D), un-normalised; all rows if there are fewer.

    `features` (N, D) float16 or float32 are L2-normalised and may be memory-mapped and larger than the memory; `among`
    (M,), ascending, are the rows to compare, None all of them. Returns rows (Q, K) int64, best first, ties in ascending
    order, and their cosine similarities (Q, K) float32, at most 1. A query that is not finite raises a ValueError.
    """
    queries = normalize_rows(queries)
    starts = range(0, len(queries), SEARCH_QUERIES)
    parts = [_search(features, queries[start : start + SEARCH_QUERIES], k, among) for start in starts]
    rows, scores = zip(*parts, strict=True)
    return np.concatenate(rows), np.minimum(np.concatenate(scores), 1)


def _search(
    features: np.ndarray, queries: np.ndarray, k: int, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    multiply = _float16_product(queries) if features.dtype == np.float16 else _float32_product(queries)

    count = len(features if among is None else among)
    step = SEARCH_ROWS if among is None else max(1, SEARCH_ROWS // 8)  # chosen rows are copied

    def search_chunk(start: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = slice(start, start + step) if among is None else among[start : start + step]
        block = features[chosen]
        similarity = multiply(block)
        again = None
        if block.dtype == np.float32:

            def again(query: int, rows: np.ndarray) -> np.ndarray:
                return (block[rows] * queries[query]).sum(axis=1)

        rows, scores = _top_k(similarity, np.broadcast_to(np.arange(similarity.shape[1]), similarity.shape), k, again)
        return (rows + start if among is None else chosen[rows]), scores

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(search_chunk, range(0, count, step)))
    if not found:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    rows, scores = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return _top_k(scores, rows, k)


def _top_k(
    scores: np.ndarray, rows: np.ndarray, k: int, again: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Select the k best of scores (Q, M) with their rows (Q, M), best first, ties by row.

    `again` computes the scores of a query's candidates once more, alike for equal rows.
    """
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        least = np.partition(scores, -k, axis=1)[:, -k]  # several rows may have exactly this score
        least = least - _ROUNDING if again else least
    top_rows, top_scores = np.empty((len(scores), k), np.int64), np.empty((len(scores), k), np.float32)
    for query, (row_scores, numbers) in enumerate(zip(scores, rows, strict=True)):
        found = np.flatnonzero(row_scores >= least[query]) if k < scores.shape[1] else np.arange(k)
        values = again(query, found) if again else row_scores[found]
        order = np.lexsort((numbers[found], -values))[:k]
        top_rows[query], top_scores[query] = numbers[found[order]], values[order]
    return top_rows, top_scores


def _float32_product(queries: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 rows (M, D) to similarities (Q, M)."""
    return lambda rows: sgemm(1.0, rows.T, queries.T, trans_a=True).T


def _float16_product(queries: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float16 rows (M, D) to similarities (Q, M), accumulated in float32."""
    import numkong  # search needs it, training and evaluation do not

    coarse = queries.astype(np.float16)
    fine = ((queries - coarse) * _FINE_SCALE).astype(np.float16)
    packed = numkong.dots_pack(np.concatenate([coarse, fine]))

    def multiply(rows: np.ndarray) -> np.ndarray:
        products = np.asarray(numkong.dots_packed(np.asarray(rows), packed)).T
        return products[: len(queries)] + products[len(queries) :] / _FINE_SCALE

    return multiply


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
