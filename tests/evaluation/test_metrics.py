"""Metrics equal their literal definition, also with ties, removed entries and small galleries."""

import tracemalloc
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from evaluation.cases import RULES, assert_same, exact_similarity, literal_row, literal_scores, random_case, signs

from ms_unireid.evaluation import metrics as module
from ms_unireid.evaluation import similarity as similarity_module
from ms_unireid.evaluation.metrics import (
    Gallery,
    Queries,
    QueryScores,
    average,
    evaluate_retrieval,
    ranked_list,
    score_queries,
    score_similarity,
)
from ms_unireid.evaluation.similarity import similarity_blocks
from reference import metrics as reference

EXACT = {"rel": 0, "abs": 1e-12}
NAMES = ("R1", "R5", "R10", "mAP", "mINP")
MIB = 1 << 20


def tied(seed, shape, levels=4):
    """Similarities with few values, so that most are tied."""
    return np.random.default_rng(seed).integers(-levels, levels, shape).astype(np.float32)


def of_persons(queries, gallery) -> tuple[Queries, Gallery]:
    """Persons without features, for given similarities."""
    return Queries(np.zeros((len(queries), 1)), np.asarray(queries)), Gallery(
        np.zeros((len(gallery), 1)), np.asarray(gallery)
    )


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(("queries", "gallery"), [(40, 60), (25, 7), (400, 1), (30, 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_query_equals_the_definition(seed, queries, gallery, rules):
    asked, searched, keep = random_case(seed, queries, gallery, rules=rules)
    similarity = tied(seed, keep.shape)
    expected = reference.evaluate(similarity, asked.person_ids, searched.person_ids, keep)
    found = score_similarity(similarity, asked, searched)
    valid = expected["valid"]
    np.testing.assert_array_equal(found.matches > 0, valid)
    np.testing.assert_allclose(found.AP[valid], expected["AP"][valid] / 100, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.INP[valid], expected["INP"][valid] / 100, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.first_rank, expected["first_rank"])
    assert all(not getattr(found, name)[~valid].any() for name in ("first_rank", "AP", "INP", "chance"))
    chance = 100 * found.chance[valid].mean()
    assert chance == pytest.approx(reference.chance_r1(asked.person_ids, searched.person_ids, keep), **EXACT)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("gallery", range(1, 13))
def test_small_galleries(gallery, rules):
    for seed, people in ((0, 1), (1, 2), (2, 5)):
        asked, searched, keep = random_case(seed, 30, gallery, people, rules)
        expected = literal_scores(exact_similarity(asked, searched), asked, searched, keep)
        assert_same(score_queries(asked, searched), expected)


def test_by_hand():
    similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
    scores = score_similarity(similarity, *of_persons([1], [0, 1, 0, 1]))
    assert {name: float(value[0]) for name, value in asdict(scores).items()} == pytest.approx(
        {"first_rank": 2, "AP": 0.5, "INP": 0.5, "chance": 0.5, "matches": 2}
    )
    assert asdict(average(scores)) == pytest.approx(
        {"R1": 0, "R5": 100, "R10": 100, "mAP": 50, "mINP": 50, "chance_R1": 50}
        | {"queries": 1, "queries_without_match": 0}
    )


def test_a_large_ranking_stays_exact():
    similarity, query_ids = tied(3, (5, 3000), levels=50), np.arange(5) % 3
    gallery_ids = np.random.default_rng(3).integers(0, 3, 3000)
    expected = reference.evaluate(similarity, query_ids, gallery_ids)
    found = score_similarity(similarity, *of_persons(query_ids, gallery_ids))
    np.testing.assert_allclose(found.AP, expected["AP"] / 100, rtol=0, atol=1e-12)


def test_all_matches_left_out():
    asked = Queries(signs(np.random.default_rng(0), 3), np.array([1, 1, 2]), np.array([-1, -1, 2]), np.array([0, 1, 7]))
    searched = Gallery(signs(np.random.default_rng(1), 3), np.array([1, 1, 2]), np.array([0, 0, 0]))
    found = score_queries(asked, searched)
    assert found.matches.tolist() == [0, 2, 0]
    assert found.chance.tolist() == [0, 2 / 3, 0]
    assert (average(found).queries, average(found).queries_without_match) == (1, 2)


def test_empty_queries_and_galleries():
    asked, searched = Queries(np.ones((3, 4)), np.arange(3)), Gallery(np.ones((0, 4)), np.arange(0))
    assert average(score_queries(asked, searched)).queries_without_match == 3
    nobody = evaluate_retrieval(Queries(np.ones((0, 4)), np.arange(0)), Gallery(np.ones((3, 4)), np.arange(3)))
    assert (nobody.queries, nobody.queries_without_match, nobody.mAP) == (0, 0, 0)


@pytest.mark.parametrize("rules", RULES)
def test_the_order_of_the_queries_does_not_matter(rules):
    asked, searched, _ = random_case(4, 700, 50, people=9, rules=rules)
    order = np.random.default_rng(0).permutation(700)
    moved = Queries(*(None if v is None else v[order] for v in (getattr(asked, f.name) for f in fields(asked))))
    before, after = score_queries(asked, searched), score_queries(moved, searched)
    for name, values in asdict(before).items():
        np.testing.assert_array_equal(values[order], getattr(after, name))


# From features.


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("at_once", [512, 7, 1])
@pytest.mark.parametrize("queries", [513, 255, 512])
def test_blocks_of_queries(queries, at_once, rules, monkeypatch):
    monkeypatch.setattr(similarity_module, "QUERIES_AT_ONCE", at_once)
    asked, searched, keep = random_case(queries, queries, 24, people=7, rules=rules)
    similarity = exact_similarity(asked, searched)
    expected = reference.evaluate(similarity, asked.person_ids, searched.person_ids, keep)
    found = evaluate_retrieval(asked, searched)
    assert {n: asdict(found)[n] for n in NAMES} == pytest.approx({n: expected[n] for n in NAMES}, **EXACT)
    assert (found.queries, found.queries_without_match) == (expected["num_queries"], expected["num_skipped"])
    chance = reference.chance_r1(asked.person_ids, searched.person_ids, keep)
    assert found.chance_R1 == pytest.approx(chance, rel=0, abs=1e-11)


@pytest.mark.parametrize("matches_at_once", [1, 50])
def test_many_matches(matches_at_once, monkeypatch):
    monkeypatch.setattr(module, "MATCHES_AT_ONCE", matches_at_once)
    asked, searched, keep = random_case(6, 40, 300, people=2, rules=("source", "camera"))
    expected = literal_scores(exact_similarity(asked, searched), asked, searched, keep)
    assert_same(score_queries(asked, searched), expected)


def test_persons_in_a_paper_sized_space():
    """Rounded similarities of the dimension and density of CUHK-PEDES, a tenth of it, and repeated photos."""
    rng = np.random.default_rng(7)
    gallery_ids = np.sort(rng.integers(0, 100, 307))
    persons = rng.standard_normal((100, 512))
    photos = persons[gallery_ids] + rng.standard_normal((307, 512))
    photos[rng.integers(0, 307, 40)] = photos[rng.integers(0, 307, 40)]
    source = np.arange(615) * 307 // 615
    asked = Queries(photos[source] + 5 * rng.standard_normal((615, 512)), gallery_ids[source], source)
    searched = Gallery(photos, gallery_ids)
    similarity = np.concatenate([block.copy() for _, block in similarity_blocks(asked.feats, photos)])
    expected = literal_scores(similarity, asked, searched, source[:, None] != np.arange(307))
    found = score_queries(asked, searched)
    assert_same(found, expected)
    assert 20 < average(found).R1 < 90


def test_given_similarities_are_scored_as_computed_ones():
    asked, searched, _ = random_case(8, 600, 70, rules=("source",))
    assert_same(score_similarity(exact_similarity(asked, searched), asked, searched), score_queries(asked, searched))


@pytest.mark.parametrize("rules", RULES)
def test_the_ranked_list_is_the_order_that_is_scored(rules, monkeypatch):
    monkeypatch.setattr(similarity_module, "QUERIES_AT_ONCE", 7)
    asked, searched, _ = random_case(9, 40, 101, rules=rules)
    rng = np.random.default_rng(0)
    asked = replace(asked, feats=rng.standard_normal((40, 512)))
    feats = rng.standard_normal((101, 512))[rng.integers(0, 30, 101)]  # every photo several times
    searched = replace(searched, feats=feats)
    lists = [ranked_list(asked, searched, query) for query in range(40)]
    rows = [
        literal_row((searched.person_ids[order] == asked.person_ids[q]).tolist()) for q, (order, _) in enumerate(lists)
    ]
    assert_same(score_queries(asked, searched), QueryScores(*map(np.array, zip(*rows, strict=True))))
    for order, similarities in lists:
        assert len(set(order)) == len(order)
        assert (np.diff(similarities) <= 0).all()
        assert (np.diff(order)[np.diff(similarities) == 0] > 0).all()


def peak_of(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("queries", "photos", "people"),
    [(20_000, 2_000, 900), (4, 10_000, 1), (520, 1_500, 3)],
    ids=["many queries", "one person", "hundreds of matches"],
)
def test_memory_stays_within_the_stated_bound(queries, photos, people):
    rng = np.random.default_rng(0)
    feats = rng.standard_normal((photos, 32)).astype(np.float32)
    gallery_ids = rng.integers(0, people, photos)
    source = rng.integers(0, photos, queries)
    asked = Queries(feats[source], gallery_ids[source], source, source % 2)
    searched = Gallery(feats, gallery_ids, np.arange(photos) % 2)
    stated = 4 * photos * 32 + 2048 * photos + 16 * MIB
    all_similarities, a_blocks_comparisons = 4 * queries * photos, min(queries, 512) * photos**2 // people
    assert stated < max(all_similarities, a_blocks_comparisons)  # else the test would prove nothing
    assert peak_of(lambda: score_queries(asked, searched)) < stated


def test_nobody_to_find():
    feats = signs(np.random.default_rng(0), 4)
    found = evaluate_retrieval(Queries(feats, np.arange(4)), Gallery(feats, np.arange(4, 8)))
    assert (found.queries, found.queries_without_match, found.R1, found.mAP, found.chance_R1) == (0, 4, 0, 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_features_must_be_finite(bad, where):
    feats = [np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)]
    feats[where][1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate_retrieval(Queries(feats[0], np.arange(3)), Gallery(feats[1], np.arange(3)))


@pytest.mark.parametrize("sources", [[1], [2]])
def test_a_source_photo_must_be_the_persons_own(sources):
    asked = Queries(np.ones((1, 4)), np.array([5]), np.array(sources))
    with pytest.raises(ValueError, match="a photo of the query's person"):
        score_queries(asked, Gallery(np.ones((2, 4)), np.array([5, 6])))


def test_cameras_must_be_known():
    asked = Queries(np.ones((1, 4)), np.array([5]), cameras=np.array([0]))
    with pytest.raises(ValueError, match="queries have cameras, the gallery has none"):
        score_queries(asked, Gallery(np.ones((2, 4)), np.array([5, 6])))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"Gallery: lengths differ: \{'feats': 2, 'person_ids': 3\}"):
        Gallery(np.ones((2, 4)), np.arange(3))
    with pytest.raises(ValueError, match="Queries: lengths differ"):
        Queries(np.ones((2, 4)), np.arange(2), cameras=np.arange(1))


def test_given_similarities_must_fit():
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 1 queries and 2 photos"):
        score_similarity(np.ones((2, 2)), *of_persons([1], [1, 2]))
    with pytest.raises(ValueError, match="NaN"):
        score_similarity(np.array([[1, np.nan]]), *of_persons([1], [1, 2]))
