"""The reader of Market-Sketch-1K: files it reads, tolerates and refuses."""

import json
import shutil

import pytest
from data.sketch_factory import build_market
from data.tri_factory import touch

from ms_unireid.data.market_sketch import find_root, load_market_sketch
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch
from ms_unireid.errors import DataError


def test_both_splits(tmp_path):
    folder = build_market(tmp_path)
    train, test = load_market_sketch(tmp_path, "train"), load_market_sketch(tmp_path, "test")
    assert (train.persons, test.persons) == ((2, 7), (1, 3))
    assert [(sketch.person_id, sketch.style) for sketch in train.sketches] == [(2, s) for s in "ABCDEF"] + [
        (7, s) for s in "ABF"
    ]
    assert train.sketches[7] == PersonSketch(7, folder / "sketch/B/train/0007_B.jpg", "B")
    assert train.photos[2] == PersonPhoto(7, folder / "photo/train/0007_c1s1_000751_01.jpg", 1)
    assert [photo.camera for photo in train.photos] == [1, 6, 1, 6]
    assert all(record.path.is_file() for record in (*test.photos, *test.sketches))


def test_the_gallery_has_distractors_and_persons_nobody_drew_and_no_junk(tmp_path):
    build_market(tmp_path)
    gallery = [photo.person_id for photo in load_market_sketch(tmp_path, "test").photos]
    assert gallery == [0, 1, 1, 3, 3, 9]


def test_some_artists(tmp_path):
    build_market(tmp_path)
    found = load_market_sketch(tmp_path, "test", artists="CA")
    assert [(sketch.person_id, sketch.style) for sketch in found.sketches] == [(1, "A"), (1, "C")]
    assert len(found.photos) == 6


@pytest.mark.parametrize("name", ["0002_A.jpg", "0002.jpg", "0002_c1s1_000451_03.png", "0002_2_1.JPG"])
def test_what_follows_the_identity_in_a_sketchs_name_is_free(tmp_path, name):
    folder = build_market(tmp_path)
    (folder / "sketch/A/train/0002_A.jpg").rename(folder / "sketch/A/train" / name)
    first = load_market_sketch(tmp_path, "train").sketches[0]
    assert (first.person_id, first.path.name) == (2, name)


@pytest.mark.parametrize("name", ["Market-Sketch-1K", "MaSk1K", "market1k", "mask1k"])
def test_root_may_be_the_folder_or_its_parent(tmp_path, name):
    folder = build_market(tmp_path, name)
    (tmp_path / "Market-1501-v15.09.15").mkdir()
    assert find_root(tmp_path) == find_root(folder) == folder


def test_all_photos_of_market_1501_can_stand_in(tmp_path):
    folder = build_market(tmp_path)
    whole = tmp_path / "Market-1501-v15.09.15"
    (folder / "photo/train").rename(folder / "photo/bounding_box_train")
    (folder / "photo/query").rename(folder / "photo/bounding_box_test")
    (folder / "photo").rename(whole)
    touch(whole / "bounding_box_train/0010_c4s6_000101_01.jpg.jpg")
    touch(whole / "bounding_box_train/Thumbs.db")
    photos = load_market_sketch(tmp_path, "train", market1501=whole).photos
    assert [photo.person_id for photo in photos] == [2, 2, 7, 7, 10]
    assert photos[-1].path == whole / "bounding_box_train/0010_c4s6_000101_01.jpg.jpg"
    assert len(load_market_sketch(tmp_path, "test", market1501=whole).photos) == 6


def test_captions_may_cover_both_splits(tmp_path):
    build_market(tmp_path)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({str(person): [f"person {person}"] for person in (1, 2, 3, 7)}), encoding="utf-8")
    assert load_market_sketch(tmp_path, "test", captions=file).captions == {1: ("person 1",), 3: ("person 3",)}
    file.write_text(json.dumps({"1": ["x"], "3": ["x"], "9": ["x"]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"identities that the data set does not have: 9"):
        load_market_sketch(tmp_path, "test", captions=file)


DEFECTS = {
    "photos": (lambda f: shutil.rmtree(f / "photo"), r"photo/train: the folder is missing; .*photo does not exist"),
    "train photos": (lambda f: shutil.rmtree(f / "photo/train"), r"photo/train: the folder is missing; .*query/"),
    "an artist": (
        lambda f: shutil.rmtree(f / "sketch/D"),
        r"sketch/D/train: the folder is missing; .*does not exist",
    ),
    "an artist's part": (lambda f: shutil.rmtree(f / "sketch/D/train"), r"sketch/D/train: the folder is missing"),
    "nothing in it": (
        lambda f: (f / "sketch/D/train/0002_D.jpg").unlink(),
        r"sketch/D/train: the folder has no file",
    ),
    "photo name": (lambda f: touch(f / "photo/train/12_c1s1.jpg"), r"files not named Market-1501's.*: 1 \(12_c1s1"),
    "no camera": (lambda f: touch(f / "photo/train/0012.jpg"), r"files not named Market-1501's"),
    "sketch name": (lambda f: touch(f / "sketch/A/train/00025.jpg"), r"sketch/A/train: .* four digits.*: 1 \(00025"),
    "too deep": (lambda f: touch(f / "sketch/A/train/train/0002.jpg"), r"sub-folders.*train/0002\.jpg"),
    "no photo": (lambda f: touch(f / "sketch/A/train/0005.jpg"), r"photo/train: .*a sketch and no photo: 1 \(5\)"),
    "only junk": (lambda f: touch(f / "sketch/A/train/-1_A.jpg"), r"sketch/A/train: files not named"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_refused(tmp_path, defect):
    folder = build_market(tmp_path)
    damage, message = DEFECTS[defect]
    damage(folder)
    with pytest.raises(DataError, match=rf"Market-Sketch-1K/.*{message}.*Fix: .*verify_dataset\.py --dataset market"):
        load_market_sketch(tmp_path, "train")


def test_unknown_splits_artists_and_roots(tmp_path):
    build_market(tmp_path)
    with pytest.raises(DataError, match=r"no split 'query'.*train, test"):
        load_market_sketch(tmp_path, "query")
    for artists in ("", "AG", "a"):
        with pytest.raises(DataError, match=rf"no artists '{artists}'.*ABCDEF"):
            load_market_sketch(tmp_path, "train", artists)
    with pytest.raises(DataError, match=r"expected the folder Market-Sketch-1K/.*Fix: "):
        load_market_sketch(tmp_path / "nowhere", "train")
