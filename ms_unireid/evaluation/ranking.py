"""Places in a ranked list: best first, equal similarities in the gallery's order."""

from collections.abc import Callable

import numpy as np

# Comparisons held at once, one byte each: they stay in a core's cache.
FLAGS_AT_ONCE = 1 << 20
SMALLEST_BUFFER = 16
WORD = 8
# Words whose bytes, 0 or 1, add up to 255 at most.
WORDS_AT_ONCE = 255


def rank_gallery(similarity: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Order the gallery of each query, best first; ties keep the gallery's order and removed entries come last.

    Args:
        similarity: (Q, G) float.
        kept: (Q, G) bool, False where an entry does not take part.

    Returns:
        (Q, G) gallery indices.
    """
    scores = similarity if kept is None else np.where(kept, similarity, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")


def rank_entries(similarity: np.ndarray, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Find the ranks of a few gallery entries without ordering the others.

    An entry's rank is 1, plus the number of entries more similar, plus that of entries as similar that come before it.
    Besides the result it holds 8 MiB, or 8 G bytes where that is more.

    Args:
        similarity: (Q, G) float without NaN.
        rows: (R,) int, the queries asked about.
        entries: (R, M) int, the gallery entries to rank for each of them.

    Returns:
        (R, M) int64, 1 to G, as `rank_gallery` of the whole rows would place them.
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
    """Count the entries of each row (R, G) for which the comparison with each score (R, M) holds."""
    width = similarity.shape[1]
    flags = np.zeros((*scores.shape, -(-width // WORD) * WORD), np.bool_)
    # Else numpy copies rows shorter than its buffer into it before it compares them, at several times the cost.
    usual = np.setbufsize(SMALLEST_BUFFER)
    compare(similarity[:, None], scores[..., None], out=flags[..., :width])
    np.setbufsize(usual)
    # Eight flags at a time, as one number: several times as fast as counting along an axis.
    words = flags.view(np.uint64)
    count = np.zeros(scores.shape, np.int64)
    for start in range(0, words.shape[-1], WORDS_AT_ONCE):
        sums = words[..., start : start + WORDS_AT_ONCE].sum(axis=-1)
        count += sums.view(np.uint8).reshape(*sums.shape, WORD).sum(axis=-1, dtype=np.int64)
    return count
