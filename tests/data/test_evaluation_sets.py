"""Evaluation sets of each kind of data set: persons of the queries, cameras, trials and missing splits."""

import json
from pathlib import Path

import numpy as np
import pytest
from data.sketch_factory import MARKET_TEST, PKU_STYLES, build_market, build_pku
from data.tri_factory import build, entry, put_picture

from ms_unireid.config import DataConfig
from ms_unireid.data.annotations import Annotation
from ms_unireid.data.evaluation_sets import from_annotations, load_evaluation_set
from ms_unireid.errors import DataError

PERSONS = sorted(person for persons in PKU_STYLES.values() for person in persons)


def pku(root: Path, **settings) -> DataConfig:
    build_pku(root, put=put_picture)
    return DataConfig("pku_sketch", str(root), allow_partial=True, **settings)


def write(file: Path, content: object) -> str:
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)


def test_pku_sketch_with_captions(tmp_path):
    captions = {str(person): [f"person {person}"] * (1 + person % 2) for person in PERSONS}
    data = load_evaluation_set(pku(tmp_path, captions=write(tmp_path / "c.json", captions)), "test")
    assert data.person_ids.tolist() == [person for person in PERSONS for _ in range(2)]
    assert data.sketch_persons.tolist() == PERSONS
    assert [int(sketch.stem) for sketch in data.sketches] == PERSONS
    assert [int(photo.name.split("_")[0]) for photo in data.photos] == data.person_ids.tolist()
    assert [f"person {person}" for person in data.caption_persons] == list(data.captions)
    assert len(data.captions) == sum(1 + person % 2 for person in PERSONS)
    letters = {person: letter for letter, persons in PKU_STYLES.items() for person in persons}
    assert list(data.styles) == [letters[person] for person in PERSONS]
    assert data.caption_photos is None and data.cameras.tolist() == [3, 5] * len(PERSONS)
    assert len(data.trials) == 10 and all(set(persons) < set(PERSONS) for persons in data.trials)


def test_pku_sketch_without_captions_has_none(tmp_path):
    data = load_evaluation_set(pku(tmp_path), "test")
    assert data.captions == () and data.caption_persons.shape == (0,) and data.caption_persons.dtype.kind == "i"


def test_trials_of_a_file(tmp_path):
    drawn = [[PERSONS[i % 6]] for i in range(10)]
    data = load_evaluation_set(pku(tmp_path, trials=write(tmp_path / "t.json", {"trials": drawn})), "test")
    assert [persons.tolist() for persons in data.trials] == drawn


@pytest.mark.parametrize("split", ["train", "val"])
def test_pku_sketch_has_no_other_split(tmp_path, split):
    with pytest.raises(DataError, match=rf"pku_sketch has no split '{split}'. Fix: use test"):
        load_evaluation_set(pku(tmp_path), split)


def test_market_sketch(tmp_path):
    build_market(tmp_path, put=put_picture)
    data = load_evaluation_set(DataConfig("market_sketch", str(tmp_path)), "test")
    assert data.person_ids.tolist() == [0, 1, 1, 3, 3, 9]
    assert data.sketch_persons.tolist() == [p for p, artists in MARKET_TEST.items() for _ in artists]
    assert "".join(data.styles) == "".join(MARKET_TEST.values())
    assert data.trials == () and data.captions == ()
    with pytest.raises(DataError, match="no split 'val'"):
        load_evaluation_set(DataConfig("market_sketch", str(tmp_path)), "val")


@pytest.mark.parametrize("name", ["pku_sketch", "market_sketch"])
def test_a_sketch_that_is_no_picture(tmp_path, name):
    folder = {"pku_sketch": build_pku, "market_sketch": build_market}[name](tmp_path, put=put_picture)
    sketch = next((folder / "sketch").rglob("*1*.jpg"))
    sketch.write_bytes(b"no")
    with pytest.raises(DataError, match=sketch.name):
        load_evaluation_set(DataConfig(name, str(tmp_path), allow_partial=True), "test")


def test_a_tri_data_set(tmp_path):
    entries = [
        entry("rstp_reid", "test", 7 + i // 2, f"{7 + i // 2:04}_c{i + 1}_000{i}.jpg", ("a", f"b{i}")) for i in range(4)
    ]
    folder = build(tmp_path, "rstp_reid", entries)
    for file in folder.rglob("*.jpg"):
        put_picture(file)
    data = load_evaluation_set(DataConfig("rstp_reid", str(tmp_path), allow_identity_gaps=True), "test")
    assert data.person_ids.tolist() == [7, 7, 8, 8] == data.sketch_persons.tolist()
    assert data.captions == ("a", "b0", "a", "b1", "a", "b2", "a", "b3")
    assert data.caption_photos.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert data.caption_persons.tolist() == [7, 7, 7, 7, 8, 8, 8, 8]
    assert data.cameras.tolist() == [1, 2, 3, 4]


# Names as the two data sets have them.
NAMED = [
    ("rstp_reid", ["0000_c14_0029.jpg", "3700_c1_0007.jpg"], [14, 1]),
    ("icfg_pedes", ["0000_000_05_0303morning_0008_2.jpg", "1467_012_15_0114afternoon_0971_0_ex.jpg"], [5, 15]),
    ("rstp_reid", ["0000_c14_0029.jpg", "other.jpg"], None),
    ("cuhk_pedes", ["0000_c14_0029.jpg"], None),
]


@pytest.mark.parametrize(("name", "photos", "cameras"), NAMED)
def test_cameras_of_photos_names(name, photos, cameras):
    made = [Annotation(i, Path(photo), {"sketch": (Path("s") / photo,)}, ("x",)) for i, photo in enumerate(photos)]
    found = from_annotations(made, name).cameras
    assert (found if found is None else np.asarray(found).tolist()) == cameras
