"""The paper's four rows on a split computed by hand, and on a random one by definition."""

from dataclasses import asdict

import numpy as np
import pytest
from evaluation.splits import tri_split

from ms_unireid.config import TASKS
from ms_unireid.evaluation.protocols import PAPER_ROWS, evaluate_row
from ms_unireid.evaluation.queries import SplitFeatures, make_queries
from ms_unireid.modalities import symbol
from reference import metrics as reference

NAMES = ("R1", "R5", "R10", "mAP", "mINP")


def hand_made():
    """Photos 0 and 1 show person 7, photo 2 person 8, photos 3 and 4 person 9; photo 3 has two captions."""
    photo = np.eye(5, 8)
    sketch = np.array([photo[1], photo[2], photo[2], photo[3], photo[0] + photo[4]])
    text = np.array([photo[0] + 0.5 * photo[1], photo[2] + 0.5 * photo[0], photo[2], photo[3], photo[4], photo[3]])
    persons, owners = np.array([7, 7, 8, 9, 9]), np.array([0, 1, 2, 3, 3, 4])
    return SplitFeatures(photo, sketch, text, person_ids=persons, caption_photos=owners)


def by_definition(task, protocol, feats):
    """Loop over the queries as the paper describes its evaluation."""
    rows, image_ids = [], []
    for photo in range(len(feats.photo)):
        if task == "sketch":
            rows.append(feats.sketch[photo])
            image_ids.append(photo)
            continue
        for caption in np.flatnonzero(feats.caption_photos == photo):
            rows.append(feats.text[caption] + (feats.sketch[photo] if task == "fusion" else 0))
            image_ids.append(photo)
    people, keep = feats.person_ids[image_ids], None
    if protocol == "exclude_source_photo":
        keep = reference.keep_without_source(people, image_ids, feats.person_ids, range(len(feats.photo)))
    unit = [np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, feats.photo)]
    return reference.evaluate(unit[0] @ unit[1].T, people, feats.person_ids, keep)


def test_the_papers_rows():
    assert set(PAPER_ROWS) == {(t, "exclude_source_photo") for t in TASKS} | {("text", "full_gallery")}
    assert [symbol(task) for task in TASKS] == ["T->R", "S->R", "T+S->R"]


def test_queries():
    feats = hand_made()
    assert [len(make_queries(task, feats).feats) for task in ("text", "sketch", "fusion")] == [6, 5, 6]
    fused = make_queries("fusion", feats)
    assert fused.photos.tolist() == [0, 1, 2, 3, 3, 4]
    np.testing.assert_array_equal(fused.feats[4], feats.text[4] + feats.sketch[3])
    np.testing.assert_array_equal(make_queries("sketch", feats).photos, np.arange(5))


# Computed by hand; ties keep gallery order, and caption 2 and sketch 2 have no match without their photo.
BY_HAND = {
    ("text", "full_gallery"): {"R1": 500 / 6, "mAP": 100 * (1 + (1 / 2 + 2 / 3) / 2 + 1 + 3 * 0.7) / 6, "queries": 6},
    ("text", "exclude_source_photo"): {"R1": 60, "mAP": 75, "queries": 5},  # first ranks 1 2 - 4 1 1
    ("sketch", "exclude_source_photo"): {"R1": 25, "mAP": 50, "queries": 4},  # 1 2 - 4 4
    ("fusion", "exclude_source_photo"): {"R1": 40, "mAP": 65, "queries": 5},  # 1 2 - 4 1 2
}


@pytest.mark.parametrize(("task", "protocol"), PAPER_ROWS)
def test_hand_made_split(task, protocol):
    found, definition = evaluate_row(task, protocol, hand_made()), by_definition(task, protocol, hand_made())
    assert {n: asdict(found)[n] for n in NAMES} == pytest.approx({n: definition[n] for n in NAMES}, rel=0, abs=1e-12)
    assert {n: asdict(found)[n] for n in ("R1", "mAP", "queries")} == pytest.approx(BY_HAND[task, protocol])
    assert found.queries_without_match == (protocol == "exclude_source_photo")


def test_leaving_the_source_out_is_harder():
    feats = tri_split(5)
    owners = {"person_ids": feats.person_ids, "caption_photos": feats.caption_photos}
    feats = SplitFeatures(feats.photo, feats.photo, feats.text, **owners)
    full, excluded = (evaluate_row("sketch", protocol, feats) for protocol in ("full_gallery", "exclude_source_photo"))
    assert full.R1 == 100
    assert excluded.R1 < 100


def test_features_must_be_finite():
    feats = hand_made()
    feats.sketch[2, 1] = np.nan
    assert evaluate_row("text", "full_gallery", feats).queries == 6
    with pytest.raises(ValueError, match="NaN"):
        evaluate_row("fusion", "full_gallery", feats)
