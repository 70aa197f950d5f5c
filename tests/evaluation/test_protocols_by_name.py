"""Every protocol equals its literal definition, on random splits whose queries belong to photos or to persons."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from evaluation.splits import (
    literal_multi_query,
    literal_queries,
    literal_rule,
    literal_scores,
    literal_trials,
    person_split,
    tri_split,
)

from ms_unireid.config import PROTOCOLS, TASKS, EvalConfig
from ms_unireid.errors import CheckpointError, ConfigError
from ms_unireid.evaluation.evaluator import evaluate_features, to_json, to_table
from ms_unireid.evaluation.metrics import average, evaluate_retrieval, score_similarity
from ms_unireid.evaluation.protocols import PAPER_ROWS, check_protocol, evaluate_protocol, evaluate_reranked
from ms_unireid.evaluation.queries import make_queries, queries_and_gallery
from ms_unireid.evaluation.reranking import rerank

NAMES = ("R1", "R5", "R10", "mAP", "mINP", "chance_R1")
SEEDS = range(3)


def assert_equal(found, expected):
    assert {n: asdict(found)[n] for n in NAMES} == pytest.approx({n: expected[n] for n in NAMES}, rel=0, abs=1e-9)
    assert (found.queries, found.queries_without_match) == (expected["num_queries"], expected["num_skipped"])


# 1. Rules of the gallery.


@pytest.mark.parametrize("rule", ["exclude_source_photo", "full_gallery", "camera_aware"])
@pytest.mark.parametrize("seed", SEEDS)
def test_rules_where_queries_belong_to_photos(rule, seed):
    feats = tri_split(seed, cameras=3)
    found = evaluate_protocol(rule, feats)
    assert list(found) == [(task, rule) for task in TASKS]
    for task in TASKS:
        assert_equal(found[task, rule], literal_rule(literal_queries(task, feats), feats, rule))


def test_cameras_leave_out_at_least_the_source_photo():
    feats = tri_split(1, cameras=3)
    by_camera, by_photo = (evaluate_protocol(p, feats) for p in ("camera_aware", "exclude_source_photo"))
    for task in TASKS:
        assert by_camera[task, "camera_aware"].chance_R1 < by_photo[task, "exclude_source_photo"].chance_R1
    alone = replace(feats, cameras=np.arange(len(feats.photo)))
    assert_same_metrics(evaluate_protocol("camera_aware", alone), by_photo)


def assert_same_metrics(found, expected):
    assert [asdict(one) for one in found.values()] == [asdict(one) for one in expected.values()]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_full_gallery_where_queries_belong_to_persons(seed):
    feats = person_split(seed)
    found = evaluate_protocol("full_gallery", feats)
    for task in TASKS:
        assert_equal(found[task, "full_gallery"], literal_rule(literal_queries(task, feats), feats, "full_gallery"))
    pairs = [(c, s) for c in feats.caption_persons for s in feats.sketch_persons if c == s]
    assert found["fusion", "full_gallery"].queries == len(pairs) > found["text", "full_gallery"].queries
    assert len(set(feats.caption_persons)) == len(set(feats.sketch_persons)) - 1  # a person without a caption


def test_without_captions_there_are_only_sketch_queries():
    feats = person_split(0, captions=0, trials=2)
    for protocol in ("full_gallery", "multi_query", "ten_trials", "paper", "all"):
        found = evaluate_protocol(protocol, feats)
        assert {task for task, _ in found} == {"sketch"}
    expected = literal_rule(literal_queries("sketch", feats), feats, "full_gallery")
    assert_equal(evaluate_protocol("full_gallery", feats)["sketch", "full_gallery"], expected)


# 2. Several captions or sketches in a query.


@pytest.mark.parametrize("count", [1, 2, 99])
@pytest.mark.parametrize("seed", SEEDS)
def test_multi_query_of_photos(seed, count):
    feats = tri_split(seed, photos=60, people=10, captions=150)
    found = evaluate_protocol("multi_query", feats, EvalConfig(multi_query_photos=count))
    assert list(found) == [(task, "multi_query") for task in TASKS]
    counted = np.unique(feats.person_ids, return_counts=True)[1]
    for task in TASKS:
        metrics = found[task, "multi_query"]
        if task == "sketch":  # the first photos of a person may have no caption
            assert metrics.queries + metrics.queries_without_match == len(counted)
        if count == 99:  # all of everybody's photos ask: none is left to find
            assert metrics.queries == metrics.R1 == 0
        else:
            assert_equal(metrics, literal_multi_query(task, feats, count))


def test_persons_with_only_source_photos_have_no_match():
    feats = tri_split(0, photos=40, people=15, captions=200)
    counted = np.unique(feats.person_ids, return_counts=True)[1]
    assert (counted <= 2).any() and (counted > 2).any()
    metrics = evaluate_protocol("multi_query", feats, EvalConfig(multi_query_photos=2))["sketch", "multi_query"]
    assert metrics.queries_without_match == (counted <= 2).sum()
    assert_equal(metrics, literal_multi_query("sketch", feats, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_query_of_persons(seed):
    feats = person_split(seed, sketches=4, captions=3)
    found = evaluate_protocol("multi_query", feats)
    for task in TASKS:
        assert_equal(found[task, "multi_query"], literal_multi_query(task, feats, 1))
    assert found["sketch", "multi_query"].queries == 8
    assert found["text", "multi_query"].queries == found["fusion", "multi_query"].queries == 7


def test_one_sketch_and_one_caption_each_is_a_single_query():
    feats = person_split(2, sketches=1, captions=1)
    single, several = (evaluate_protocol(p, feats) for p in ("full_gallery", "multi_query"))
    for task in TASKS:
        assert asdict(several[task, "multi_query"]) == pytest.approx(asdict(single[task, "full_gallery"]), abs=1e-9)


# 3. Missing modality.


def made(feats):
    return tri_split(4) if feats == "photos" else person_split(4, people=12)


def queries_of(protocol, feats, monkeypatch, settings):
    """Return the features of each row's queries."""
    from ms_unireid.evaluation import protocols

    asked = []

    def evaluate(queries, gallery):
        asked.append(queries.feats.copy())
        return evaluate_retrieval(queries, gallery)

    monkeypatch.setattr(protocols, "evaluate_retrieval", evaluate)
    found = evaluate_protocol(protocol, feats, settings)
    return dict(zip(found, asked, strict=True)), found


@pytest.mark.parametrize("kind", ["photos", "persons"])
def test_missing_modality(kind, monkeypatch):
    feats, shares = made(kind), (0.0, 0.2, 0.5, 0.9, 1.0)
    rows, found = queries_of("missing_modality", feats, monkeypatch, EvalConfig(missing_shares=shares))
    assert [name for _, name in found] == [f"missing_modality {s}%" for s in ("0", "20", "50", "90", "100")]
    queries = literal_queries("fusion", feats)
    rule = "exclude_source_photo" if kind == "photos" else "full_gallery"
    before = np.zeros(len(queries), bool)
    for share, (key, asked) in zip(shares, rows.items(), strict=True):
        both, text, sketch = (
            np.array([(asked[q] == query[part]).all() for q, query in enumerate(queries)]) for part in (0, 3, 4)
        )
        assert (both.astype(int) + text + sketch == 1).all()
        assert (~both).sum() == round(share * len(queries)) and abs(int(text.sum()) - int(sketch.sum())) <= 1
        assert not (before & both).any()  # who lost something with a smaller share has still lost it
        before = ~both
        literal = [(row, *query[1:]) for row, query in zip(asked, queries, strict=True)]
        assert_equal(found[key], literal_rule(literal, feats, rule))
    assert found["fusion", "missing_modality 0%"] == evaluate_protocol(rule, feats)["fusion", rule]
    assert before.all()


def test_the_same_queries_lose_a_modality_in_every_run():
    settings = EvalConfig(missing_shares=(0.5,))
    once, again = (evaluate_protocol("missing_modality", tri_split(7), settings) for _ in range(2))
    assert once == again


# 4. Ten trials.


@pytest.mark.parametrize("seed", SEEDS)
def test_trials(seed):
    feats = person_split(seed, trials=10)
    found = evaluate_protocol("ten_trials", feats)
    assert list(found) == [(task, "ten_trials") for task in TASKS]
    for (task, _), metrics in found.items():
        each = literal_trials(task, feats)
        assert metrics.trials == len(each) == 10
        for name in NAMES:
            values = [one[name] for one in each]
            assert getattr(metrics, name) == pytest.approx(sum(values) / 10, abs=1e-9)
            variance = sum((v - sum(values) / 10) ** 2 for v in values) / 9
            assert metrics.deviation[name] == pytest.approx(variance**0.5, abs=1e-9)
        assert metrics.queries == sum(one["num_queries"] for one in each)
    assert max(found["sketch", "ten_trials"].deviation.values()) > 1


def test_one_trial_has_no_deviation():
    feats = person_split(1, trials=1)
    metrics = evaluate_protocol("ten_trials", feats)["sketch", "ten_trials"]
    assert set(metrics.deviation.values()) == {0.0} and metrics.trials == 1
    assert_equal(metrics, literal_trials("sketch", feats)[0])


def test_a_table_shows_the_deviation():
    rows = to_json(evaluate_protocol("ten_trials", person_split(0, trials=3)))
    assert {row["trials"] for row in rows} == {3}
    _, *lines = to_table(rows).splitlines()
    for row, line in zip(rows, lines, strict=True):
        assert f"{row['R1']:.2f} ± {row['deviation']['R1']:.2f}" in line


# 5. Names that stand for several.


def test_the_papers_rows_of_each_kind():
    def keys(feats):
        return list(evaluate_protocol("paper", feats))

    assert keys(tri_split(0, cameras=2)) == list(PAPER_ROWS)
    assert keys(person_split(0, trials=2)) == [(task, "ten_trials") for task in TASKS]
    assert keys(person_split(0)) == [(task, p) for p in ("full_gallery", "multi_query") for task in TASKS]


@pytest.mark.parametrize(
    ("feats", "names"),
    [
        (tri_split(0), ["exclude_source_photo", "full_gallery"]),
        (tri_split(0, cameras=2), ["exclude_source_photo", "full_gallery", "camera_aware"]),
        (person_split(0), ["full_gallery"]),
        (person_split(0, trials=2), ["full_gallery", "ten_trials"]),
    ],
)
def test_all_is_every_rule_and_the_trials(feats, names):
    found = evaluate_protocol("all", feats)
    assert list(found) == [(task, name) for name in names for task in TASKS]
    for name in names:
        assert evaluate_protocol(name, feats).items() <= found.items()


IMPOSSIBLE = [
    ("camera_aware", tri_split(0), "has no camera numbers"),
    ("ten_trials", tri_split(0), "has no trials"),
    ("exclude_source_photo", person_split(0), "has no source photos"),
    ("camera_aware", replace(person_split(0), cameras=np.zeros(99, int)), "has no source photos"),
    ("missing_modality", person_split(0, captions=0), "has no captions"),
]


@pytest.mark.parametrize(("protocol", "feats", "words"), IMPOSSIBLE)
def test_a_protocol_that_the_data_set_does_not_allow(protocol, feats, words):
    with pytest.raises(ConfigError) as caught:
        evaluate_protocol(protocol, feats)
    before, _, named = str(caught.value).partition("; choose one of paper, all, ")
    assert before == f"protocol {protocol}: the data set {words}"
    named = named.split(", ")
    assert protocol not in named and "full_gallery" in named
    for name in PROTOCOLS:
        if name in named:
            check_protocol(name, feats)
        else:
            with pytest.raises(ConfigError):
                check_protocol(name, feats)


# 6. Re-ranking.


@pytest.mark.parametrize("feats", [tri_split(3), person_split(3)], ids=["photos", "persons"])
def test_reranked_rows(feats):
    found = evaluate_reranked("paper", feats)
    assert list(found) == [(task, f"{name} reranked") for task, name in evaluate_protocol("paper", feats)]
    queries, gallery = queries_and_gallery(make_queries("text", feats), feats, "full_gallery")
    expected = average(score_similarity(rerank(queries.feats, gallery.feats), queries, gallery))
    assert found["text", "full_gallery reranked"] == expected
    literal = literal_scores(queries.feats, queries.person_ids, feats)
    assert expected.mAP != pytest.approx(literal["mAP"])


def test_each_trial_is_reranked_by_itself():
    feats = person_split(0, trials=3)
    found = evaluate_reranked("ten_trials", feats)["sketch", "ten_trials reranked"]
    values = []
    for persons in feats.trials:
        part = feats.of_persons(persons)
        queries, gallery = queries_and_gallery(make_queries("sketch", part), part, "full_gallery")
        values.append(average(score_similarity(rerank(queries.feats, gallery.feats), queries, gallery)).mAP)
    assert found.trials == 3 and found.mAP == pytest.approx(sum(values) / 3)


def test_reranked_rows_come_after_the_plain_ones():
    feats = tri_split(2)
    plain, both = evaluate_features(feats), evaluate_features(feats, reranked=True)
    assert list(both)[:4] == list(plain) and len(both) == 8
    assert plain.items() <= both.items()


@pytest.mark.parametrize("reranked", [False, True])
def test_features_that_are_not_finite_are_a_checkpoint_error(reranked):
    feats = person_split(0)
    feats.photo[0, 0] = np.inf
    with pytest.raises(CheckpointError, match="lower learning rate"):
        evaluate_features(feats, "paper", reranked=reranked)
