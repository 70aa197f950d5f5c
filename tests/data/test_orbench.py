"""The reader of ORBench: what it reads, and each defect that it refuses; and the verifier's report on the same."""

import json

import numpy as np
import pytest
from data.orbench_factory import (
    TEST_PERSONS,
    TRAIN_FOLDERS,
    build_orbench,
    caption,
    pictures,
    query_rows,
    training_entries,
    write,
)
from data.tri_factory import touch

from ms_unireid.apps.checks.dataset import verify
from ms_unireid.config import DataConfig
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.data.orbench import TASKS, read_orbench
from ms_unireid.errors import DataError
from ms_unireid.modalities import symbol, written_parts

ALL = ("sketch", "pencil", "infrared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_orbench(tmp_path_factory.mktemp("orbench"))


def settings(folder, modalities=ALL):
    return DataConfig(name="orbench", root=str(folder), modalities=modalities)


def test_the_32_tasks():
    sizes = [len(written_parts(task)) for task in TASKS.values()]
    assert [sizes.count(size) for size in (1, 2, 3, 4)] == [4, 12, 12, 4]
    assert len(set(TASKS.values())) == 32
    assert {"TEXT+CP+SK", "SK+NIR+CP", "TEXT+NIR+CP", "NIR+CP+SK+TEXT", "TEXT+NIR+CP+SK"} <= TASKS.keys()
    assert (TASKS["TEXT+SK"], TASKS["SK+TEXT"], TASKS["NIR+TEXT"]) == ("fusion", "sketch+text", "infrared+text")
    assert [symbol(TASKS[key]) for key in ("TEXT+SK", "SK+TEXT", "CP+NIR+SK")] == ["T+S->R", "S+T->R", "P+I+S->R"]


def test_a_training_photo_has_all_pictures_of_its_person(folder):
    found = read_orbench(folder.parent, ALL).checked_annotations(["train", "test"])
    assert [(a.person_id, a.pictures, a.captions) for a in found["test"][:4]] == [(2, {}, ())] * 3 + [(5, {}, ())]
    assert len(found["train"]) == 12
    second = found["train"][4]
    assert (second.person_id, second.photo, second.captions) == (2, folder / "vis/0001/1.png", (caption(2, 1),))
    assert {name: len(paths) for name, paths in second.pictures.items()} == {"sketch": 2, "pencil": 2, "infrared": 3}
    assert {path.parent.name for paths in second.pictures.values() for path in paths} == {TRAIN_FOLDERS[2]}


def test_queries_are_the_rows_of_the_file(folder):
    data, rows = load_evaluation_set(settings(folder), "test"), query_rows()
    assert data.photos == tuple(folder / photo for _, photo in rows["RGB_GALLERY"])
    assert set(data.given) == set(TASKS.values())
    parts = {
        "text": (data.captions, data.caption_persons),
        "sketch": (data.sketches, data.sketch_persons),
        **{name: (part.paths, part.persons) for name, part in data.others.items()},
    }
    for key, task in TASKS.items():
        for row, indices in zip(rows[key], data.given[task], strict=True):
            for name, item, index in zip(written_parts(task), row[1:], indices, strict=True):
                items, persons = parts[name]
                assert items[index] == (item if name == "text" else folder / item) and persons[index] == row[0]
    assert len(data.captions) == 9 and len(data.others["infrared"].paths) == 9


def test_only_the_tasks_of_the_modalities_that_are_read(folder):
    data = load_evaluation_set(settings(folder, ("sketch",)), "test")
    assert set(data.given) == {"text", "sketch", "fusion", "sketch+text"} and data.others == {}
    texts = load_evaluation_set(settings(folder, ()), "test")
    assert set(texts.given) == {"text"} and texts.sketches == ()


def test_train_has_no_queries(folder):
    with pytest.raises(DataError, match=r"orbench has no queries of split 'train'\. Fix: evaluate and select on test"):
        load_evaluation_set(settings(folder), "train")


def test_unknown_modality(folder):
    with pytest.raises(DataError, match=r"no pictures of thermal\. Fix: name some of infrared, pencil, sketch"):
        read_orbench(folder, ("thermal",))


def entry(**changes):
    """Change the second entry; None leaves a key out."""
    entries = training_entries()
    entries[1] = {key: value for key, value in (entries[1] | changes).items() if value is not None}
    return lambda folder: write(folder, "train_annos.json", entries)


def rows(key, change):
    """Change the first row of a task."""
    found = query_rows()
    found[key][0] = change(found[key][0])
    return lambda folder: write(folder, "test_gallery_and_queries.json", found)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def content(file, value):
    return lambda folder: (folder / file).write_text(value, encoding="utf-8")


def tasks(**changes):
    found = {key: value for key, value in (query_rows() | changes).items() if value is not None}
    return lambda folder: write(folder, "test_gallery_and_queries.json", found)


TRAIN, TEST = "train_annos.json", "test_gallery_and_queries.json"
TRAIN_DEFECTS = {
    "no file": (remove(TRAIN), r"train_annos\.json: cannot be read"),
    "cut": (content(TRAIN, '[{"id": 1'), r"train_annos\.json: not valid JSON"),
    "other form": (content(TRAIN, "{}"), r"train_annos\.json: expected a JSON list with one object per photo"),
    "no object": (lambda f: write(f, TRAIN, [7, *training_entries()]), r"entry 0: expected an object, found int"),
    "no caption": (entry(caption=None), r"entry 1: the key 'caption' is missing"),
    "captions": (entry(caption=["two"]), r"entry 1: a caption must be Unicode text"),
    "blank": (entry(caption=" "), r"entry 1: a caption must be Unicode text that is not blank"),
    "id": (entry(id="one"), r"entry 1: 'id' must be an integer"),
    "leaves": (entry(file_path="vis/../../x.png"), r"entry 1: the picture's path .* leaves"),
    "absolute": (entry(file_path="/vis/0003/0.png"), r"entry 1: the picture's path .* leaves"),
    "other place": (entry(file_path="nir/0003/0.png"), r"entry 1: the path of a picture must be vis/PERSON/NAME"),
    "too deep": (entry(file_path="vis/0003/a/0.png"), r"entry 1: the path of a picture must be vis/PERSON/NAME"),
    "gap": (
        lambda f: write(f, TRAIN, [one for one in training_entries() if int(one["id"]) != 2]),
        r"missing identities of the numbers 1 to 3: 1 \(2\)",
    ),
    "two ids": (entry(id=2), r"folders of several persons: 1 \(0003 of \[1, 2\]\)"),
    "no photo": (remove("vis/0003/1.png"), r"missing pictures, by folder vis 1 of 12: 1 \(vis/0003/1\.png\)"),
    "no folder": (remove("cp/0010/0.png", "cp/0010/1.png"), r"training persons without pencil pictures: 1 \(cp/0010\)"),
    "damaged": (content("nir/0007/2.png", "x"), r"1 of \d+ pictures cannot be used.*nir/0007/2\.png"),
}
TEST_DEFECTS = {
    "no file": (remove(TEST), r"test_gallery_and_queries\.json: cannot be read"),
    "other form": (content(TEST, "[]"), r"expected a JSON object with the gallery"),
    "no gallery": (tasks(RGB_GALLERY=None), r"missing lists of rows: 1 \(RGB_GALLERY\)"),
    "no task": (tasks(NIR=None), r"missing lists of rows: 1 \(NIR\)"),
    "empty": (tasks(CP=[]), r"empty lists of rows: 1 \(CP\)"),
    "no list": (tasks(CP={"1": 2}), r"CP: expected a list of rows, found dict"),
    "unknown": (tasks(NIR2=[]), r"unknown tasks: 1 \('NIR2'\)"),
    "short": (
        rows("NIR+TEXT", lambda row: row[:2]),
        r"NIR\+TEXT, row 0: expected a list of a person and 2 of NIR\+TEXT",
    ),
    "long": (rows("SK", lambda row: [*row, "x"]), r"SK, row 0: expected a list of a person and 1"),
    "order": (rows("NIR+TEXT", lambda row: [row[0], row[2], row[1]]), r"NIR\+TEXT, row 0: the path .* nir/PERSON/NAME"),
    "person": (rows("TEXT", lambda row: ["?", *row[1:]]), r"TEXT, row 0: 'id' must be an integer"),
    "caption": (rows("TEXT", lambda row: [row[0], 5]), r"TEXT, row 0: a caption must be Unicode text"),
    "leaves": (rows("CP", lambda row: [row[0], "cp/../x.png"]), r"CP, row 0: the picture's path .* leaves"),
    "gallery": (rows("RGB_GALLERY", lambda row: [row[0], "sk/0002/0.png"]), r"RGB_GALLERY, row 0: .* vis/PERSON/NAME"),
    "no picture": (remove("sk/0005/1.png"), r"missing pictures, by folder sk 1 of 4: 1 \(sk/0005/1\.png\)"),
    "letter case": (
        lambda f: (f / "vis/0005/1.png").rename(f / "vis/0005/1.PNG"),
        r"vis/0005/1\.png\)\. Fix: rename 1 that differ only in extension, letter case",
    ),
    "damaged": (content("cp/0008/0.png", "x"), r"1 of \d+ pictures cannot be used.*cp/0008/0\.png"),
}


@pytest.mark.parametrize("defect", TRAIN_DEFECTS)
def test_training_is_refused(tmp_path, defect):
    damage, message = TRAIN_DEFECTS[defect]
    damage(build_orbench(tmp_path))
    with pytest.raises(DataError, match=rf"({message}).*Fix: ") as refused:
        read_orbench(tmp_path, ALL).checked_annotations(["train"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("defect", TEST_DEFECTS)
def test_evaluation_is_refused(tmp_path, defect):
    damage, message = TEST_DEFECTS[defect]
    damage(build_orbench(tmp_path))
    with pytest.raises(DataError, match=message) as refused:
        load_evaluation_set(settings(tmp_path), "test")
    assert "Fix: " in str(refused.value) and "\n" not in str(refused.value)


def test_gaps_by_option_and_only_what_is_asked_for(tmp_path):
    folder = build_orbench(tmp_path, put=touch)
    entry(id=9, file_path="vis/0099/1.png")(folder)
    data = read_orbench(folder, ())
    with pytest.raises(DataError, match=r"numbers 1 to 5.*allow_identity_gaps"):
        data.checked_annotations(["train"])
    with pytest.raises(
        DataError, match=r"missing pictures, by folder vis 1 of 12.*verify_dataset\.py --dataset orbench --root"
    ):
        data.checked_annotations(["train"], allow_identity_gaps=True)


def test_verify_counts_and_finds_everything(tmp_path):
    folder = build_orbench(tmp_path)
    report = verify("orbench", tmp_path)
    assert report.problems == 0, [found for found in report.findings if found.state == "problem"]
    counts = {(row.split, row.what): row.found for row in report.counts}
    sizes = {("train", "identities"): 4, ("test", "identities"): 3, ("all", "photos"): 21, ("all", "captions"): 21}
    assert sizes.items() <= counts.items()
    named = [*TRAIN_FOLDERS.values(), *(f"{person:04}" for person in TEST_PERSONS)]
    for kind, place in (("infrared", "nir"), ("pencil", "cp"), ("sketches", "sk")):
        assert counts["all", kind] == sum(len(pictures(place, name)) for name in named)
    remove("nir/0001/0.png", "nir/0001/1.png", "nir/0001/2.png", "sk/0005/0.png")(folder)
    broken = training_entries()
    broken[0]["id"], broken[1]["caption"] = None, ""
    write(folder, TRAIN, broken)
    said = json.dumps([found.detail for found in verify("orbench", folder).findings if found.state == "problem"])
    for words in ("malformed entries: 2", "without infrared pictures: 1", "missing pictures"):
        assert words in said
    remove(TEST)(folder)
    assert verify("orbench", folder).problems == 3


def test_a_person_in_both_splits_is_found_by_verify(tmp_path):
    folder = build_orbench(tmp_path)
    found = query_rows()
    found["RGB_GALLERY"].append([3, "vis/0007/0.png"])
    write(folder, TEST, found)
    details = [found.detail for found in verify("orbench", folder).findings if found.state == "problem"]
    assert details == ["persons in both splits: 1"]


def test_given_indices_have_a_column_for_each_modality(folder):
    given = load_evaluation_set(settings(folder), "test").given
    assert all(rows.shape[1] == len(written_parts(task)) and rows.dtype == np.int64 for task, rows in given.items())
