"""Indexes of shards: together they are the index of one run, and whatever could be missing is told. Costs 2 s."""

import numpy as np
import pytest
from apps.search.index_factory import make_earlier, put_photo, put_photos, update

from ms_unireid.apps.search import shards
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.shards import Shard, merge_indexes, shard_of
from ms_unireid.errors import ConfigError, DataError, Interrupted, UserError


def update_shard(index, shard, *folders):
    return update(index, *folders, shard=shard_of(shard))


@pytest.fixture
def photos(tmp_path):
    put_photos(tmp_path / "photos", range(20))
    (tmp_path / "photos" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


def test_the_shards_of_a_folder_are_the_index_of_one_run(photos, tmp_path):
    put_photos(photos / "copies", range(3))  # copies inside one folder stay
    put_photos(tmp_path / "others", range(30, 34))
    folders = (photos, tmp_path / "others")
    update(tmp_path / "one", *folders)
    for number in (1, 2, 3):
        update_shard(tmp_path / f"shard{number}", f"{number}/3", *folders)
    parts = [PhotoIndex(tmp_path / f"shard{number}") for number in (1, 2, 3)]
    assert sum(part.count for part in parts) == 27 and all(0 < part.count < 20 for part in parts)
    report = merge_indexes([tmp_path / f"shard{number}" for number in (3, 1, 2)], tmp_path / "merged")
    assert report == {"photos": 27, "doubles": 0, "skipped": 1, "left": 0}
    one, merged = PhotoIndex(tmp_path / "one"), PhotoIndex(tmp_path / "merged")
    assert merged.photos == one.photos and merged.skipped == one.skipped and merged.whole
    np.testing.assert_array_equal(merged.features, one.features)
    assert update(tmp_path / "merged").encoded == 0  # it is an index as any other: all folders are compared


def test_an_update_keeps_the_shard(photos, tmp_path):
    before = update_shard(tmp_path / "index", "2/2", photos).photos
    put_photos(photos, range(20, 40))
    after = update_shard(tmp_path / "index", "2/2").photos
    assert before < after < 40
    assert {path.name for path in PhotoIndex(tmp_path / "index").photos} == {
        path.name for path in photos.glob("*.png") if Shard(2, 2).holds(path.name)
    }


def test_doubles_are_left_out(photos, tmp_path):
    """The same photo in two indexes, and the same content in another folder, whatever its name."""
    for number in range(5):
        put_photo(tmp_path / "mirror" / f"other-{number}.png", (40 + number * 25, 40, 40))  # as 000.png to 004.png
    put_photos(tmp_path / "mirror", range(50, 53))
    update(tmp_path / "a", photos)
    update(tmp_path / "b", photos, tmp_path / "mirror")
    report = merge_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert report == {"photos": 23, "doubles": 25, "skipped": 1, "left": 0}
    names = [path.name for path in PhotoIndex(tmp_path / "merged").photos]
    assert names == [f"{number:03d}.png" for number in (*range(20), 50, 51, 52)]


def test_the_newer_state_of_a_photo_counts(photos, tmp_path):
    update(tmp_path / "old", photos)
    put_photo(photos / "003.png", (1, 2, 3))
    update(tmp_path / "new", photos)
    for order in (("old", "new"), ("new", "old")):
        merge_indexes([tmp_path / name for name in order], tmp_path / "-".join(order))
        merged = PhotoIndex(tmp_path / "-".join(order))
        np.testing.assert_array_equal(merged.features, PhotoIndex(tmp_path / "new").features)


def test_what_cannot_be_merged_is_refused_and_nothing_is_left(photos, tmp_path):
    for number in (1, 2):
        update_shard(tmp_path / f"shard{number}", f"{number}/3", photos)
    update(tmp_path / "whole", photos)
    update(tmp_path / "wide", photos, dtype="float32")
    update(tmp_path / "earlier", photos)
    make_earlier(tmp_path / "earlier", 2)
    (tmp_path / "apart").mkdir()
    update(tmp_path / "apart" / "foreign", photos, content=b"other weights")
    for wrong, error, told in (
        (("shard1", "shard2"), ConfigError, "shard1: is shard 1/3, and 3/3 is missing; give all 3 shards"),
        (("whole", "apart/foreign"), DataError, "foreign: was made with another checkpoint"),
        (("whole", "wide"), DataError, "wide: was made with dtype float32"),
        (("whole", "earlier"), DataError, "earlier: an earlier version made it; bring it up to date"),
        (("whole", "photos"), DataError, "photos: is not an index"),
    ):
        with pytest.raises(error, match=told):
            merge_indexes([tmp_path / name for name in wrong], tmp_path / "merged")
    with pytest.raises(ConfigError, match="whole: exists, and a merged index is a new one"):
        merge_indexes([tmp_path / "whole", tmp_path / "whole"], tmp_path / "whole")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def test_a_merge_that_is_stopped_or_meets_a_full_disk_leaves_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_AT_ONCE", 5)
    update(tmp_path / "index", photos)
    append = IndexWriter.append
    for problem in (Interrupted(2, "again"), UserError("no space left")):

        def stop(writer, photos, *rest, problem=problem):
            if writer.manifest.count() == 10:
                raise problem
            append(writer, photos, *rest)

        monkeypatch.setattr(IndexWriter, "append", stop)
        with pytest.raises(type(problem)):
            merge_indexes([tmp_path / "index"], tmp_path / "merged")
        assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def test_a_merged_index_tells_what_is_left_to_read(photos, tmp_path):
    update(tmp_path / "index", photos)
    writer = IndexWriter(tmp_path / "index", PhotoIndex(tmp_path / "index").about)
    with writer.manifest.transaction():
        writer.manifest.set_about(left=4)
    writer.close()
    assert merge_indexes([tmp_path / "index"], tmp_path / "merged")["left"] == 4
    assert "is not whole, it stopped at 21 of 25" in PhotoIndex(tmp_path / "merged").notes[0]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3", "1/0", "١/٢", None, 5])
def test_a_shard_that_is_none(text):
    with pytest.raises(ConfigError, match="expected a number and how many there are, as 1/8 to 8/8"):
        shard_of(text)
