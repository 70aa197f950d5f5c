"""Lists of photos, of a data set or a folder, with their persons."""

import os

import pytest
from data.tri_factory import build, entry, put_picture, touch

from ms_unireid.data.photo_sets import dataset_photos, describe_left_out, folder_photos
from ms_unireid.data.tri_pedes import DATASETS
from ms_unireid.errors import ConfigError, DataError


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_data_set_needs_no_sketches_and_not_all_photos(tmp_path, name):
    entries = [entry(name, "train", 5, "cam/b.jpg"), entry(name, "test", 7, "cam/a.jpg")]
    folder = build(tmp_path, name, entries)
    (folder / "imgs" / "cam" / "b.jpg").unlink()
    touch(folder / "imgs" / "cam" / "unnamed.jpg")
    found = dataset_photos(name, tmp_path)
    assert found.names == ("cam/a.jpg", "cam/b.jpg") and found.folder == folder / "imgs"
    assert found.identities == {"cam/b.jpg": 5, "cam/a.jpg": 7}
    assert found.splits == {"cam/b.jpg": "train", "cam/a.jpg": "test"}
    assert found.sketches == folder / DATASETS[name].sketch_folder


def test_a_folder_gives_its_visible_pictures(tmp_path):
    for name in ("b.JPG", "x/a.png", "x/.hidden.png", ".x/c.png"):
        put_picture(tmp_path / name)
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "x" / "README")
    found = folder_photos(tmp_path, r"([ab])\.")
    assert found.names == ("b.JPG", "x/a.png") and found.identities == {"b.JPG": "b", "x/a.png": "a"}
    assert found.left_out == ("notes.txt", "x/README")
    assert describe_left_out(found.left_out) == "left out, no pictures: 2 (notes.txt, x/README)"
    with pytest.raises(DataError, match="no such folder"):
        folder_photos(tmp_path / "none")


def test_links_to_nothing_and_pipes_are_listed(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "unplugged" / "a.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "unplugged" / "b")
    os.mkfifo(tmp_path / "c.png")
    found = folder_photos(tmp_path)
    assert found.names == ("a.jpg", "c.png") and found.left_out == ("b",)


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.avif", "a.heic", "a.mpo", "a.pbm", "a.dib", "0001", "x/photo"])
def test_every_suffix_that_is_read_and_none(tmp_path, name):
    put_picture(tmp_path / name)
    assert folder_photos(tmp_path).names == (name,) and folder_photos(tmp_path).left_out == ()


@pytest.mark.parametrize(
    ("pattern", "error", "words"),
    [
        ("(", ConfigError, "not a regular expression"),
        ("b", ConfigError, "needs a group"),
        ("(z)", DataError, "does not match "),
    ],
)
def test_patterns_without_an_identity(tmp_path, pattern, error, words):
    put_picture(tmp_path / "b.jpg")
    with pytest.raises(error, match=words):
        folder_photos(tmp_path, pattern)
