"""Open-set identification against its definition, written as loops; thresholds of smaller galleries by trying them."""

import dataclasses
import itertools

import numpy as np
import pytest
from evaluation.splits import literal_queries, person_split, tri_split

from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.evaluator import evaluate_features
from ms_unireid.evaluation.open_set import _threshold, check_open_set, evaluate_open_set, thresholds_of, to_table
from ms_unireid.evaluation.queries import Part

TASKS = ("text", "sketch", "fusion")


def unit(rows):
    return np.asarray(rows, np.float32) / np.linalg.norm(np.asarray(rows, np.float32), axis=-1, keepdims=True)


def literal(task, feats, threshold):
    """Return the shares of false alarms and of persons found among the first 1, 5 and 10, in percent."""
    gallery, alarms, ranks = unit(feats.photo), [], []
    for feature, person, photo, *_ in literal_queries(task, feats):
        scores = gallery @ unit(feature)
        others = [scores[g] for g in range(len(gallery)) if feats.person_ids[g] != person]
        alarms.append(max(others) > threshold)
        left = [g for g in np.argsort(-scores, kind="stable") if g != photo]
        first = next((rank for rank, g in enumerate(left, 1) if feats.person_ids[g] == person), None)
        if first is not None:
            ranks.append(first if scores[left[first - 1]] > threshold else np.inf)
    return np.mean(alarms), [100 * np.mean(np.array(ranks) <= k) for k in (1, 5, 10)]


@pytest.mark.parametrize("feats", [tri_split(1), tri_split(2, photos=60, people=9), person_split(3)])
@pytest.mark.parametrize("rate", [0.07, 0.3, 0.5])
def test_the_rates_are_those_of_the_definition(feats, rate):
    rows = {row["task"]: row for row in evaluate_open_set(feats, [rate])}
    assert [*rows] == [*TASKS, "photo"]
    for task in TASKS:
        row, count = rows[task], len(literal_queries(task, feats))
        if row["threshold"] is None:
            assert rate * count < 1
            continue
        alarms, found = literal(task, feats, row["threshold"] + 1e-6)  # a product's last bits
        assert alarms == int(rate * count + 1e-6) / count  # as many as the rate allows, without ties
        assert [row[f"DIR{k}"] for k in (1, 5, 10)] == pytest.approx(found)


def test_where_all_alarms_are_allowed_it_is_the_rank_k_of_the_paper():
    feats = tri_split(4)
    rows = {row["task"]: row for row in evaluate_open_set(feats, [1.0])}
    for task, metrics in zip(TASKS, evaluate_features(feats, "exclude_source_photo").values(), strict=True):
        assert (rows[task]["queries"], rows[task]["queries_without_match"]) == (
            metrics.queries, metrics.queries_without_match,
        )  # fmt: skip
        # All others are above the threshold, the last of them is not; matches may lie below it.
        assert metrics.R1 - 5 <= rows[task]["DIR1"] <= metrics.R1


def test_a_photo_is_no_result_of_itself():
    feats = tri_split(5, photos=40, people=40)
    (row,) = (row for row in evaluate_open_set(feats, [0.5]) if row["task"] == "photo")
    pairs = sum((feats.person_ids == person).sum() > 1 for person in feats.person_ids)
    assert (row["queries"], row["queries_without_match"]) == (pairs, 40 - pairs)


def test_a_gallery_of_a_part_of_the_persons():
    """Of four persons two are there: the share of alarms over all six choices is the wanted rate."""
    others = np.sort(np.random.default_rng(1).random((50, 4)), axis=1)[:, ::-1]
    threshold = _threshold(others, 0.2, 0.5)
    kept = [list(places) for count in range(5) for places in itertools.combinations(range(4), count)]
    alarms = np.mean([[bool(len(p)) and (row[p] > threshold).any() for p in kept] for row in others])
    assert 0.2 - 1 / 50 < alarms <= 0.2 + 1e-9
    assert threshold < _threshold(others, 0.2)


def test_more_persons_need_a_higher_threshold():
    rng, rows = np.random.default_rng(2), {}
    for persons in (100, 800):
        photo = rng.standard_normal((persons, 16))
        text = photo[:100] + rng.standard_normal((100, 16))
        feats = tri_split(0)
        owners = {"person_ids": np.arange(persons), "caption_photos": np.arange(100)}
        feats = type(feats)(photo, photo, text, **owners)
        rows[persons] = evaluate_open_set(feats, [0.1])[0]
    small, large = rows[100], rows[800]
    assert (small["photos"], large["photos"]) == (99, 799)
    assert small["threshold"] + 3 * small["per_doubling"] == pytest.approx(large["threshold"], abs=0.05)


def test_too_few_queries_or_persons():
    feats = tri_split(6, captions=40)
    with pytest.raises(ConfigError, match=r"--false-alarms 0.01: the split has only 30 queries .* at least 0.033"):
        check_open_set(feats, [0.5, 0.01])
    rows = evaluate_open_set(feats, [0.01])
    assert {row["threshold"] for row in rows} == {row["DIR1"] for row in rows} == {None} and thresholds_of(rows) == {}
    assert to_table(rows).splitlines()[1].split()[:6] == ["T->R", "1%", *"----"]
    with pytest.raises(ConfigError, match="the split has 1 person; it needs two"):
        check_open_set(tri_split(7, people=1))


def test_other_modalities_are_tasks_too():
    feats = tri_split(8, photos=20)
    drawn = np.random.default_rng(8).standard_normal((30, 8))
    feats = dataclasses.replace(feats, others={"pencil": Part(drawn, feats.person_ids[:15].repeat(2))})
    rows = evaluate_open_set(feats, [0.5], ["pencil", "text+pencil"])
    assert [row["task"] for row in rows] == ["pencil", "text+pencil", "photo"]
    assert to_table(rows).splitlines()[2].startswith("T+P->R") and all(row["threshold"] < 1 for row in rows)
