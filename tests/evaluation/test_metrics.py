"""Metrics against their literal definition, ties, removed entries and small galleries included."""

from dataclasses import asdict

import numpy as np
import pytest

from ms_unireid.evaluation import metrics as module
from ms_unireid.evaluation.metrics import evaluate_retrieval, normalize_rows, rank_gallery, score_rankings
from reference import metrics as reference

EXACT = {"rel": 0, "abs": 1e-12}
NAMES = ("R1", "R5", "R10", "mAP", "mINP")


def random_case(seed, queries, gallery, people=6, kept=None, levels=4):
    """Similarities on few levels, so that most are tied; some people are missing from the gallery."""
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-levels, levels, (queries, gallery)).astype(np.float32)
    query_ids, gallery_ids = rng.integers(0, people + 2, queries), rng.integers(0, people, gallery)
    return similarity, query_ids, gallery_ids, None if kept is None else rng.random(similarity.shape) < kept


@pytest.mark.parametrize("kept", [None, 0.7, 0.1])
@pytest.mark.parametrize(("queries", "gallery"), [(40, 60), (25, 7), (400, 1), (30, 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_query_equals_the_definition(seed, queries, gallery, kept):
    similarity, query_ids, gallery_ids, keep = random_case(seed, queries, gallery, kept=kept)
    expected = reference.evaluate(similarity, query_ids, gallery_ids, keep)
    found = score_rankings(similarity, query_ids[:, None] == gallery_ids, keep)
    valid = expected["valid"]
    np.testing.assert_array_equal(found["matches"] > 0, valid)
    np.testing.assert_allclose(found["AP"][valid], expected["AP"][valid] / 100, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["INP"][valid], expected["INP"][valid] / 100, rtol=0, atol=1e-12)
    for k in (1, 5, 10):
        first = expected["first_rank"]
        np.testing.assert_array_equal(found[f"R{k}"], (first > 0) & (first <= k))
    assert all(not found[name][~valid].any() for name in ("R1", "R10", "AP", "INP", "chance"))
    chance = 100 * found["chance"][valid].mean()
    assert chance == pytest.approx(reference.chance_r1(query_ids, gallery_ids, keep), **EXACT)


def test_ties_keep_the_order_of_the_gallery_and_removed_entries_come_last():
    similarity = np.array([[1, 3, 3, 1, 2], [0, 0, 0, 0, 0]], np.float32)
    kept = np.array([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
    assert rank_gallery(similarity).tolist() == [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]]
    assert rank_gallery(similarity, kept).tolist() == [[2, 4, 0, 3, 1], [0, 1, 3, 4, 2]]


def test_by_hand():
    similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
    scores = score_rankings(similarity, np.array([[False, True, False, True]]))
    assert {name: float(value[0]) for name, value in scores.items()} == pytest.approx(
        {"R1": 0, "R5": 1, "R10": 1, "AP": 0.5, "INP": 0.5, "chance": 0.5, "matches": 2}
    )


def test_a_large_ranking_stays_exact():
    similarity, query_ids, gallery_ids, _ = random_case(3, 5, 3000, people=3, levels=50)
    expected = reference.evaluate(similarity, query_ids % 3, gallery_ids)
    found = score_rankings(similarity, (query_ids % 3)[:, None] == gallery_ids)
    np.testing.assert_allclose(found["AP"], expected["AP"] / 100, rtol=0, atol=1e-12)


# From features.


def signs(rng, rows):
    """Features whose cosines are exact in float32, and mostly tied."""
    return rng.choice([-1.0, 1.0], (rows, 16)).astype(np.float32)


@pytest.mark.parametrize("at_once", [256, 7, 1])
@pytest.mark.parametrize("queries", [513, 255, 256])
def test_blocks_of_queries(queries, at_once, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", at_once)
    rng = np.random.default_rng(queries)
    query_feats, gallery_feats = signs(rng, queries), signs(rng, 24)
    query_ids, gallery_ids = rng.integers(0, 9, queries), rng.integers(0, 7, 24)
    source = rng.integers(0, 24, queries)
    query_ids[::3] = gallery_ids[source[::3]]
    keep = source[:, None] != np.arange(24)
    similarity = query_feats @ gallery_feats.T
    for photos, kept in ((None, None), (source, keep)):
        expected = reference.evaluate(similarity, query_ids, gallery_ids, kept)
        found = evaluate_retrieval(query_feats * 3, gallery_feats * 0.5, query_ids, gallery_ids, photos)
        assert {n: asdict(found)[n] for n in NAMES} == pytest.approx({n: expected[n] for n in NAMES}, **EXACT)
        assert (found.queries, found.queries_without_match) == (expected["num_queries"], expected["num_skipped"])
        chance = reference.chance_r1(query_ids, gallery_ids, kept)
        assert found.chance_R1 == pytest.approx(chance, rel=0, abs=1e-11)


def test_nobody_to_find():
    feats = signs(np.random.default_rng(0), 4)
    found = evaluate_retrieval(feats, feats, np.arange(4), np.arange(4, 8))
    assert (found.queries, found.queries_without_match, found.R1, found.mAP, found.chance_R1) == (0, 4, 0, 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_features_must_be_finite(bad, where):
    feats = [np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)]
    feats[where][1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate_retrieval(*feats, np.arange(3), np.arange(3))


def test_rows_are_normalised():
    rows = np.array([[3, 4], [0, 0], [1e-3, 0]])
    found = normalize_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
