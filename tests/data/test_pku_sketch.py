"""The reader of PKU-Sketch: files it reads, tolerates and refuses."""

import json

import pytest
from data.sketch_factory import PKU_STYLES, build_pku, write_style
from data.tri_factory import touch

from ms_unireid.data.pku_sketch import find_root, load_pku_sketch
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch
from ms_unireid.errors import DataError

PERSONS = (1, 3, 5, 7, 12, 20)


def test_happy_path(tmp_path):
    folder = build_pku(tmp_path)
    found = load_pku_sketch(tmp_path)
    assert found.persons == PERSONS and found.captions == {}
    assert [photo.person_id for photo in found.photos] == [person for person in PERSONS for _ in range(2)]
    assert found.photos[4] == PersonPhoto(5, folder / "photo/5_03_55.jpg", 3)
    assert found.photos[5] == PersonPhoto(5, folder / "photo/5_05_35.jpg", 5)
    assert found.sketches[2] == PersonSketch(5, folder / "sketch/5.jpg", "b")
    assert {sketch.person_id: sketch.style for sketch in found.sketches} == {
        person: letter for letter, persons in PKU_STYLES.items() for person in persons
    }
    assert all(record.path.is_file() for record in (*found.photos, *found.sketches))


@pytest.mark.parametrize("name", ["PKUSketchRE-ID_V1", "PKU-Sketch", "PKUSketch"])
def test_root_may_be_the_folder_or_its_parent(tmp_path, name):
    folder = build_pku(tmp_path, folder=name)
    touch(tmp_path / "PKUSketch.zip")
    assert find_root(tmp_path) == find_root(folder) == folder


def test_several_folders_that_could_be_meant(tmp_path):
    build_pku(tmp_path, folder="PKU-1")
    build_pku(tmp_path, folder="PKU-2")
    with pytest.raises(DataError, match=r"several folders could be pku_sketch: PKU-1, PKU-2.*Fix: "):
        find_root(tmp_path)


def test_missing_root(tmp_path):
    touch(tmp_path / "PKU-note.txt")
    with pytest.raises(DataError, match=r"expected the folder PKUSketchRE-ID_V1/.*PKU-note\.txt.*Fix: "):
        find_root(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        find_root(tmp_path / "nowhere")


def test_files_of_file_managers_are_ignored(tmp_path):
    folder = build_pku(tmp_path)
    for name in ("photo/Thumbs.db", "sketch/.DS_Store", "styleAnnotation/desktop.ini", "photo/__MACOSX/._1_03_11.jpg"):
        touch(folder / name)
    assert load_pku_sketch(folder).persons == PERSONS


def test_captions_of_every_person(tmp_path):
    build_pku(tmp_path)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({str(person): [f"person {person}"] for person in PERSONS}), encoding="utf-8")
    assert load_pku_sketch(tmp_path, file).captions[12] == ("person 12",)
    file.write_text(json.dumps({"1": ["only one"]}), encoding="utf-8")
    with pytest.raises(DataError, match="5 of 6 identities have no caption"):
        load_pku_sketch(tmp_path, file)


def remove(folder, name):
    (folder / name).unlink()


def empty_out(folder, name):
    for file in (folder / name).iterdir():
        file.unlink()
    (folder / name).rmdir()


DEFECTS = {
    "no photos": (lambda f: empty_out(f, "photo"), r"photo: the folder is missing; .*sketch/"),
    "no sketches": (lambda f: empty_out(f, "sketch"), r"sketch: the folder is missing"),
    "no styles": (lambda f: empty_out(f, "styleAnnotation"), r"styleAnnotation: the folder is missing"),
    "photo name": (lambda f: touch(f / "photo/1.jpg"), r"files not named ID_CAMERA_FRAME\.jpg: 1 \(1\.jpg\)"),
    "photo kind": (lambda f: touch(f / "photo/1_03_4.txt"), r"files not named ID_CAMERA.*1_03_4\.txt"),
    "sketch name": (lambda f: touch(f / "sketch/x.jpg"), r"files not named ID\.jpg: 1 \(x\.jpg\)"),
    "style name": (lambda f: touch(f / "styleAnnotation/f_2.txt"), r"files not named .*f_2\.txt"),
    "too deep": (
        lambda f: touch(f / "photo/photo/9_03_1.jpg"),
        r"sub-folders, expected directly in photo/: 1 \(photo/9_03_1\.jpg\)",
    ),
    "no photo of one": (
        lambda f: (remove(f, "photo/5_03_55.jpg"), remove(f, "photo/5_05_35.jpg")),
        r"with a sketch and no photo: 1 \(5\)",
    ),
    "no sketch of one": (lambda f: remove(f, "sketch/5.jpg"), r"with photos and no sketch: 1 \(5\)"),
    "two sketches": (lambda f: touch(f / "sketch/005.png"), r"more than one sketch: 1 \(5\)"),
    "one photo": (lambda f: remove(f, "photo/5_03_55.jpg"), r"identities that do not have 2 photos: 1 \(5\)"),
    "three photos": (lambda f: touch(f / "photo/5_03_56.jpg"), r"identities that do not have 2 photos: 1 \(5\)"),
    "unknown in style": (lambda f: write_style(f, "d", (99,), 0), r"without a sketch: 1 \(99\)"),
    "in two styles": (lambda f: write_style(f, "b", (5, 3), 1), r"in two styles.*: 1 \(3\)"),
    "twice in a style": (lambda f: write_style(f, "a", (12, 3, 7, 7), 3), r"twice in one: 1 \(7\)"),
    "two files": (lambda f: write_style(f, "a", (), 4), r"styles with two files: 1 \(a\)"),
    "no style": (lambda f: write_style(f, "a", (12, 3), 3), r"with a sketch and no style: 1 \(7\)"),
    "no file": (lambda f: remove(f, "styleAnnotation/d_0.txt"), r"styles without a file: 1 \(d\)"),
    "count": (lambda f: (f / "styleAnnotation/a_3.txt").rename(f / "styleAnnotation/a_46.txt"), r"a_46\.txt names 3"),
    "not a number": (lambda f: write_style(f, "a", (12, 3, 7, "x y"), 3), r"a_3\.txt: lines .* identity: 1 \(x y\)"),
    "encoding": (
        lambda f: (f / "styleAnnotation/a_3.txt").write_bytes("12\n3\n7\né".encode("utf-16")),
        r"a_3\.txt: not UTF-8 text",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_refused(tmp_path, defect):
    folder = build_pku(tmp_path)
    damage, message = DEFECTS[defect]
    damage(folder)
    with pytest.raises(DataError, match=rf"PKUSketchRE-ID_V1.*({message}).*Fix: "):
        load_pku_sketch(tmp_path)


def test_a_part_is_read_if_allowed(tmp_path):
    folder = build_pku(tmp_path)
    write_style(folder, "a", (12, 3, 7, 46, 47), 3)
    (folder / "styleAnnotation/d_0.txt").unlink()
    (folder / "photo/5_03_55.jpg").unlink()
    with pytest.raises(DataError, match="allow_partial"):
        load_pku_sketch(tmp_path)
    found = load_pku_sketch(tmp_path, allow_partial=True)
    assert found.persons == PERSONS and len(found.photos) == 11


def test_a_part_must_still_be_consistent(tmp_path):
    folder = build_pku(tmp_path)
    (folder / "sketch/5.jpg").unlink()
    with pytest.raises(DataError, match="with photos and no sketch"):
        load_pku_sketch(tmp_path, allow_partial=True)


def test_the_error_names_the_command_that_lists_everything(tmp_path):
    (build_pku(tmp_path) / "sketch/5.jpg").unlink()
    with pytest.raises(DataError, match=r"verify_dataset\.py --dataset pku_sketch --root .*PKUSketchRE-ID_V1$"):
        load_pku_sketch(tmp_path)


def test_real_sample(real_root):
    found = load_pku_sketch(real_root, allow_partial=True)
    assert found.persons == (1, 14, 27, 40, 53, 66, 79, 92, 105, 118, 131, 144, 157, 173)
    assert (len(found.photos), len(found.sketches)) == (28, 14)
    assert {photo.camera for photo in found.photos} == {3, 4, 5, 6, 7}
    styles = {sketch.person_id: sketch.style for sketch in found.sketches}
    assert (styles[105], styles[92], styles[1], styles[157]) == ("a", "b", "c", "e")
    with pytest.raises(DataError, match="allow_partial"):
        load_pku_sketch(real_root)
