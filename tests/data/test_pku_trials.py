"""The trials of PKU-Sketch: drawn by one rule on every machine, stored, read and checked."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from ms_unireid.data.pku_sketch import load_pku_sketch
from ms_unireid.data.pku_trials import TEST_COUNTS, Trial, counts_to_test, trials, write_trials
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch, SketchSet
from ms_unireid.errors import DataError

SIZES = {"a": 46, "b": 20, "c": 79, "d": 33, "e": 22}


def sketch_set(sizes=SIZES, shuffled=None) -> SketchSet:
    """Return a set with as many persons of each style, numbered through."""
    letters = [letter for letter, size in sizes.items() for _ in range(size)]
    sketches = [PersonSketch(person, Path(f"{person}.jpg"), letter) for person, letter in enumerate(letters, 1)]
    if shuffled is not None:
        random.Random(shuffled).shuffle(sketches)
    photos = tuple(PersonPhoto(sketch.person_id, Path("x.jpg"), 3) for sketch in sketches)
    return SketchSet(photos, tuple(sketches))


def test_the_whole_data_set_is_divided_as_the_field_does():
    data = sketch_set()
    style = {sketch.person_id: sketch.style for sketch in data.sketches}
    found = trials(data)
    assert len(found) == 10 and len(set(found)) == 10
    for trial in found:
        assert (len(trial.train), len(trial.test)) == (150, 50)
        assert sorted(trial.train + trial.test) == list(range(1, 201))
        assert trial.train == tuple(sorted(trial.train)) and trial.test == tuple(sorted(trial.test))
        assert {letter: sum(style[person] == letter for person in trial.test) for letter in SIZES} == dict(TEST_COUNTS)


def test_the_rule_is_the_one_that_is_written_down():
    def rank(person):
        return hashlib.sha256(f"pku_sketch/5/3/{person}".encode()).hexdigest()

    drawn = {*sorted(range(1, 47), key=rank)[:11], *sorted(range(47, 67), key=rank)[:5]}
    third = trials(sketch_set(), 3, seed=5)[2]
    assert {person for person in third.test if person <= 66} == drawn


def test_the_same_everywhere():
    assert trials(sketch_set(), 1)[0].test[:11] == (1, 8, 12, 14, 16, 25, 26, 32, 33, 36, 37)  # by sha256sum


def test_the_order_of_the_files_does_not_matter_and_the_seed_does():
    assert trials(sketch_set(shuffled=1)) == trials(sketch_set(shuffled=2)) == trials(sketch_set())
    assert trials(sketch_set(), seed=1) != trials(sketch_set())
    assert trials(sketch_set(), 3) == trials(sketch_set())[:3]


def test_persons_are_tested_about_equally_often():
    tested = [person for trial in trials(sketch_set(), 400) for person in trial.test]
    counts = [tested.count(person) for person in range(1, 47)]  # style a: 400 * 11 / 46 = 95.7, deviation 8.5
    assert min(counts) > 55 and max(counts) < 140


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (SIZES, {"a": 11, "b": 5, "c": 20, "d": 8, "e": 6}),
        ({"a": 4, "b": 1, "c": 7, "e": 2}, {"a": 1, "b": 0, "c": 2, "e": 1}),
        ({"a": 23, "c": 2}, {"a": 6, "c": 1}),
        ({"a": 2, "d": 3}, {"a": 1, "d": 1}),
    ],
)
def test_a_part_is_divided_in_proportion(sizes, expected):
    assert counts_to_test(sizes) == expected
    if sizes != SIZES:
        assert len(trials(sketch_set(sizes), 1)[0].test) == sum(expected.values())


def test_stored_trials_come_back_and_say_how_they_were_made(tmp_path):
    file = tmp_path / "pku_sketch_trials.json"
    write_trials(file, sketch_set(), seed=4)
    assert trials(sketch_set(shuffled=3), file=file) == trials(sketch_set(), seed=4)
    assert trials(sketch_set(), 2, file=file) == trials(sketch_set(), 2, seed=4)
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored["seed"] == 4 and "SHA-256" in stored["rule"] and stored["data_set"] == "pku_sketch"
    assert stored["styles"]["c"] == {"identities": 79, "test": 20}
    assert stored["trials"][0] == list(trials(sketch_set(), seed=4)[0].test)


def test_a_file_by_hand_needs_the_trials_only(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"trials": [[3, 1], ["2"]]}', encoding="utf-8")
    assert trials(sketch_set({"a": 3}), 2, file=file) == (Trial((2,), (1, 3)), Trial((1, 3), (2,)))


def test_index_lists_of_the_field(tmp_path):
    for number, rows in enumerate((["sketch/3.jpg 3 0 1", "sketch/1.jpg 1 0 4"], ["sketch/2.jpg 2 0 1", ""]), 1):
        (tmp_path / f"test_sketch_{number}.txt").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "train_sketch_1.txt").write_text("not read", encoding="utf-8")
    assert trials(sketch_set({"a": 3}), 2, file=tmp_path) == (Trial((2,), (1, 3)), Trial((1, 3), (2,)))


WRONG = {
    "{": "truncated or damaged",
    "[[1]]": "expected an object with 'trials'",
    '{"trials": {"1": [1]}}': "expected an object with 'trials'",
    '{"trials": [1]}': "expected an object with 'trials'",
    '{"trials": [["x"]]}': "must be an integer",
    '{"trials": [[1]], "styles": {"a": {"identities": 46, "test": 11}}}': "made for styles .*46.*expected .*3",
    '{"trials": [[1]], "styles": "a"}': "made for styles 'a'",
    '{"trials": [[1, 9, 8]]}': "trial 1: 2 identities are not in the data set: 8, 9",
    '{"trials": [[1, 2, 1]]}': "trial 1: 1 identities occur twice: 1",
    '{"trials": [[]]}': "trial 1: 0 of 3 identities",
    '{"trials": [[1, 2, 3]]}': "trial 1: 3 of 3 identities",
    '{"trials": []}': "0 trials, expected 1",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_file_that_does_not_fit_is_refused(tmp_path, text):
    file = tmp_path / "trials.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"trials\.json.*{WRONG[text]}.*Fix: "):
        trials(sketch_set({"a": 3}), 1, file=file)


@pytest.mark.parametrize(
    ("names", "row", "message"),
    [
        ([], "", "expected test_sketch_1.txt"),
        ([2], "sketch/1.jpg 1 0 1", "expected test_sketch_1.txt"),
        ([1], "sketch/1.jpg", "test_sketch_1.txt, line 1: expected sketch/ID.jpg"),
        ([1], "sketch/1.jpg 2 0 1", "test_sketch_1.txt, line 1: expected sketch/ID.jpg"),
        ([1], "sketch/9.jpg 9 0 1", "trial 1: 1 identities are not in the data set"),
    ],
)
def test_index_lists_that_do_not_fit_are_refused(tmp_path, names, row, message):
    for number in names:
        (tmp_path / f"test_sketch_{number}.txt").write_text(row, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{message}.*Fix: "):
        trials(sketch_set({"a": 3}), 1, file=tmp_path)


def test_styles_are_needed():
    data = SketchSet((), (PersonSketch(1, Path("1.jpg"), None), PersonSketch(2, Path("2.jpg"), "a")))
    with pytest.raises(DataError, match=r"1 of 2 persons have no style .*: 1\. Fix: "):
        trials(data)
    with pytest.raises(DataError, match=r"0 trials requested.*Fix: "):
        trials(sketch_set(), 0)


def test_real_sample(real_root):
    data = load_pku_sketch(real_root, allow_partial=True)
    found = trials(data)
    assert len(set(found)) > 5
    assert all(len(trial.test) == 4 and len(trial.train) == 10 for trial in found)
    assert sum(photo.person_id in found[0].test for photo in data.photos) == 8
