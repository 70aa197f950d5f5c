"""Exact search: the most similar rows of features that may be larger than the memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import numkong
import numpy as np
from scipy.linalg.blas import sgemm

from ms_unireid.evaluation.similarity import normalize_rows

ROWS_AT_ONCE = 1 << 15
QUERIES_AT_ONCE = 32
# A query is the sum of two float16 vectors, the second one this many times as fine: its rounding is float32's.
_FINER = np.float32(2048)


def nearest(features: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k rows most similar to each query, among all rows.

    Holds a few MiB per core besides the features, of which the operating system keeps what fits in its cache.

    Args:
        features: (N, D) float16 or float32, each row of length 1; a memory map will do.
        queries: (Q, D) un-normalised.
        k: Rows wanted; all where there are fewer.

    Returns:
        Rows (Q, K) int64, best first, equal ones in their order, and their cosine similarities (Q, K) float32.

    Raises:
        ValueError: If a query is not finite.
    """
    queries = normalize_rows(queries)
    parts = [_nearest(features, queries[i : i + QUERIES_AT_ONCE], k) for i in range(0, len(queries), QUERIES_AT_ONCE)]
    rows, scores = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def _nearest(features: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    multiply = _half_product(queries) if features.dtype == np.float16 else _product(queries)

    def best_of(start: int) -> tuple[np.ndarray, np.ndarray]:
        similarity = multiply(features[start : start + ROWS_AT_ONCE])
        rows, scores = best(similarity, np.broadcast_to(np.arange(similarity.shape[1]), similarity.shape), k)
        return rows + start, scores

    with ThreadPoolExecutor(_cores()) as pool:
        found = list(pool.map(best_of, range(0, len(features), ROWS_AT_ONCE)))
    if not found:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    rows, scores = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return best(scores, rows, k)


def best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Select the k best of scored rows.

    Args:
        scores: (Q, M).
        rows: (Q, M) in ascending order, or in that of their score and then ascending.
        k: How many; all where there are fewer.

    Returns:
        Rows (Q, K) int64 and scores (Q, K), best first, equal ones by row.
    """
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        # The least score that is good enough; several rows may have it.
        least = np.partition(scores, -k, axis=1)[:, -k]
    chosen_rows, chosen_scores = np.empty((len(scores), k), np.int64), np.empty((len(scores), k), np.float32)
    for query, (row_scores, numbers) in enumerate(zip(scores, rows, strict=True)):
        good = np.flatnonzero(row_scores >= least[query]) if k < scores.shape[1] else np.arange(k)
        order = good[np.lexsort((numbers[good], -row_scores[good]))[:k]]
        chosen_rows[query], chosen_scores[query] = numbers[order], row_scores[order]
    return chosen_rows, chosen_scores


def _product(queries: np.ndarray):
    """Return a function from float32 rows (M, D) to similarities (Q, M)."""
    return lambda rows: sgemm(1.0, rows.T, queries.T, trans_a=True).T


def _half_product(queries: np.ndarray):
    """Return a function from float16 rows (M, D) to similarities (Q, M), summed in float32."""
    coarse = queries.astype(np.float16)
    fine = ((queries - coarse) * _FINER).astype(np.float16)
    packed = numkong.dots_pack(np.concatenate([coarse, fine]))

    def multiply(rows: np.ndarray) -> np.ndarray:
        products = np.asarray(numkong.dots_packed(np.asarray(rows), packed)).T
        return products[: len(queries)] + products[len(queries) :] / _FINER

    return multiply


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
