"""Folding: photos that are nearly the same become one card of a ranked list."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ms_unireid.evaluation.similarity import normalize_rows

FOLD = 0.98  # cosine that a search folds from if none is given; measured in docs/search.md
_ROUNDING = 1e-6  # of the cosine of two equal features
_AT_ONCE = 256  # ranks


class Card(NamedTuple):
    """A photo of a folded list."""

    row: int
    score: float  # cosine similarity to the query
    same: list[int]  # rows folded into it, best first


def fold_ranking(
    search: Callable[[int], tuple[np.ndarray, np.ndarray]],
    features_of: Callable[[np.ndarray], np.ndarray],
    fold: float,
    cards: int,
    count: int,
    left_out: frozenset[int] = frozenset(),
) -> list[Card]:
    """Walk down a ranked list until it has some number of cards and the next photo would be another one.

    A photo whose feature has at least the cosine `fold` with that of a card above it is folded into the first such
    card. Equal features always are.

    Args:
        search: Returns the first k rows and scores of the list, or fewer if there are no more.
        features_of: Returns the features (M, D) of rows (M,).
        fold: Cosine, more than 0.
        cards: Number of cards.
        count: Number of photos in the list.
        left_out: Rows that are passed over.
    """
    depth = min(2 * (cards + len(left_out)), count)
    while True:
        rows, scores = search(depth)
        found, is_whole = _walk(rows, scores, features_of, fold - _ROUNDING, cards, left_out)
        if is_whole or depth >= count or -1 in rows:
            return found
        depth = min(4 * depth, count)


def _walk(
    rows: np.ndarray,
    scores: np.ndarray,
    features_of: Callable[[np.ndarray], np.ndarray],
    fold: float,
    most: int,
    left_out: frozenset[int],
) -> tuple[list[Card], bool]:
    """Return the cards of a list of rows (K,), and whether there would be one more than `most`."""
    rows, scores = rows[rows >= 0], scores[rows >= 0]
    cards: list[Card] = []
    units: list[np.ndarray] = []  # of the cards
    for start in range(0, len(rows), _AT_ONCE):
        block = rows[start : start + _AT_ONCE]
        feats = normalize_rows(features_of(block).astype(np.float32))
        cosines = np.empty((len(block), most), np.float32)
        if cards:
            cosines[:, : len(cards)] = feats @ np.stack(units).T
        for place, row in enumerate(block.tolist()):
            if row in left_out:
                continue
            same = cosines[place, : len(cards)] >= fold
            if same.any():
                cards[int(same.argmax())].same.append(row)
            elif len(cards) == most:
                return cards, True
            else:
                units.append(feats[place])
                cosines[place:, len(cards)] = feats[place:] @ feats[place]
                cards.append(Card(row, float(scores[start + place]), []))
    return cards, False
