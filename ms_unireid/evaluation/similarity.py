"""Cosine similarities of queries and a gallery, a block of queries at a time, and exact ranks."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg.blas import sgemm

QUERIES_AT_ONCE = 512
ROWS_AT_ONCE = 1024


def normalize_rows(feats: np.ndarray) -> np.ndarray:
    """Divide each row (N, D) by its L2 norm, as float32; ValueError if a feature is not finite."""
    normalized = np.empty(feats.shape, np.float32)
    for start in range(0, len(feats), ROWS_AT_ONCE):
        rows = feats[start : start + ROWS_AT_ONCE]
        if not np.isfinite(rows).all():
            raise ValueError("features contain NaN or infinity: the checkpoint's weights are not usable")
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        normalized[start : start + ROWS_AT_ONCE] = rows / np.maximum(norms, 1e-12)
    return normalized


def similarity_blocks(query_feats: np.ndarray, gallery_feats: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the cosine similarities of up to 512 queries (Q, D) at a time with the whole gallery (G, D).

    Photos with equal features get equal similarities, bit for bit; a matrix product alone does not promise that,
    because its kernels add in another order at the edges. For the same reason the last bits depend on a query's place
    in its block: what must agree with an evaluation has to use the same blocks. The queries' rows come with their
    similarities (B, G) float32, which the next block overwrites.
    """
    gallery = normalize_rows(gallery_feats)
    copies, originals = _repeated_rows(gallery)
    buffer = np.zeros((min(QUERIES_AT_ONCE, len(query_feats)), len(gallery)), np.float32)
    for start in range(0, len(query_feats), QUERIES_AT_ONCE):
        queries = normalize_rows(query_feats[start : start + QUERIES_AT_ONCE])
        block = buffer[: len(queries)]
        if block.size:
            _multiply(queries, gallery, block)
        block[:, copies] = block[:, originals]
        yield slice(start, start + len(queries)), block


def similarity_row(query_feats: np.ndarray, gallery_feats: np.ndarray, query: int) -> np.ndarray:
    """Return the similarities (G,) float32 of one query, bit for bit those of `similarity_blocks`."""
    start = query - query % QUERIES_AT_ONCE
    ((_, block),) = similarity_blocks(query_feats[start : start + QUERIES_AT_ONCE], gallery_feats)
    return block[query - start]


def given_blocks(similarity: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield given similarities (Q, G) in the blocks of `similarity_blocks`; ValueError for NaN."""
    for start in range(0, len(similarity), QUERIES_AT_ONCE):
        block = similarity[start : start + QUERIES_AT_ONCE]
        if np.isnan(block).any():
            raise ValueError("similarities contain NaN")
        yield slice(start, start + len(block)), block


def _multiply(queries: np.ndarray, gallery: np.ndarray, block: np.ndarray) -> None:
    """Write the product of queries (B, D) and the transposed gallery (G, D) to block (B, G)."""
    # SciPy's BLAS, because NumPy's before version 2 treats an unknown newer processor as the oldest one it knows.
    sgemm(1.0, gallery.T, queries.T, c=block.T, trans_a=True, overwrite_c=True)


def _repeated_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that repeat an earlier row, and the first row that each one repeats."""
    _, group, count = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(count[group] > 1)  # equal rows share their first component
    first: dict[bytes, int] = {}
    originals = np.array([first.setdefault(rows[row].tobytes(), row) for row in suspects], dtype=np.intp)
    repeated = originals != suspects
    return suspects[repeated], originals[repeated]


# Comparisons made at once, one byte each: they stay in a core's cache.
FLAGS_AT_ONCE = 1 << 20
SMALLEST_BUFFER = 16
WORD = 8
# Words whose bytes, 0 or 1, add up to 255 at most.
WORDS_AT_ONCE = 255


def rank_gallery(similarity: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Return gallery indices (Q, G), best first; ties keep the gallery's order, entries not `kept` (Q, G) come last."""
    scores = similarity if kept is None else np.where(kept, similarity, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")


def rank_entries(similarity: np.ndarray, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Compute the ranks (R, M) of gallery entries (R, M) for queries (R,) of `similarity` (Q, G), without sorting.

    A rank is 1, plus the number of entries more similar, plus the number of equally similar entries before it: the
    place that `rank_gallery` gives. Needs 8 MiB, or 8 G bytes if that is more.
    """
    ranks = np.empty(entries.shape, np.int64)
    width = similarity.shape[1]
    columns = max(1, min(entries.shape[1], FLAGS_AT_ONCE // width))
    height = max(1, FLAGS_AT_ONCE // (width * columns))
    for top in range(0, len(rows), height):
        part = similarity[rows[top : top + height]]
        for left in range(0, entries.shape[1], columns):
            tile = slice(top, top + height), slice(left, left + columns)
            ranks[tile] = _rank(part, entries[tile])
    return ranks


def _rank(similarity: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Rank entries (R, M) of rows (R, G)."""
    scores = np.take_along_axis(similarity, entries, axis=1)
    ranks = 1 + _count(np.greater, similarity, scores)
    ties = _count(np.greater_equal, similarity, scores) - ranks
    for row, column in zip(*np.nonzero(ties), strict=True):
        before = similarity[row, : entries[row, column]]
        ranks[row, column] += np.count_nonzero(before == scores[row, column])
    return ranks


def _count(compare: Callable[..., np.ndarray], similarity: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Count the entries of each row (R, G) that compare true with each score (R, M)."""
    width = similarity.shape[1]
    flags = np.zeros((*scores.shape, -(-width // WORD) * WORD), np.bool_)
    # With its usual buffer NumPy first copies rows that are shorter than it, at several times the cost.
    usual = np.setbufsize(SMALLEST_BUFFER)
    compare(similarity[:, None], scores[..., None], out=flags[..., :width])
    np.setbufsize(usual)
    # Eight flags at a time as one number: several times as fast as counting along an axis.
    words = flags.view(np.uint64)
    count = np.zeros(scores.shape, np.int64)
    for start in range(0, words.shape[-1], WORDS_AT_ONCE):
        sums = words[..., start : start + WORDS_AT_ONCE].sum(axis=-1)
        count += sums.view(np.uint8).reshape(*sums.shape, WORD).sum(axis=-1, dtype=np.int64)
    return count
