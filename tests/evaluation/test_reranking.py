"""Re-ranking equals its literal definition; its effect on a ranking."""

import tracemalloc

import numpy as np
import pytest
from evaluation.cases import signs

from ms_unireid.evaluation import reranking as module
from ms_unireid.evaluation import similarity as similarity_module
from ms_unireid.evaluation.metrics import Gallery, Queries, average, evaluate_retrieval, score_similarity
from ms_unireid.evaluation.reranking import rerank
from reference import reranking as reference

MIB = 1 << 20


def persons(seed, people=12, photos=5, queries=2, noise=1.0, width=24):
    """Return features and persons of queries and of a gallery."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((people, width))
    ids = [np.repeat(np.arange(people), n) for n in (queries, photos)]
    return *(base[i] + noise * rng.standard_normal((len(i), width)) for i in ids), *ids


@pytest.mark.parametrize("weight", [0.3, 0, 1])
@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (7, 3), (1, 1), (2, 9), (3, 4)])
def test_equals_the_definition(k1, k2, weight):
    for seed in range(2):
        queries, gallery, *_ = persons(seed)
        expected = reference.rerank(queries, gallery, k1, k2, weight)
        np.testing.assert_allclose(-rerank(queries, gallery, k1, k2, weight), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (4, 2)])
def test_ties_keep_the_order_of_the_gallery(k1, k2):
    rng = np.random.default_rng(3)
    queries, gallery = signs(rng, 9), signs(rng, 60)
    gallery[40:] = gallery[:20]
    np.testing.assert_allclose(
        -rerank(queries, gallery, k1, k2, 0.3), reference.rerank(queries, gallery, k1, k2, 0.3), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("gallery", range(1, 13))
@pytest.mark.parametrize("queries", [1, 3])
def test_fewer_samples_than_neighbours(queries, gallery):
    rng = np.random.default_rng(gallery)
    feats = rng.standard_normal((queries + gallery, 6))
    asked, searched = feats[:queries], feats[queries:]
    expected = reference.rerank(asked, searched, 20, 6, 0.3)
    np.testing.assert_allclose(-rerank(asked, searched), expected, rtol=0, atol=2e-6)


def test_blocks_do_not_change_scores(monkeypatch):
    rng = np.random.default_rng(5)
    queries, gallery = signs(rng, 9), signs(rng, 60)
    expected = rerank(queries, gallery)
    monkeypatch.setattr(similarity_module, "QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 5)
    np.testing.assert_allclose(rerank(queries, gallery), expected, rtol=0, atol=1e-6)


def test_the_original_distance_alone_keeps_the_order():
    queries, gallery, query_ids, gallery_ids = persons(6, noise=1.5)
    asked, searched = Queries(queries, query_ids), Gallery(gallery, gallery_ids)
    before = evaluate_retrieval(asked, searched)
    assert average(score_similarity(rerank(queries, gallery, weight=1), asked, searched)) == before


def test_neighbours_help_where_persons_form_groups():
    queries, gallery, query_ids, gallery_ids = persons(7, people=40, photos=20, noise=1.2)
    asked, searched = Queries(queries, query_ids), Gallery(gallery, gallery_ids)
    before = evaluate_retrieval(asked, searched)
    after = average(score_similarity(rerank(queries, gallery), asked, searched))
    assert after.mAP > before.mAP + 5
    assert after.queries == before.queries


def test_all_features_equal():
    found = rerank(np.ones((3, 4)), np.ones((40, 4)))
    assert np.isfinite(found).all()


def test_nothing_to_rank():
    assert rerank(np.ones((0, 4)), np.ones((3, 4))).shape == (0, 3)
    assert rerank(np.ones((2, 4)), np.ones((0, 4))).shape == (2, 0)


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"weight": 1.1}, {"weight": -0.1}, {"weight": np.nan}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        rerank(np.ones((2, 4)), np.ones((3, 4)), **wrong)


def test_features_must_be_finite():
    with pytest.raises(ValueError, match="NaN or infinity"):
        rerank(np.ones((2, 4)), np.full((3, 4), np.inf))


def test_memory_stays_within_the_stated_bound():
    queries, gallery, *_ = persons(8, people=300, photos=9, queries=1, width=16)
    samples = len(queries) + len(gallery)
    k1, k2 = 6, 2
    stated = 4 * len(queries) * len(gallery) + (8 * 16 + 4096 + 16 * k2 * (k1 + 1) * (k1 // 2 + 1)) * samples + 8 * MIB
    assert stated < 4 * samples**2  # what a dense matrix of all samples would take
    tracemalloc.start()
    try:
        rerank(queries, gallery, k1, k2)
        assert tracemalloc.get_traced_memory()[1] < stated
    finally:
        tracemalloc.stop()
