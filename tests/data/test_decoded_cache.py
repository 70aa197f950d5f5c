"""The cache of decoded pictures gives the pixels of a fresh decode, even after pictures or cache changed."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image

from ms_unireid.config import RuntimeConfig
from ms_unireid.data import decoded_cache
from ms_unireid.data.decoded_cache import DecodedStore, open_decoded_cache, pixel_loader
from ms_unireid.data.transforms import load_pixels
from ms_unireid.errors import DataError, UserError

SIZE = (24, 8)
ROW = 24 * 8 * 3
ROOT = Path(__file__).resolve().parents[2]
KINDS = ("RGB.jpg", "L.png", "RGBA.png", "P.gif", "RGB.png", "L.jpg", "RGB.webp")


def put(path: Path, seed: int) -> Path:
    shape, mode = (20 + 3 * seed, 9 + seed, 3), path.name.split(".")[0].split("_")[-1]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    (tmp_path / "pictures").mkdir()
    return [put(tmp_path / "pictures" / f"{i}_{kind}", i) for i, kind in enumerate(KINDS)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """List what is decoded, in the order of the pictures; three of them between two writes."""
    done: list[Path] = []

    def load(path, image_size):
        done.append(path)
        return load_pixels(path, image_size)

    monkeypatch.setattr(decoded_cache, "load_pixels", load)
    monkeypatch.setattr(decoded_cache, "_CHUNK", 3)
    return done


def assert_right(cache, paths, size=SIZE):
    for path in paths:
        assert (cache(path).dtype, cache(path).shape) == (np.uint8, (*size, 3))
        np.testing.assert_array_equal(cache(path), load_pixels(path, size))


def file_of(folder: Path, suffix: str) -> Path:
    (found,) = folder.glob(f"*.{suffix}")
    return found


# 1. Pixels, and when they are decoded.


@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_those_of_a_fresh_decode_and_decoded_once(paths, folder, decoded, threads):
    assert_right(open_decoded_cache(folder, SIZE, paths + paths, threads), paths)
    assert sorted(decoded) == sorted(paths)
    assert file_of(folder, "pixels").stat().st_size == len(paths) * ROW
    assert_right(open_decoded_cache(folder, SIZE, reversed(paths), threads), paths)
    assert len(decoded) == len(paths)


def test_real_pictures(real_root, folder):
    root = real_root / "CUHK-PEDES"
    paths = [p for name in ("imgs", "imgs-sketch2") for p in sorted((root / name).rglob("*.png"))[:5]]
    assert len(paths) == 10
    assert_right(open_decoded_cache(folder, (384, 128), paths, 2), paths, (384, 128))


def test_pixels_are_mapped_and_protected(paths, folder):
    cache = open_decoded_cache(folder, SIZE, paths)
    base = cache.pixels
    while not isinstance(base, np.memmap):
        base = base.base
    assert Path(base.filename) == file_of(folder, "pixels").resolve()
    with pytest.raises(ValueError, match="read-only"):
        cache(paths[0])[0] = 0


def test_the_config_chooses(paths, folder):
    assert_right(pixel_loader(RuntimeConfig(), SIZE, paths), paths)
    assert not folder.exists()
    cache = pixel_loader(RuntimeConfig(decoded_cache=str(folder)), SIZE, paths)
    assert isinstance(cache, decoded_cache.DecodedCache)
    assert_right(cache, paths)


def test_new_pictures_are_added_to_the_old(paths, folder, decoded):
    before = open_decoded_cache(folder, SIZE, paths[:4])
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths
    assert_right(before, paths[:4])


def replaced(path: Path) -> None:
    put(path, 12)


def touched(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def of_the_same_age(path: Path) -> None:
    status = path.stat()
    put(path, 12)
    assert path.stat().st_size != status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, touched, of_the_same_age])
def test_a_changed_picture_alone_is_decoded_again(paths, folder, decoded, change):
    running = open_decoded_cache(folder, SIZE, paths)
    before = {path: running(path).copy() for path in paths}
    decoded.clear()
    change(paths[2])
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == [paths[2]]
    # Who had the cache open keeps what it had.
    assert all(np.array_equal(running(path), before[path]) for path in paths)


def test_a_picture_that_was_moved_is_decoded_at_its_place(paths, folder, decoded):
    open_decoded_cache(folder, SIZE, paths)
    shutil.copy2(paths[0], paths[0].with_name("other.jpg"))
    decoded.clear()
    assert_right(open_decoded_cache(folder, SIZE, [paths[0].with_name("other.jpg")]), [paths[0].with_name("other.jpg")])
    assert len(decoded) == 1


def test_sizes_lie_side_by_side(paths, folder, decoded):
    for size in (SIZE, (8, 24), SIZE, (8, 24)):
        assert_right(open_decoded_cache(folder, size, paths), paths, size)
    assert len(decoded) == 2 * len(paths)


@pytest.mark.parametrize("part", ["pillow", "a decoder"])
def test_another_version_decodes_into_files_of_its_own(paths, folder, decoded, monkeypatch, part):
    open_decoded_cache(folder, SIZE, paths)
    with monkeypatch.context() as patch:
        if part == "pillow":
            patch.setattr(PIL, "__version__", "99.0")
        else:
            patch.setattr(PIL.features, "version", lambda name: "99.0")
        assert_right(open_decoded_cache(folder, SIZE, paths), paths)
        assert len(decoded) == 2 * len(paths)
    open_decoded_cache(folder, SIZE, paths)
    assert len(decoded) == 2 * len(paths)


# 2. Kills and damage.


def test_a_killed_fill_resumes_where_it_was(paths, folder, decoded, monkeypatch):
    load = decoded_cache.load_pixels

    def killed(path, image_size):
        if path == paths[5]:
            raise KeyboardInterrupt
        return load(path, image_size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoded_cache, "load_pixels", killed)
        open_decoded_cache(folder, SIZE, paths)
    decoded.clear()
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths[3:]


FILL = f"""
import sys
from pathlib import Path
from ms_unireid.data import decoded_cache
load, decoded_cache._CHUNK = decoded_cache.load_pixels, 1
def slow(path, image_size):
    if len(sys.argv) > 3 and path.name.startswith("3"):
        print("here", flush=True)
        sys.stdin.readline()
    return load(path, image_size)
decoded_cache.load_pixels = slow
decoded_cache.open_decoded_cache(Path(sys.argv[1]), {SIZE}, sorted(Path(sys.argv[2]).iterdir()))
"""


def start_fill(folder: Path, pictures: Path, *waiting: str) -> subprocess.Popen:
    """Fill a cache in a separate process, which may wait for a line, with the lock held, at the fourth picture."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", FILL, str(folder), str(pictures), *waiting]
    started = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    if waiting:
        assert started.stdout.readline() == "here\n"
    return started


def test_a_process_killed_while_it_fills_leaves_its_pictures_and_no_lock(paths, folder, decoded):
    with start_fill(folder, paths[0].parent, "waiting") as filling:
        filling.kill()
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths[3:]


def test_two_runs_that_fill_at_once_decode_once(paths, folder):
    with start_fill(folder, paths[0].parent, "waiting") as first, start_fill(folder, paths[0].parent) as second:
        assert "waiting for another run that decodes" in second.stderr.readline()
        first.communicate("go on\n", timeout=60)
        second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert file_of(folder, "pixels").stat().st_size == len(paths) * ROW
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)


def overwrite(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


# The damaged file, the damage, the pictures decoded again, and the words of the note.
DAMAGES = {
    "a wrong pixel": ("pixels", lambda f: overwrite(f, 2 * ROW + 7, b"\xa5\x5a"), [2], "1 of 7 pictures are damaged"),
    "pixels cut off": ("pixels", lambda f: cut(f, 5 * ROW + 1), [5, 6], "2 of 7 pictures are damaged or incomplete"),
    "no pixels": ("pixels", lambda f: cut(f, 0), range(7), "7 of 7 pictures are damaged"),
    "pixels lost": ("pixels", Path.unlink, range(7), "7 of 7 pictures are damaged"),
    "a line without its end": ("jsonl", lambda f: cut(f, f.stat().st_size - 4), [6], None),
    "a line without its newline": ("jsonl", lambda f: cut(f, f.stat().st_size - 1), [], None),
    "pixels without lines": ("jsonl", lambda f: f.write_bytes(f.read_bytes().split(b"\n")[0] + b"\n"), range(7), None),
    "another size": (
        "jsonl",
        lambda f: f.write_bytes(f.read_bytes().replace(b"[24, 8]", b"[8, 24]", 1)),
        range(7),
        "all pictures are decoded again",
    ),
    "no lines": ("jsonl", lambda f: f.write_bytes(b"\0\xff" * 50), range(7), "all pictures are decoded again"),
    "lines lost": ("jsonl", Path.unlink, range(7), None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_reported_and_repaired(paths, folder, decoded, capsys, damage):
    open_decoded_cache(folder, SIZE, paths)
    decoded.clear()
    capsys.readouterr()
    suffix, spoil, again, words = DAMAGES[damage]
    spoil(file_of(folder, suffix))
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == [paths[i] for i in again]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == (words is not None) and all(words in note and str(folder) in note for note in notes)
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert len(decoded) == len(again)


def test_a_damaged_line_costs_its_picture_only(paths, folder, decoded):
    open_decoded_cache(folder, SIZE, paths)
    decoded.clear()
    lines = file_of(folder, "jsonl").read_bytes().split(b"\n")
    for number, line in ((2, b"\xff\xfe"), (3, b"[[], 1, 2, 3]"), (4, b"17")):
        lines[number] = line
    file_of(folder, "jsonl").write_bytes(b"\n".join(lines))
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths[1:4]


def test_a_folder_emptied_and_filled_in_another_order_meanwhile(paths, folder, monkeypatch):
    open_decoded_cache(folder, SIZE, paths[:4])
    appending = DecodedStore.appending

    def late(store):
        monkeypatch.setattr(DecodedStore, "appending", appending)
        shutil.rmtree(folder)
        open_decoded_cache(folder, SIZE, paths[3::-1])
        return appending(store)

    monkeypatch.setattr(DecodedStore, "appending", late)
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)


# 3. What cannot be done.


def test_an_unreadable_picture_is_named(paths, folder, decoded):
    paths[4].write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"4_RGB\.png: not a picture"):
        open_decoded_cache(folder, SIZE, paths)
    with pytest.raises(DataError, match=r"gone\.png: the file does not exist"):
        open_decoded_cache(folder, SIZE, [paths[0], paths[0].with_name("gone.png")])
    decoded.clear()
    put(paths[4], 4)
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths[3:]


def test_too_little_room_is_reported_before_anything_is_decoded(paths, folder, decoded, monkeypatch):
    open_decoded_cache(folder, SIZE, paths[:2])
    decoded.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * ROW - 1))
    with pytest.raises(UserError, match=r"cache: 5 decoded pictures need 0\.0 GiB, .* are free; make room"):
        open_decoded_cache(folder, SIZE, paths)
    assert decoded == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * ROW))
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)


def test_a_full_disk_is_reported_and_cached_pictures_stay(paths, folder, decoded):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * ROW, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot be written \(File too large\); make room .*runtime\.decoded_cache"
        ):
            open_decoded_cache(folder, SIZE, paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    decoded.clear()
    assert_right(open_decoded_cache(folder, SIZE, paths), paths)
    assert decoded == paths[3:]


def test_a_folder_that_cannot_be_made_is_reported(paths, folder):
    folder.parent.write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{folder.parent}.*: cannot be written \(.*\); .*another folder"):
        open_decoded_cache(folder, SIZE, paths)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_whole_cache_serves_from_a_folder_that_cannot_be_written(paths, folder, monkeypatch, number):
    open_decoded_cache(folder, SIZE, paths[:5])
    opened = os.open

    def refuse(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert_right(open_decoded_cache(folder, SIZE, paths[:5]), paths[:5])
    with pytest.raises(UserError, match=rf"\.lock: cannot be written \({os.strerror(number)}\)"):
        open_decoded_cache(folder, SIZE, paths)
