"""Rank-k, mAP and mINP in numpy; no MindSpore."""

from dataclasses import dataclass

import numpy as np

QUERIES_AT_ONCE = 256


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


def normalize_rows(feats: np.ndarray) -> np.ndarray:
    """Divide each row (..., D) by its L2 norm, as float32.

    Raises:
        ValueError: If a feature is not finite.
    """
    if not np.isfinite(feats).all():
        raise ValueError("features hold NaN or infinity: the checkpoint's weights are not usable")
    norms = np.linalg.norm(feats, axis=-1, keepdims=True)
    return (feats / np.maximum(norms, 1e-12)).astype(np.float32)


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


def score_rankings(
    similarity: np.ndarray, matches: np.ndarray, kept: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Score each query's ranking.

    Args:
        similarity: (Q, G) float.
        matches: (Q, G) bool, True where the gallery entry shows the query's person.
        kept: (Q, G) bool, False where an entry does not take part.

    Returns:
        Per query (Q,): `R1`, `R5`, `R10`, `AP`, `INP`, `chance` as fractions 0-1 and `matches`, a count;
        queries without a match score 0.
    """
    kept = np.ones_like(matches) if kept is None else kept
    matches = matches & kept
    hits = np.take_along_axis(matches, rank_gallery(similarity, kept), axis=1)
    ranks = np.arange(1, hits.shape[1] + 1)
    count = hits.sum(axis=1)
    divisor = np.maximum(count, 1)
    last = (hits * ranks).max(axis=1, initial=0)
    scores = {f"R{k}": hits[:, :k].any(axis=1).astype(np.float64) for k in (1, 5, 10)}
    scores["AP"] = (hits * np.cumsum(hits, axis=1) / ranks).sum(axis=1) / divisor
    scores["INP"] = count / np.maximum(last, 1)
    scores["chance"] = count / np.maximum(kept.sum(axis=1), 1)
    return {**scores, "matches": count}


def evaluate_retrieval(
    query_feats: np.ndarray,
    gallery_feats: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    source_photos: np.ndarray | None = None,
) -> RetrievalMetrics:
    """Rank the gallery for every query by cosine similarity and average the scores.

    Works through blocks of queries: besides the features it holds a few arrays of 256 x G.

    Args:
        query_feats: (Q, D) un-normalised.
        gallery_feats: (G, D) un-normalised.
        query_ids: (Q,) person of each query.
        gallery_ids: (G,) person of each gallery photo.
        source_photos: (Q,) gallery index of the photo a query was made from, which is then left out for it.

    Raises:
        ValueError: If a feature is not finite.
    """
    queries, gallery = normalize_rows(query_feats), normalize_rows(gallery_feats)
    blocks = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(start, start + QUERIES_AT_ONCE)
        similarity = queries[block] @ gallery.T
        matches = query_ids[block, None] == gallery_ids[None]
        kept = None if source_photos is None else source_photos[block, None] != np.arange(len(gallery))[None]
        blocks.append(score_rankings(similarity, matches, kept))
    scores = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    return _average(scores)


def _average(scores: dict[str, np.ndarray]) -> RetrievalMetrics:
    valid = scores["matches"] > 0
    mean = {name: 100 * float(values[valid].mean()) if valid.any() else 0.0 for name, values in scores.items()}
    return RetrievalMetrics(
        R1=mean["R1"],
        R5=mean["R5"],
        R10=mean["R10"],
        mAP=mean["AP"],
        mINP=mean["INP"],
        chance_R1=mean["chance"],
        queries=int(valid.sum()),
        queries_without_match=int((~valid).sum()),
    )
