"""Rank-k, mAP and mINP in numpy, from features or from a similarity matrix."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from ms_unireid.evaluation.similarity import given_blocks, rank_entries, rank_gallery, similarity_blocks, similarity_row

# Fields of RetrievalMetrics in the order of every table.
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
MATCHES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Gallery:
    """The photos that are searched.

    Attributes:
        feats: (G, D) un-normalised.
        person_ids: (G,) person of each photo.
        cameras: (G,) camera of each photo, or None where it is not known.

    Raises:
        ValueError: If the lengths differ.
    """

    feats: np.ndarray
    person_ids: np.ndarray
    cameras: np.ndarray | None = None

    def __post_init__(self):
        _check_lengths(self)


@dataclass(frozen=True)
class Queries:
    """What is asked, and which of the person's own photos are left out of the gallery for it.

    Attributes:
        feats: (Q, D) un-normalised.
        person_ids: (Q,) person of each query.
        source_photos: (Q,) int, gallery index of the photo a query was made from, which is left out for it; -1: none.
            None: nothing is left out for this reason.
        cameras: (Q,) camera of each query; the person's photos by that camera are left out for it. None: nothing is
            left out for this reason.

    Raises:
        ValueError: If the lengths differ.
    """

    feats: np.ndarray
    person_ids: np.ndarray
    source_photos: np.ndarray | None = None
    cameras: np.ndarray | None = None

    def __post_init__(self):
        _check_lengths(self)


@dataclass(frozen=True)
class QueryScores:
    """Scores of each query, in the queries' order; all are 0 for a query without a match.

    Attributes:
        first_rank: (Q,) int64, rank of the first match, from 1.
        AP: (Q,) float64, average precision, fraction 0-1.
        INP: (Q,) float64, inverse negative penalty: number of matches over the rank of the last one, fraction 0-1.
        chance: (Q,) float64, share of matches among the query's candidates, fraction 0-1.
        matches: (Q,) int64, number of matches.
    """

    first_rank: np.ndarray
    AP: np.ndarray
    INP: np.ndarray
    chance: np.ndarray
    matches: np.ndarray


@dataclass(frozen=True)
class RetrievalMetrics:
    """Accuracy of one retrieval task, percent 0-100, averaged over the queries that have a match.

    Attributes:
        R1: Share of queries whose first result is a match; R5 and R10 likewise within five and ten.
        R5: See R1.
        R10: See R1.
        mAP: Mean average precision.
        mINP: Mean inverse negative penalty: number of matches over the rank of the last one.
        chance_R1: R1 expected of a random order: the mean share of matches among a query's candidates.
        queries: Queries that were ranked.
        queries_without_match: Queries left out because the gallery holds no match for them.
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

    Besides the features and the scores it holds at most `4 G D + 2048 G` bytes (the gallery's normalised copy and the
    similarities of 512 queries) and 16 MiB, however many queries and matches there are; the BLAS library's own buffers
    come on top.

    Raises:
        ValueError: If a feature is not finite, or the queries leave out photos that they cannot.
    """
    return _score_blocks(similarity_blocks(queries.feats, gallery.feats), queries, gallery)


def score_similarity(similarity: np.ndarray, queries: Queries, gallery: Gallery) -> QueryScores:
    """Score each query by given similarities, those of a re-ranked list for example; the features play no part.

    Args:
        similarity: (Q, G) float, larger is nearer.
        queries: Their persons, and what is left out.
        gallery: Its persons and cameras.

    Raises:
        ValueError: If the shape is another or a similarity is NaN, or the queries leave out photos that they cannot.
    """
    shape = len(queries.person_ids), len(gallery.person_ids)
    if similarity.shape != shape:
        raise ValueError(f"similarities of shape {similarity.shape} for {shape[0]} queries and {shape[1]} photos")
    return _score_blocks(given_blocks(similarity), queries, gallery)


def average(scores: QueryScores) -> RetrievalMetrics:
    """Average over the queries that have a match; all is 0 where none has."""
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
    """List the gallery for one query in the order that its scores are computed from.

    Returns:
        Gallery indices best first, without the photos left out, and their cosine similarities.

    Raises:
        ValueError: If a feature is not finite, or the queries leave out photos that they cannot.
    """
    matches = _Matches(queries, gallery)
    row = np.array([query])
    photos = matches.photos(row)
    kept = np.ones((1, len(gallery.feats)), np.bool_)
    kept[0, photos[matches.left_out(row, photos)]] = False
    similarity = similarity_row(queries.feats, gallery.feats, query)
    order = rank_gallery(similarity[None], kept)[0, : kept.sum()]
    return order, similarity[order]


class _Matches:
    """Which photos show each query's person, and which of them are left out.

    Raises:
        ValueError: If the queries leave out photos that they cannot.
    """

    def __init__(self, queries: Queries, gallery: Gallery):
        self.queries, self.gallery = queries, gallery
        self._check_source_photos()
        if queries.cameras is not None and gallery.cameras is None:
            raise ValueError("photos of the same camera can be left out only where the gallery's cameras are known")
        self.by_person = np.argsort(gallery.person_ids, kind="stable")
        persons = gallery.person_ids[self.by_person]
        self.start = np.searchsorted(persons, queries.person_ids, side="left")
        self.count = np.searchsorted(persons, queries.person_ids, side="right") - self.start

    def photos(self, rows: np.ndarray) -> np.ndarray:
        """Return the photos (R, M) of queries (R,) that have M of them each, in the gallery's order."""
        return self.by_person[self.start[rows][:, None] + np.arange(self.count[rows[0]])]

    def left_out(self, rows: np.ndarray, photos: np.ndarray) -> np.ndarray:
        """Tell which of their person's photos (R, M) are left out for queries (R,)."""
        left_out = np.zeros(photos.shape, np.bool_)
        if self.queries.source_photos is not None:
            left_out |= photos == self.queries.source_photos[rows][:, None]
        if self.queries.cameras is not None:
            left_out |= self.gallery.cameras[photos] == self.queries.cameras[rows][:, None]
        return left_out

    def _check_source_photos(self) -> None:
        if self.queries.source_photos is None:
            return
        given = self.queries.source_photos >= 0
        photos = self.queries.source_photos[given]
        inside = (photos < len(self.gallery.person_ids)).all()
        if not inside or (self.gallery.person_ids[photos] != self.queries.person_ids[given]).any():
            raise ValueError("a query's source photo must be a photo of its own person in the gallery, or -1")


def _score_blocks(blocks: Iterator[tuple[slice, np.ndarray]], queries: Queries, gallery: Gallery) -> QueryScores:
    matches = _Matches(queries, gallery)
    count = len(queries.person_ids)
    scores = QueryScores(*(np.zeros(count, t) for t in (np.int64, np.float64, np.float64, np.float64, np.int64)))
    for block, similarity in blocks:
        for rows in _alike(matches.count[block]):
            queried = block.start + rows
            photos = matches.photos(queried)
            ranks = rank_entries(similarity, rows, photos)
            found = _score(ranks, matches.left_out(queried, photos), len(gallery.person_ids))
            for field in fields(QueryScores):
                getattr(scores, field.name)[queried] = getattr(found, field.name)
    return scores


def _alike(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the queries that have photos of their person, those with the same number of photos together."""
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        size = max(1, MATCHES_AT_ONCE // count)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _score(ranks: np.ndarray, left_out: np.ndarray, candidates: int) -> QueryScores:
    """Score queries from the ranks (R, M) of all their person's photos, of which some are left out.

    Args:
        ranks: In the whole gallery.
        left_out: (R, M) bool.
        candidates: Size of the whole gallery.
    """
    order = np.argsort(ranks, axis=1)
    ranks, left_out = (np.take_along_axis(values, order, axis=1) for values in (ranks, left_out))
    kept = ~left_out
    ranks = np.where(kept, ranks - np.cumsum(left_out, axis=1), 0)
    hits = np.cumsum(kept, axis=1)
    matches = hits[:, -1]
    divisor = np.maximum(matches, 1)
    return QueryScores(
        first_rank=np.take_along_axis(ranks, kept.argmax(axis=1)[:, None], axis=1)[:, 0],
        AP=(kept * hits / np.maximum(ranks, 1)).sum(axis=1) / divisor,
        INP=matches / np.maximum(ranks.max(axis=1), 1),
        chance=matches / np.maximum(candidates - left_out.sum(axis=1), 1),
        matches=matches,
    )


def _check_lengths(holder: Gallery | Queries) -> None:
    lengths = {f.name: len(value) for f in fields(holder) if (value := getattr(holder, f.name)) is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{type(holder).__name__} of different lengths: {lengths}")
