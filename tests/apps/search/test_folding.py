"""Folding against a literal walk down the whole ranked list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_unireid.apps.search import folding
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.folding import fold_ranking
from ms_unireid.evaluation.similarity import normalize_rows


def features(groups: list[int], spread: float, dtype: str, seed: int) -> np.ndarray:
    """Draw groups of features around one direction each, in mixed order."""
    rng = np.random.default_rng(seed)
    feats = [rng.standard_normal(16) + spread * rng.standard_normal((size, 16)) for size in groups]
    return normalize_rows(rng.permutation(np.concatenate(feats)).astype(np.float32)).astype(dtype)


def literal(feats: np.ndarray, query: np.ndarray, fold: float, most: int, left_out: frozenset[int]) -> list:
    """Walk down the list of all rows; return each card's row and the rows folded into it."""
    units = feats.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cards = []
    for row in exact_search(feats, query, len(feats))[0][0].tolist():
        if row in left_out:
            continue
        for head, same in cards:
            if units[row] @ units[head] >= fold - 1e-6:
                same.append(row)
                break
        else:
            if len(cards) == most:
                break
            cards.append((row, []))
    return cards


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_the_same_as_a_walk_down_the_whole_list(data):
    groups = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    spread = data.draw(st.sampled_from([0.0, 0.1, 0.3]))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    feats = features(groups, spread, dtype, data.draw(st.integers(0, 99)))
    query = np.random.default_rng(5).standard_normal((1, 16), np.float32)
    fold, most = data.draw(st.sampled_from([0.3, 0.9, 0.9731, 1.0])), data.draw(st.integers(1, 15))
    left_out = frozenset(data.draw(st.lists(st.integers(0, len(feats) - 1), max_size=3)))
    depths = []

    def search(k):
        depths.append(k)
        return tuple(one[0] for one in exact_search(feats, query, k))

    cards = fold_ranking(search, feats.__getitem__, fold, most, len(feats), left_out)
    assert [(card.row, card.same) for card in cards] == literal(feats, query, fold, most, left_out)
    scores = exact_search(feats, query, len(feats))
    assert [card.score for card in cards] == pytest.approx(
        [scores[1][0][scores[0][0].tolist().index(card.row)] for card in cards], abs=1e-6
    )
    assert depths == sorted(set(depths)) and max(depths) <= len(feats)


def test_equal_features_always_fold_and_the_list_goes_on_below_them():
    feats = features([3000, 1, 1, 1], 0.0, "float16", 3)
    ((_, count),) = [pair for pair in zip(*np.unique(feats, axis=0, return_counts=True), strict=True) if pair[1] > 1]
    assert count == 3000
    query = feats[np.argmax((feats[:, None] == feats[None, :5]).all(2).sum(1))][None].astype(np.float32)
    cards = fold_ranking(
        lambda k: tuple(one[0] for one in exact_search(feats, query, k)), feats.__getitem__, 1.0, 3, len(feats)
    )
    assert sorted(len(card.same) for card in cards) == [0, 0, 2999]


def test_an_approximate_list_ends_where_nothing_more_is_found():
    feats = features([1] * 20, 0.0, "float32", 1)

    def search(k):
        return np.array([4, 2, *[-1] * (k - 2)]), np.zeros(k, np.float32)

    assert [card.row for card in fold_ranking(search, feats.__getitem__, 0.99, 5, 20)] == [4, 2]


def test_memory_is_bounded(monkeypatch):
    """Blocks of ranks are compared with the cards alone."""
    largest = []
    monkeypatch.setattr(folding, "normalize_rows", lambda block: largest.append(len(block)) or normalize_rows(block))
    feats = features([5000], 0.0, "float16", 1)
    query = feats[:1].astype(np.float32)
    fold_ranking(lambda k: tuple(one[0] for one in exact_search(feats, query, k)), feats.__getitem__, 0.98, 3, 5000)
    assert max(largest) <= 256
