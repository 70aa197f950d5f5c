"""Indexes that are damaged, unfinished, in use or made by an earlier version."""

import os
import resource
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import CONFIG, MeanColour, check, colour_of, make_earlier, put_photo, put_photos, update

from ms_unireid.apps.search import manifest
from ms_unireid.apps.search.encoding import NewPhotos
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.engines.faiss import FAISS_ABOUT, FAISS_FILE, FaissIndex, build_approximate
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.manifest import FORMAT, MANIFEST, Manifest
from ms_unireid.apps.search.photo_facts import FACTS
from ms_unireid.apps.search.scanning import Listing, find_changes
from ms_unireid.errors import ConfigError, DataError, QueryError, UserError

FEATURES = "features.1.float16"
COUNT = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    put_photos(folder / "photos", range(COUNT))
    update(folder / "index", folder / "photos")
    return folder


@pytest.fixture
def photos(made) -> Path:
    return made / "photos"


@pytest.fixture
def index(made, tmp_path) -> Path:
    return shutil.copytree(made / "index", tmp_path / "index")


def change_features(index: Path, change) -> None:
    features = np.fromfile(index / FEATURES, np.float16).reshape(COUNT, -1)
    change(features)
    features.tofile(index / FEATURES)


def change_manifest(index: Path, *statements: str) -> None:
    with sqlite3.connect(index / MANIFEST) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def assert_refused(index: Path, photos: Path, message: str = "make the index anew") -> None:
    """Neither a search nor an update takes a damaged index."""
    with pytest.raises(DataError, match=message):
        PhotoIndex(index)
    with pytest.raises(DataError, match=message):
        update(index, photos)


FEATURE_DAMAGE = {
    "not finite": lambda f: f.__setitem__((3, 0), np.nan),
    "infinite": lambda f: f.__setitem__((3, 0), np.inf),
    "length 50": lambda f: f.__setitem__(4, f[4] * 50),
    "zero": lambda f: f.__setitem__(4, 0),
}
ORDER_DAMAGE = {
    "another order": lambda f: f.__setitem__([1, 2], f[[2, 1]]),
    "shifted": lambda f: f.__setitem__(slice(None), np.roll(f, 1, axis=0)),
    "one bit": lambda f: f.view(np.uint8).__ixor__(np.eye(*f.view(np.uint8).shape, dtype=np.uint8)),
}


@pytest.mark.parametrize("kind", [*FEATURE_DAMAGE, *ORDER_DAMAGE])
def test_damaged_features_are_refused(kind, index, photos):
    change_features(index, {**FEATURE_DAMAGE, **ORDER_DAMAGE}[kind])
    assert_refused(index, photos)


@pytest.mark.parametrize("row", [0, 4, COUNT - 1])
def test_a_deleted_row_is_refused(row, index, photos):
    change_manifest(index, f"DELETE FROM photos WHERE row = {row}")
    assert_refused(index, photos)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE photos SET name = 'x' || name",
        "UPDATE photos SET person = '7' WHERE row = 2",
        "UPDATE photos SET row = row + 100",
        "UPDATE photos SET source = 2 WHERE row = 1",
        "UPDATE photos SET checksum = NULL",
        "UPDATE photos SET name = x'ff' WHERE row = 1",
        "UPDATE photos SET name = CAST(x'ff' AS TEXT) WHERE row = 1",
        "UPDATE sources SET folder = '/'",
        "DELETE FROM sources",
        "DELETE FROM about",
        "DELETE FROM about WHERE key = 'digest'",
        "UPDATE about SET value = '0' WHERE key = 'dim'",
        "UPDATE about SET value = '16' WHERE key = 'dim'",
        "UPDATE about SET value = '\"../x\"' WHERE key = 'file'",
        "UPDATE about SET value = '{' WHERE key = 'model'",
        "UPDATE about SET value = '1' WHERE key = 'left'",
        "INSERT INTO skipped VALUES (99, 'a.png', 1, 1, 'no')",
        "INSERT INTO skipped VALUES (1, 'a.png', 1, 1, x'00')",
        "DROP TABLE skipped",
        "CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "CREATE TRIGGER t AFTER INSERT ON photos BEGIN DELETE FROM sources; END",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 2",
        "UPDATE photos SET taken = '2024-05-01T00:00:00' WHERE row = 2",
        "UPDATE photos SET camera = '1' WHERE row = 2",
    ],
)
def test_a_changed_manifest_is_refused(statement, index, photos):
    change_manifest(index, statement)
    with pytest.raises(UserError, match="make the index anew"):
        PhotoIndex(index)
    with pytest.raises(UserError, match="make the index anew"):
        update(index, photos)


def test_values_nested_too_deeply(index, photos):
    change_manifest(index, f"UPDATE about SET value = '{'[' * 100_000}' WHERE key = 'model'")
    assert_refused(index, photos)


def test_features_of_another_index_are_refused(index, photos, tmp_path):
    put_photos(tmp_path / "others", range(20, 20 + COUNT))
    update(tmp_path / "another", tmp_path / "others")
    shutil.copy(tmp_path / "another" / FEATURES, index / FEATURES)
    assert_refused(index, photos)


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_of_an_earlier_version_is_used_and_brought_up_to_date(version, index, photos):
    before = PhotoIndex(index)
    found = PhotoIndex(make_earlier(index, version))
    assert Manifest(index).format == version and "facts" not in found.about
    assert found.photos == before.photos and (found.features == before.features).all() and found.whole
    assert (found.cameras, found.times, found.taken(0), found.camera(0)) == ({}, None, None, None)
    assert len(found.passing(Filter(folders=(str(photos),)))) == COUNT
    for where in (Filter(cameras=("1",)), Filter(after="2024-05-01"), Filter(before="2024-05-01")):
        with pytest.raises(QueryError, match=f"knows no times and cameras.*index --output {index}"):
            found.passing(where)
    using = MeanColour()
    report = update(index, photos, using=using)
    assert (report.kept, report.encoded, using.encoded) == (COUNT, 0, 0)
    assert Manifest(index).format == FORMAT and PhotoIndex(index).describe()["id"]
    assert len(PhotoIndex(index).passing(Filter(cameras=("1",)))) == 0
    change_features(index, ORDER_DAMAGE["another order"])
    assert_refused(index, photos)


@pytest.mark.parametrize("kind", FEATURE_DAMAGE)
def test_damaged_features_without_checksums_are_refused(kind, index, photos):
    change_features(make_earlier(index, 1), FEATURE_DAMAGE[kind])
    assert_refused(index, photos)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM photos WHERE row = 4",
        "UPDATE photos SET name = 'x' || name",
        "UPDATE photos SET checksum = NULL",
        "UPDATE sources SET folder = '/'",
        "UPDATE about SET value = '1' WHERE key = 'left'",
        "PRAGMA user_version = 3",
    ],
)
def test_a_changed_manifest_without_facts_is_refused(statement, index, photos):
    change_manifest(make_earlier(index, 2), statement)
    assert_refused(index, photos)


def test_facts_are_read_again_when_the_rules_change(tmp_path):
    """Nothing is encoded, and a folder that is not compared keeps what is known until it is."""
    photos, others, index = (tmp_path / name for name in ("photos", "others", "index"))
    name = "a_c1_20240501123015_.png"
    for folder, number in ((photos, 1), (others, 2)):
        put_photo(folder / name, colour_of(number))
    update(index, photos, others)
    assert PhotoIndex(index).describe()["times"] == ("2024-05-01T12:30:15", "2024-05-01T12:30:15")
    features = Manifest(index)
    with features.transaction():
        rows = [one._replace(taken=None, camera="old") for one in features.photos()]
        features.replace_photos(rows, PhotoIndex(index).features)
        features.set_about(facts=0)
    features.close()
    assert PhotoIndex(index).cameras == {"old": 2}
    using = MeanColour()
    update(index, photos, using=using)
    found = PhotoIndex(index)
    assert found.cameras == {"1": 1, "old": 1} and found.about["facts"] == 0
    assert found.taken(found.row(photos / name)) == "2024-05-01T12:30:15"
    update(index, using=using)
    found = PhotoIndex(index)
    assert found.cameras == {"1": 2} and found.about["facts"] == FACTS and using.encoded == 0
    (photos / name).rename(photos / "b_c7_.png")
    report = update(index, using=using)
    assert (report.copied, using.encoded) == (1, 0) and PhotoIndex(index).cameras == {"1": 1, "7": 1}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM photos WHERE row = 4",
        "UPDATE photos SET name = '../' || name",
        "UPDATE photos SET name = '/etc/passwd' WHERE row = 1",
        "UPDATE photos SET source = 2 WHERE row = 1",
        "UPDATE photos SET person = x'00' WHERE row = 1",
        "UPDATE photos SET name = x'00' WHERE row = 1",
        "UPDATE about SET value = '1000000000' WHERE key = 'dim'",
        "UPDATE about SET value = 'true' WHERE key = 'dim'",
        "UPDATE about SET value = '-1' WHERE key = 'file'",
        "UPDATE about SET value = '{}' WHERE key = 'checkpoint'",
        "UPDATE about SET value = '[]' WHERE key = 'model'",
        "UPDATE about SET value = '\"int8\"' WHERE key = 'dtype'",
    ],
)
def test_a_changed_manifest_without_checksums_is_refused(statement, index, photos):
    change_manifest(make_earlier(index, 1), statement)
    assert_refused(index, photos)


def test_a_damaged_or_foreign_approximate_index_is_refused(index, photos, tmp_path):
    opened = PhotoIndex(index)
    build_approximate(opened, {"photos": np.asarray(opened.features, np.float32)})
    good = (index / FAISS_ABOUT).read_text()
    for bad in ("[]", "null", "{}", good.replace('"lists": 1', '"lists": 2'), "[" * 100_000):
        (index / FAISS_ABOUT).write_text(bad)
        with pytest.raises(DataError, match="missing or damaged"):
            FaissIndex(opened.folder)
    put_photos(tmp_path / "others", range(20, 20 + COUNT))
    update(tmp_path / "another", tmp_path / "others")
    another = PhotoIndex(tmp_path / "another")
    build_approximate(another, {"photos": np.asarray(another.features, np.float32)})
    shutil.copy(tmp_path / "another" / FAISS_FILE, index)
    (index / FAISS_ABOUT).write_text(good)
    with pytest.raises(DataError, match="missing or damaged"):
        FaissIndex(opened.folder)
    shutil.copy(tmp_path / "another" / FAISS_ABOUT, index)
    with pytest.raises(DataError, match="has changed since"):
        FaissIndex(opened.folder)


def test_a_full_disk_leaves_an_index_that_says_so(tmp_path):
    photos, index = tmp_path / "photos", tmp_path / "index"
    (photos / "!bad.png").parent.mkdir()
    (photos / "!bad.png").write_text("no picture")
    put_photo(photos / "000.png", colour_of(0))
    update(index, photos)
    put_photos(photos, range(1, 80))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((index / MANIFEST).stat().st_size + 1, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be"):
            update(index, photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = PhotoIndex(index)
    seen = found.count + 1
    assert not found.whole and 1 < seen < 81
    assert found.state == {"whole": False, "photos": found.count, "skipped": 1, "left": 81 - seen}
    (note,) = found.notes
    assert f"stopped at {seen} of 81 photos (1 skipped)" in note and f"index --output {index}" in note
    update(index)
    assert check(index, photos.glob("[0-9]*.png")).notes == []
    assert PhotoIndex(index).describe()["whole"] is True


def test_a_reader_sees_the_old_state_during_a_long_change(index):
    writer = Manifest(index)
    with pytest.raises(KeyboardInterrupt), writer.transaction():
        writer.replace_photos((), ())
        assert PhotoIndex(index).count == COUNT
        raise KeyboardInterrupt
    writer.close()


def test_a_reader_waits_while_a_change_is_committed(index, monkeypatch):
    database = sqlite3.connect(index / MANIFEST, check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.3, database.rollback).start()
    assert PhotoIndex(index).count == COUNT
    database.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(manifest, "_WAIT", 0.1)
    with pytest.raises(UserError, match="another process uses it; try again"):
        PhotoIndex(index)
    database.close()


@pytest.mark.parametrize("what", ["shortened", "replaced", "removed"])
def test_an_open_index_survives_damage(what, index):
    found = PhotoIndex(index)
    queries = np.eye(3, found.dim, dtype=np.float32)
    before = exact_search(found.features, queries, 4)
    if what == "shortened":
        os.truncate(index / FEATURES, 10)
    elif what == "replaced":
        (index / FEATURES).write_bytes(bytes(5000))
    else:
        shutil.rmtree(index)
    for one, other in zip(before, exact_search(found.features, queries, 4), strict=True):
        assert (one == other).all()


def test_folders_out_of_reach_are_told_with_the_way_to_forget_them(index, photos, tmp_path):
    put_photos(tmp_path / "others", range(20, 23))
    update(index, tmp_path / "others")
    shutil.move(tmp_path / "others", tmp_path / "moved")
    report = update(index, tmp_path / "moved")
    assert report.unreachable == {str(tmp_path / "others"): 3} and report.copied == 3
    with pytest.raises(DataError, match=rf"3 photos .* --output {index} --remove {tmp_path / 'others'}"):
        update(index)
    (tmp_path / "others").mkdir()  # a disk that is not mounted
    assert update(index, photos).unreachable == {str(tmp_path / "others"): 3}
    with pytest.raises(DataError, match="--remove"):
        update(index)
    report = update(index, removed=[tmp_path / "others"])
    assert (report.photos, report.unreachable) == (COUNT + 3, {})


def test_a_folder_has_one_name(index, photos, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(photos.parent)
    for name in (tmp_path / "link", Path("photos"), Path(f"{photos}/"), photos / ".." / "photos"):
        report = update(index, name, name, photos)
        assert (report.photos, report.kept, report.copied) == (COUNT, COUNT, 0)
    put_photo(photos / "inner" / "x.png", colour_of(50))
    (tmp_path / "inner").symlink_to(photos / "inner")
    with pytest.raises(ConfigError, match="indexed twice"):
        update(index, tmp_path / "inner")
    shutil.rmtree(photos / "inner")
    assert update(index, removed=[tmp_path / "link"]).photos == 0


def test_a_photo_that_became_a_pipe_is_skipped(index, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    changes = find_changes({1: tmp_path}, {1: Listing({"pipe.png": None})}, Manifest(index).photos(), [])
    assert changes.new == [(1, "pipe.png", None)]
    source = NewPhotos({1: tmp_path}, [changes.new], 1, CONFIG.model.image_size)
    assert not source[0][0].any() and "pipe" in source.found[0][0].reason


@pytest.mark.parametrize("name", [".lock", FEATURES])
def test_a_link_in_place_of_a_file_is_not_written_through(name, tmp_path):
    photos, index, target = tmp_path / "photos", tmp_path / "index", tmp_path / "target"
    put_photo(photos / "bad.png", (1, 2, 3)).write_text("no picture")
    update(index, photos)
    target.write_text("something of value")
    (index / name).unlink()
    (index / name).symlink_to(target)
    put_photo(photos / "000.png", (1, 2, 3))
    with pytest.raises(UserError, match="plain file"):
        update(index, photos)
    assert target.read_text() == "something of value"


def test_features_that_are_a_pipe_are_refused(index, photos):
    (index / FEATURES).unlink()
    os.mkfifo(index / FEATURES)
    with pytest.raises(DataError, match="pipe or device"):
        PhotoIndex(index)
    with pytest.raises(DataError, match="plain file"):
        update(index, photos)
