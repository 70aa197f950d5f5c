"""An index on disk: created, updated, interrupted, damaged."""

import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from apps.search.index_factory import (
    MeanColour,
    check,
    colour_of,
    expected,
    make_earlier,
    put_photo,
    put_photos,
    update,
)
from data.tri_factory import noise_bytes
from PIL import Image

from ms_unireid.apps.search import encoding, index_writer
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.manifest import MANIFEST, Manifest, model_overrides
from ms_unireid.apps.search.photo_facts import FACTS
from ms_unireid.config import config_from_dict, to_dict
from ms_unireid.errors import ConfigError, DataError, UserError


@pytest.fixture
def photos(tmp_path) -> Path:
    put_photos(tmp_path / "photos", range(10))
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path) -> Path:
    return tmp_path / "index"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_photo_gets_its_feature(photos, index, dtype):
    report = update(index, photos, dtype=dtype)
    assert (report.photos, report.encoded, report.kept, report.skipped) == (10, 10, 0, {})
    found = check(index, photos.glob("*.png"))
    assert found.features.dtype == dtype and found.dim == 32
    np.testing.assert_allclose(np.linalg.norm(found.features.astype(np.float32), axis=1), 1, atol=1e-3)


def test_unchanged_photos_are_not_read_again(photos, index):
    update(index, photos)
    before = (index / "features.1.float16").stat().st_mtime_ns
    using = MeanColour()
    report = update(index, using=using)
    assert (report.photos, report.encoded, report.kept) == (10, 0, 10) and using.encoded == 0
    assert (index / "features.1.float16").stat().st_mtime_ns == before


def test_added_changed_removed_moved_and_touched(photos, index):
    update(index, photos)
    put_photo(photos / "new.png", colour_of(100))
    put_photo(photos / "003.png", colour_of(101))  # another content under the same name
    (photos / "004.png").unlink()
    (photos / "sub").mkdir()
    (photos / "005.png").rename(photos / "sub" / "moved.png")
    first, second = photos / "000.png", photos / "001.png"  # change places
    first.rename(photos / "x.png")
    second.rename(first)
    (photos / "x.png").rename(second)
    os.utime(photos / "006.png", ns=(1, 1))
    using = MeanColour()
    report = update(index, photos, using=using)
    assert (report.encoded, report.copied, report.kept, report.removed) == (2, 3, 5, 5)
    assert using.encoded == 4  # one batch
    check(index, photos.rglob("*.png"))
    assert sorted(p.name for p in index.iterdir()) == [".lock", "features.2.float16", MANIFEST]
    assert update(index).kept == 10


def test_folders_are_added_and_removed(photos, index, tmp_path):
    update(index, photos)
    others = put_photos(tmp_path / "others", range(20, 23))
    assert update(index, tmp_path / "others").kept == 10
    check(index, [*photos.glob("*.png"), *others])
    (photos / "009.png").unlink()
    assert update(index, tmp_path / "others").photos == 13  # the other folder was not compared
    assert update(index).photos == 12
    report = update(index, removed=[photos])
    assert (report.photos, report.removed) == (3, 9)
    check(index, others)
    with pytest.raises(ConfigError, match=r"no such folder; it has .*others"):
        update(index, removed=[photos])


def test_a_folder_cannot_be_added_and_removed_at_once(photos, index):
    update(index, photos)
    with pytest.raises(ConfigError, match="both added and removed"):
        update(index, photos, removed=[photos])
    check(index, photos.glob("*.png"))


def test_an_interrupted_removal_removes_nothing(photos, index, tmp_path, monkeypatch):
    others = put_photos(tmp_path / "others", range(20, 23))
    update(index, photos, tmp_path / "others")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Manifest, "replace_photos", interrupted)
        update(index, removed=[photos])
    check(index, [*photos.glob("*.png"), *others])
    assert update(index, removed=[photos]).photos == 3
    check(index, others)


def test_a_missing_or_empty_folder_does_not_empty_the_index(photos, index, tmp_path):
    update(index, photos)
    shutil.move(photos, tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no such folder"):
        update(index)
    photos.mkdir()
    with pytest.raises(DataError, match="has no photos"):
        update(index)
    assert PhotoIndex(index).count == 10
    photos.rmdir()
    report = update(index, tmp_path / "elsewhere", removed=[photos])
    assert (report.copied, report.encoded) == (10, 0)
    check(index, (tmp_path / "elsewhere").glob("*.png"))


def test_nested_folders_are_refused(photos, index):
    (photos / "sub").mkdir()
    put_photo(photos / "sub" / "a.png", (1, 2, 3))
    with pytest.raises(ConfigError, match="indexed twice"):
        update(index, photos, photos / "sub")


def test_a_wrong_folder_creates_no_index(index, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        update(index, tmp_path / "typo")
    assert not index.exists()


def test_bad_photos_are_skipped_listed_and_tried_again_when_changed(photos, index):
    (photos / "empty.png").write_bytes(b"")
    (photos / "broken.jpg").write_bytes((photos / "000.png").read_bytes()[:60])
    (photos / "text.png").write_text("no picture")
    (photos / "lost.png").symlink_to(photos / "unplugged" / "lost.png")
    using = MeanColour()
    report = update(index, photos, using=using)
    bad = {"empty.png", "broken.jpg", "text.png", "lost.png"}
    assert report.photos == 10 and {Path(p).name for p in report.skipped} == bad
    assert "empty" in report.skipped[str(photos / "empty.png")]
    again = update(index, photos, using=MeanColour())
    assert again.skipped == report.skipped and again.encoded == 0
    put_photo(photos / "text.png", colour_of(50))
    fixed = update(index, photos)
    assert fixed.encoded == 1 and len(fixed.skipped) == 3
    assert PhotoIndex(index).describe()["skipped"] == fixed.skipped


def test_damage_inside_and_files_that_are_no_pictures_are_told(photos, index):
    whole = noise_bytes("JPEG")
    (photos / "hole.jpg").write_bytes(whole[: len(whole) // 2] + bytes(300) + whole[len(whole) // 2 + 300 :])
    (photos / "notes.txt").write_text("no picture")
    report = update(index, photos)
    assert (report.photos, list(report.damaged), report.skipped) == (11, [str(photos / "hole.jpg")], {})
    assert report.left_out == (str(photos / "notes.txt"),)
    (photos / "only").mkdir()
    (photos / "only" / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"only: has no photos; left out, no pictures: 1 \(a\.txt\)"):
        update(index, photos / "only")


def test_an_index_of_before_takes_what_is_read_otherwise_now(photos, index):
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.open(photos / "003.png").save(photos / "lying.png", exif=tag)
    update(index, photos)
    manifest = Manifest(index)
    with manifest.transaction():
        manifest.set_about(reader=1)
    manifest.close()
    report = update(index, photos)
    assert (report.encoded, report.kept, report.photos) == (1, 10, 11)
    assert update(index, photos).kept == 11
    check(index, photos.glob("*.png"))


def test_a_photo_is_tried_again_when_a_package_reads_it(photos, index, monkeypatch):
    (photos / "a.heic").write_bytes((photos / "003.png").read_bytes())
    with monkeypatch.context() as context:
        context.setattr("ms_unireid.data.pictures.FORMATS", ("JPEG",))
        assert len(update(index, photos).skipped) == 11
    assert update(index, photos).photos == 11


def test_a_batch_without_readable_photos(index, tmp_path):
    for number in range(9):
        (tmp_path / "bad" / f"{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{number}.png").write_text("no")
    report = update(index, tmp_path / "bad")
    assert report.photos == 0 and len(report.skipped) == 9
    assert PhotoIndex(index).count == 0


def test_names_that_are_not_utf8_are_listed(photos, index):
    shutil.copy(photos / "000.png", os.fsencode(photos) + b"/\xff.png")
    report = update(index, photos)
    assert report.photos == 10 and "not UTF-8" in next(iter(report.skipped.values()))


def test_another_checkpoint_model_or_dtype_is_refused(photos, index):
    update(index, photos)
    with pytest.raises(DataError, match="made with another checkpoint"):
        update(index, photos, content=b"other weights")
    with pytest.raises(DataError, match="dtype float16, not float32"):
        update(index, photos, dtype="float32")
    check(index, photos.glob("*.png"))


def test_two_processes_cannot_change_an_index_at_once(photos, index):
    update(index, photos)
    writer = IndexWriter(index, PhotoIndex(index).describe())
    with pytest.raises(UserError, match="another process is changing"):
        update(index, photos)
    assert PhotoIndex(index).count == 10  # reading goes on
    writer.close()
    update(index, photos)


def test_a_reader_keeps_its_snapshot(photos, index):
    update(index, photos)
    before = PhotoIndex(index)
    features = before.features.copy()
    names = before.photos
    for name in ("000.png", "001.png"):
        (photos / name).unlink()
    put_photo(photos / "new.png", colour_of(99))
    update(index, photos)
    assert before.photos == names and (before.features == features).all()


def test_a_shortened_or_missing_features_file_is_repaired(photos, index):
    update(index, photos)
    file = index / "features.1.float16"
    os.truncate(file, 7 * 64 + 10)
    with pytest.raises(DataError, match="repairs the index"):
        PhotoIndex(index)
    using = MeanColour()
    report = update(index, photos, using=using)
    assert (report.repaired, report.encoded, report.kept) == (3, 3, 7)
    check(index, photos.glob("*.png"))
    file.unlink()
    assert update(index, photos).repaired == 10
    check(index, photos.glob("*.png"))


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100], ids=["empty", "garbage"])
def test_a_damaged_manifest_is_named(photos, index, content):
    update(index, photos)
    (index / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=MANIFEST):
        PhotoIndex(index)


def test_other_folders_are_not_an_index(photos, tmp_path):
    with pytest.raises(DataError, match="is not an index"):
        PhotoIndex(photos)
    with pytest.raises(DataError, match="has other files and is not an index"):
        update(photos, photos)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        update(tmp_path / "file", photos)


def test_an_index_of_a_later_format(photos, index):
    update(index, photos)
    with sqlite3.connect(index / MANIFEST) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="format 99, expected 1"):
        PhotoIndex(index)


def test_features_that_are_not_finite_are_refused(photos, index):
    using, encode = MeanColour(), MeanColour().pixels
    using.pixels = lambda images: encode(images) * np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        update(index, photos, using=using)
    assert PhotoIndex(index).count == 0


def change_everything(photos: Path) -> None:
    """Add, change, remove and move photos."""
    put_photos(photos, range(30, 32))
    put_photo(photos / "002.png", colour_of(77))
    (photos / "001.png").unlink()
    (photos / "000.png").rename(photos / "renamed.png")
    (photos / "bad.png").write_text("no picture")


def killed_at(moment: int, index: Path, photos: Path) -> bool:
    """Update in a process that is killed at its n-th statement, flush or removal; return whether it was killed.

    Statements that only read do not count: a kill there leaves what one at the next other moment leaves.
    """
    child = os.fork()
    if child == 0:
        try:
            left = [moment]

            def tick() -> None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            def begin(statement: str) -> None:
                if not statement.startswith("SELECT"):
                    tick()

            opened, flush, unlink = Manifest.__init__, os.fsync, Path.unlink

            def open_manifest(self, *arguments):
                connect = sqlite3.connect

                def traced(*a, **k):
                    database = connect(*a, **k)
                    database.set_trace_callback(begin)
                    return database

                sqlite3.connect = traced
                opened(self, *arguments)
                sqlite3.connect = connect

            Manifest.__init__ = open_manifest
            index_writer.os.fsync = lambda number: (tick(), flush(number), tick())
            Path.unlink = lambda self, missing_ok=False: (tick(), unlink(self, missing_ok=missing_ok), tick())
            update(index, photos)
            os._exit(0)
        except BaseException:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the update failed by itself"
    return os.WIFSIGNALED(status)


def consistent(index: Path) -> None:
    """Check that each unchanged photo has its own feature."""
    try:
        found = PhotoIndex(index)
    except DataError as error:
        assert "is not an index" in str(error)
        return
    if found.whole:
        assert found.count + len(found.skipped) in (5, len(list((index.parent / "photos").iterdir())))  # before, after
    for row, path in enumerate(found.photos):
        if path.name in ("003.png", "030.png", "renamed.png") and path.exists():
            np.testing.assert_allclose(found.features[row], expected(path), atol=1e-3)


@pytest.mark.parametrize(
    "what", ["made", "changed", pytest.param("of an earlier version", marks=pytest.mark.exhaustive)]
)
def test_killed_at_any_moment(what, tmp_path, monkeypatch):
    """After a kill at any statement, flush or removal the index is consistent, and the next run completes it."""
    # A forked process must not use libraries with threads.
    monkeypatch.setattr(encoding, "iterate", lambda source, runtime: (source[i] for i in range(len(source))))
    place, before = tmp_path / "now", tmp_path / "before"
    photos, index = place / "photos", place / "index"
    put_photos(photos, range(4))
    put_photo(photos / "x_c1_.png", colour_of(60))
    if what != "made":
        update(index, photos)
    if what == "changed":
        change_everything(photos)
    elif what == "of an earlier version":
        make_earlier(index, 2)
    place.rename(before)
    moment, kills = 0, 0
    while True:
        shutil.copytree(before, place)
        was_killed = killed_at(moment, index, photos)
        kills += was_killed
        consistent(index)
        report = update(index, photos)
        good = [path for path in photos.glob("*.png") if path.name != "bad.png"]
        found = check(index, good)
        assert report.photos == len(good) and len(report.skipped) == (what == "changed")
        assert found.describe()["facts"] == FACTS and found.cameras == {"1": 1}
        features = f"features.{found.describe()['file']}.float16"
        assert {p.name for p in index.iterdir()} == {".lock", MANIFEST, features}
        shutil.rmtree(place)
        if not was_killed:
            break
        moment += 1
    assert kills > 20, kills


def test_an_interrupted_run_continues_with_the_next_batch(photos, index):
    using = MeanColour()
    encode = using.pixels

    def interrupting(images: np.ndarray) -> np.ndarray:
        if using.encoded >= 8:
            raise KeyboardInterrupt
        return encode(images)

    using.pixels = interrupting
    with pytest.raises(KeyboardInterrupt):
        update(index, photos, using=using)
    assert PhotoIndex(index).count == 8
    report = update(index, photos)
    assert (report.kept, report.encoded) == (8, 2)
    check(index, photos.glob("*.png"))


def test_progress_counts_every_photo(photos, index):
    (photos / "bad.png").write_text("no")
    seen = []
    update(index, photos, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == ("encoded", 11, 11) and [done for _, done, _ in seen] == [4, 8, 11]


def test_indexing_does_not_change_the_photos(photos, index):
    before = {path: path.read_bytes() for path in photos.iterdir()}
    update(index, photos)
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    with Image.open(photos / "000.png") as picture:
        assert picture.size == (10, 20)


def test_the_overrides_of_an_index_give_its_model_again():
    sizes = {"width": 64, "layers": 2, "heads": 2}
    architecture = {"vision": sizes, "text": sizes, "patch_size": 16, "embed_dim": 32, "vocabulary_size": 49408}
    for name in ("tiny", architecture):
        values = {"architecture": name, "image_size": [32, 16], "context_length": 24}
        model = to_dict(config_from_dict({"model": values}, "test"))["model"]
        kept = {key: model[key] for key in ("architecture", "image_size", "stride", "context_length", "activation")}
        again = config_from_dict({}, "test", model_overrides(json.loads(json.dumps({"model": kept}))))
        assert to_dict(again)["model"] == model
