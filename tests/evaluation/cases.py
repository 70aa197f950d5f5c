"""Random retrieval cases with heavy ties, and the literal scores of each query."""

import numpy as np

from ms_unireid.evaluation.metrics import Gallery, Queries, QueryScores
from reference import metrics as reference

RULES = ((), ("source",), ("camera",), ("source", "camera"))


def signs(rng, rows, width=16):
    """Features whose cosines are exact in float32, and mostly tied; `width` is a power of four."""
    return rng.choice([-1.0, 1.0], (rows, width)).astype(np.float32)


def random_case(seed, queries, gallery, people=6, rules=()):
    """Queries, a gallery without some of their persons, and a mask (Q, G) of the entries that stay.

    Some queries have a source photo, always of their person; there are three cameras.
    """
    rng = np.random.default_rng(seed)
    query_ids, gallery_ids = rng.integers(0, people + 2, queries), rng.integers(0, people, gallery)
    sources = np.array([own_photo(rng, gallery_ids, person) for person in query_ids]).reshape(queries)
    query_cameras, gallery_cameras = rng.integers(0, 3, queries), rng.integers(0, 3, gallery)
    keep = np.ones((queries, gallery), bool)
    for q, g in np.ndindex(queries, gallery):
        source = "source" in rules and g == sources[q]
        camera = "camera" in rules and query_ids[q] == gallery_ids[g] and query_cameras[q] == gallery_cameras[g]
        keep[q, g] = not (source or camera)
    asked = Queries(
        3 * signs(rng, queries),
        query_ids,
        sources if "source" in rules else None,
        query_cameras if "camera" in rules else None,
    )
    return asked, Gallery(signs(rng, gallery) / 2, gallery_ids, gallery_cameras), keep


def own_photo(rng, gallery_ids, person):
    """Draw a photo of the person, or -1: if there is none, and sometimes anyway."""
    own = np.flatnonzero(gallery_ids == person)
    return int(rng.choice(own)) if own.size and rng.random() < 0.8 else -1


def exact_similarity(queries: Queries, gallery: Gallery) -> np.ndarray:
    """Cosines of `signs`, without rounding."""
    unit = [
        feats.astype(np.float64) / np.linalg.norm(feats, axis=1, keepdims=True)
        for feats in (queries.feats, gallery.feats)
    ]
    return np.round(unit[0] @ unit[1].T * queries.feats.shape[1]) / queries.feats.shape[1]


def literal_scores(similarity, queries: Queries, gallery: Gallery, keep) -> QueryScores:
    """Score query by query with the definitions."""
    rows = [
        literal_row(reference.ranked_hits(similarity[q], gallery.person_ids == queries.person_ids[q], keep[q]))
        for q in range(len(similarity))
    ]
    return QueryScores(*(np.array(column) for column in zip(*rows, strict=True)))


def literal_row(hits: list[bool]) -> tuple[int, float, float, float, int]:
    if not any(hits):
        return 0, 0.0, 0.0, 0.0, 0
    precision, penalty = reference.average_precision(hits), reference.inverse_negative_penalty(hits)
    return hits.index(True) + 1, precision, penalty, sum(hits) / len(hits), sum(hits)


def assert_same(found: QueryScores, expected: QueryScores) -> None:
    for name in ("first_rank", "matches"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ("AP", "INP", "chance"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12, err_msg=name)
