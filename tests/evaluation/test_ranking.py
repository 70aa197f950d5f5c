"""Ranks of a few entries equal those of a full sort."""

import numpy as np
import pytest

from ms_unireid.evaluation import similarity as module
from ms_unireid.evaluation.similarity import rank_entries, rank_gallery


def test_ties_keep_the_order_of_the_gallery_and_removed_entries_come_last():
    similarity = np.array([[1, 3, 3, 1, 2], [0, 0, 0, 0, 0]], np.float32)
    kept = np.array([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
    assert rank_gallery(similarity).tolist() == [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]]
    assert rank_gallery(similarity, kept).tolist() == [[2, 4, 0, 3, 1], [0, 1, 3, 4, 2]]


def ranks_by_order(similarity, rows, entries):
    """Find the entries in the full order."""
    order = rank_gallery(similarity).tolist()
    return [[order[row].index(entry) + 1 for entry in entries[r]] for r, row in enumerate(rows)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("flags", [1, 40, 1000, 1 << 20])
@pytest.mark.parametrize("gallery", [1, 7, 8, 9, 300])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_ranks_equal_those_of_a_full_sort(levels, gallery, flags, dtype, monkeypatch):
    monkeypatch.setattr(module, "FLAGS_AT_ONCE", flags)
    rng = np.random.default_rng(gallery)
    similarity = rng.integers(0, levels, (12, gallery)).astype(dtype)
    rows = rng.permutation(12)[:9]
    entries = np.array([rng.permutation(gallery)[: min(gallery, 6)] for _ in rows])
    assert rank_entries(similarity, rows, entries).tolist() == ranks_by_order(similarity, rows, entries)


def test_counts_beyond_a_byte():
    similarity = np.arange(50_000.0)[None].repeat(2, axis=0)
    entries = np.array([[0, 49_999, 255, 40_000], [1, 2, 3, 4]])
    assert rank_entries(similarity, np.arange(2), entries).tolist() == (50_000 - entries).tolist()


def test_zero_and_minus_zero_are_tied():
    similarity = np.array([[-0.0, 0.0, -0.0]], np.float32)
    assert rank_entries(similarity, np.array([0]), np.array([[2, 1, 0]])).tolist() == [[3, 2, 1]]
    assert rank_gallery(similarity).tolist() == [[0, 1, 2]]
