"""Retrieval metrics by their definitions, one query at a time, in plain loops (numpy only)."""

import numpy as np


def ranked_hits(similarity, matches, keep) -> list[bool]:
    """Return the matches of one query's kept gallery entries, best first; ties stay in gallery order.

    Args:
        similarity: Similarities to the gallery, (G,).
        matches: Whether an entry shows the query's person, (G,) bool.
        keep: Whether an entry is ranked at all, (G,) bool.
    """
    kept = [j for j in range(len(similarity)) if keep[j]]
    order = sorted(kept, key=lambda j: (-float(similarity[j]), j))
    return [bool(matches[j]) for j in order]


def average_precision(hits: list[bool]) -> float:
    """Return the mean over hits of hit number / rank, a fraction; `hits` is in rank order and has a hit."""
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    return sum(number / rank for number, rank in enumerate(ranks, start=1)) / len(ranks)


def inverse_negative_penalty(hits: list[bool]) -> float:
    """Return number of hits / rank of the last hit, a fraction; `hits` is in rank order and has a hit."""
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    return len(ranks) / ranks[-1]


def keep_without_source(query_ids, query_image_ids, gallery_ids, gallery_image_ids) -> np.ndarray:
    """Return the mask (Q, G) that drops, per query, entries with both its person id and its image id.

    Args:
        query_ids: Person ids of the queries, (Q,).
        query_image_ids: Ids of the pictures the queries come from, (Q,).
        gallery_ids: Person ids of the gallery, (G,).
        gallery_image_ids: Picture ids of the gallery, (G,).
    """
    keep = np.ones((len(query_ids), len(gallery_ids)), dtype=bool)
    for q in range(len(query_ids)):
        for g in range(len(gallery_ids)):
            if query_ids[q] == gallery_ids[g] and query_image_ids[q] == gallery_image_ids[g]:
                keep[q, g] = False
    return keep


def _all_hits(similarity, query_ids, gallery_ids, keep) -> list[list[bool]]:
    """Return the ranked hits of every query."""
    similarity, gallery_ids = np.asarray(similarity), np.asarray(gallery_ids)
    if keep is None:
        keep = np.ones(similarity.shape, dtype=bool)
    return [ranked_hits(similarity[q], gallery_ids == query_ids[q], keep[q]) for q in range(len(query_ids))]


def evaluate(similarity, query_ids, gallery_ids, keep=None) -> dict:
    """Compute the metrics of a retrieval run.

    Args:
        similarity: Similarities, larger is nearer, (Q, G).
        query_ids: Person ids of the queries, (Q,).
        gallery_ids: Person ids of the gallery, (G,).
        keep: Gallery entries ranked for each query, (Q, G) bool; None keeps all.

    Returns:
        Percent 0-100 averaged over queries with a match: "R1", "R5", "R10", "mAP", "mINP"; counts "num_queries" (with a
        match) and "num_skipped"; and per query, skipped ones included: "valid" (Q,) bool, "first_rank" (Q,) int64
        (1-based, 0 if skipped), "AP" and "INP" (Q,) float64 percent (NaN if skipped).

    Raises:
        ValueError: No query has a match.
    """
    all_hits = _all_hits(similarity, query_ids, gallery_ids, keep)
    valid = np.array([any(hits) for hits in all_hits])
    if not valid.any():
        raise ValueError("no query has a match in its gallery")
    first = np.array([hits.index(True) + 1 if any(hits) else 0 for hits in all_hits], dtype=np.int64)
    precision = np.array([100 * average_precision(hits) if any(hits) else np.nan for hits in all_hits])
    penalty = np.array([100 * inverse_negative_penalty(hits) if any(hits) else np.nan for hits in all_hits])
    cmc = {f"R{k}": 100 * float(np.mean(first[valid] <= k)) for k in (1, 5, 10)}
    return {
        **cmc,
        "mAP": float(precision[valid].mean()),
        "mINP": float(penalty[valid].mean()),
        "num_queries": int(valid.sum()),
        "num_skipped": int((~valid).sum()),
        "valid": valid,
        "first_rank": first,
        "AP": precision,
        "INP": penalty,
    }


def chance_r1(query_ids, gallery_ids, keep=None) -> float:
    """Return the R1 of random ranking in percent: the mean over queries with a match of matches / candidates.

    Args:
        query_ids: Person ids of the queries, (Q,).
        gallery_ids: Person ids of the gallery, (G,).
        keep: Gallery entries ranked for each query, (Q, G) bool; None keeps all.

    Raises:
        ValueError: No query has a match.
    """
    all_hits = _all_hits(np.zeros((len(query_ids), len(gallery_ids))), query_ids, gallery_ids, keep)
    shares = [sum(hits) / len(hits) for hits in all_hits if any(hits)]
    if not shares:
        raise ValueError("no query has a match in its gallery")
    return 100 * sum(shares) / len(shares)
