"""Rank-k, mAP and mINP in NumPy, from features or from given similarities."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from ms_unireid.evaluation.similarity import given_blocks, rank_entries, rank_gallery, similarity_blocks, similarity_row

# Fields of RetrievalMetrics in the order of every table.
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
MATCHES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Gallery:
    """The photos that are searched; the lengths must agree."""

    feats: np.ndarray  # (G, D) un-normalised
    person_ids: np.ndarray  # (G,)
    cameras: np.ndarray | None = None  # (G,), None if unknown

    def __post_init__(self):
        _check_lengths(self)


@dataclass(frozen=True)
class Queries:
    """The queries, and which of their person's photos each one removes from the gallery; the lengths must agree.

    A query removes its `source_photos` entry, a gallery index or -1, and the person's photos by its camera.
    """

    feats: np.ndarray  # (Q, D) un-normalised
    person_ids: np.ndarray  # (Q,)
    source_photos: np.ndarray | None = None  # (Q,)
    cameras: np.ndarray | None = None  # (Q,)

    def __post_init__(self):
        _check_lengths(self)


@dataclass(frozen=True)
class QueryScores:
    """Scores (Q,) of each query, int64 or float64 0-1; all are 0 for a query without a match."""

    first_rank: np.ndarray  # of the first match, from 1
    AP: np.ndarray  # average precision
    INP: np.ndarray  # inverse negative penalty: number of matches over the rank of the last one
    chance: np.ndarray  # share of matches among the query's candidates
    matches: np.ndarray


@dataclass(frozen=True)
class RetrievalMetrics:
    """Accuracy in percent 0-100: means over the `queries` that have a match.

    Rk is the share of queries with a match among the first k results; `chance_R1` is R1 of a random order.
    """

    R1: float
    R5: float
    R10: float
    mAP: float
    mINP: float
    chance_R1: float
    queries: int
    queries_without_match: int


def evaluate_retrieval(queries: Queries, gallery: Gallery) -> RetrievalMetrics:
    """Rank the gallery for every query by cosine similarity and average the scores; see `score_queries`."""
    return average(score_queries(queries, gallery))


def score_queries(queries: Queries, gallery: Gallery) -> QueryScores:
    """Rank the gallery for every query by cosine similarity and score each.

    Needs at most `4 G D + 2048 G` bytes and 16 MiB besides features and scores. A feature that is not finite, and a
    source photo or camera that does not fit the gallery, raise a ValueError.
    """
    return _score_blocks(similarity_blocks(queries.feats, gallery.feats), queries, gallery)


def score_similarity(similarity: np.ndarray, queries: Queries, gallery: Gallery) -> QueryScores:
    """Score each query by given similarities (Q, G), larger is nearer; ValueError as in `score_queries`."""
    shape = len(queries.person_ids), len(gallery.person_ids)
    if similarity.shape != shape:
        raise ValueError(f"similarities of shape {similarity.shape} for {shape[0]} queries and {shape[1]} photos")
    return _score_blocks(given_blocks(similarity), queries, gallery)


def average(scores: QueryScores) -> RetrievalMetrics:
    """Average over the queries that have a match; 0 if none has one."""
    valid = scores.matches > 0

    def percent(values: np.ndarray) -> float:
        return 100 * float(values[valid].mean()) if valid.any() else 0.0

    return RetrievalMetrics(
        **{f"R{k}": percent(scores.first_rank <= k) for k in (1, 5, 10)},
        mAP=percent(scores.AP),
        mINP=percent(scores.INP),
        chance_R1=percent(scores.chance),
        queries=int(valid.sum()),
        queries_without_match=int((~valid).sum()),
    )


def ranked_list(queries: Queries, gallery: Gallery, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank the gallery for one query, as its scores do: indices best first, without the removed photos, and cosines."""
    matches = _Matches(queries, gallery)
    row = np.array([query])
    photos = matches.photos(row)
    kept = np.ones((1, len(gallery.feats)), np.bool_)
    kept[0, photos[matches.removed(row, photos)]] = False
    similarity = similarity_row(queries.feats, gallery.feats, query)
    order = rank_gallery(similarity[None], kept)[0, : kept.sum()]
    return order, similarity[order]


class _Matches:
    """The photos of each query's person, and which of them the query removes."""

    def __init__(self, queries: Queries, gallery: Gallery):
        self.queries, self.gallery = queries, gallery
        self._check_source_photos()
        if queries.cameras is not None and gallery.cameras is None:
            raise ValueError("queries have cameras, the gallery has none")
        self.by_person = np.argsort(gallery.person_ids, kind="stable")
        persons = gallery.person_ids[self.by_person]
        self.start = np.searchsorted(persons, queries.person_ids, side="left")
        self.count = np.searchsorted(persons, queries.person_ids, side="right") - self.start

    def photos(self, rows: np.ndarray) -> np.ndarray:
        """Return the photos (R, M) of queries (R,) that have M photos each, in gallery order."""
        return self.by_person[self.start[rows][:, None] + np.arange(self.count[rows[0]])]

    def removed(self, rows: np.ndarray, photos: np.ndarray) -> np.ndarray:
        """Mark the photos (R, M) that queries (R,) remove."""
        removed = np.zeros(photos.shape, np.bool_)
        if self.queries.source_photos is not None:
            removed |= photos == self.queries.source_photos[rows][:, None]
        if self.queries.cameras is not None:
            removed |= self.gallery.cameras[photos] == self.queries.cameras[rows][:, None]
        return removed

    def _check_source_photos(self) -> None:
        if self.queries.source_photos is None:
            return
        given = self.queries.source_photos >= 0
        photos = self.queries.source_photos[given]
        inside = (photos < len(self.gallery.person_ids)).all()
        if not inside or (self.gallery.person_ids[photos] != self.queries.person_ids[given]).any():
            raise ValueError("a source photo must be -1 or a photo of the query's person in the gallery")


def _score_blocks(blocks: Iterator[tuple[slice, np.ndarray]], queries: Queries, gallery: Gallery) -> QueryScores:
    matches = _Matches(queries, gallery)
    count = len(queries.person_ids)
    scores = QueryScores(*(np.zeros(count, t) for t in (np.int64, np.float64, np.float64, np.float64, np.int64)))
    for block, similarity in blocks:
        for rows in _groups(matches.count[block]):
            queried = block.start + rows
            photos = matches.photos(queried)
            ranks = rank_entries(similarity, rows, photos)
            found = _score(ranks, matches.removed(queried, photos), len(gallery.person_ids))
            for field in fields(QueryScores):
                getattr(scores, field.name)[queried] = getattr(found, field.name)
    return scores


def _groups(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield groups of queries with the same number of photos, those without any left out."""
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        size = max(1, MATCHES_AT_ONCE // count)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _score(ranks: np.ndarray, removed: np.ndarray, candidates: int) -> QueryScores:
    """Score queries by the ranks (R, M) of their person's photos in the whole gallery, some of them removed."""
    order = np.argsort(ranks, axis=1)
    ranks, removed = (np.take_along_axis(values, order, axis=1) for values in (ranks, removed))
    kept = ~removed
    ranks = np.where(kept, ranks - np.cumsum(removed, axis=1), 0)
    hits = np.cumsum(kept, axis=1)
    matches = hits[:, -1]
    divisor = np.maximum(matches, 1)
    return QueryScores(
        first_rank=np.take_along_axis(ranks, kept.argmax(axis=1)[:, None], axis=1)[:, 0],
        AP=(kept * hits / np.maximum(ranks, 1)).sum(axis=1) / divisor,
        INP=matches / np.maximum(ranks.max(axis=1), 1),
        chance=matches / np.maximum(candidates - removed.sum(axis=1), 1),
        matches=matches,
    )


def _check_lengths(holder: Gallery | Queries) -> None:
    lengths = {f.name: len(value) for f in fields(holder) if (value := getattr(holder, f.name)) is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{type(holder).__name__}: lengths differ: {lengths}")
