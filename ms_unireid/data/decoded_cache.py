"""The pictures of a training run, decoded and resized once and kept on disk.

FOLDER/384x128-1a2b3c4d.pixels   row after row, each the pixels (H, W, 3) of one picture, uint8
FOLDER/384x128-1a2b3c4d.jsonl    first how pixels are made; then, a line a row, whose it is and its checksum
FOLDER/384x128-1a2b3c4d.lock     held by the process that appends

Rows and lines are only appended, pixels before their lines. So a run keeps what it opened while another appends, and
a killed process leaves at worst a line without an end, whose row nobody uses.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import features
from tqdm import tqdm

from ms_unireid.config import RuntimeConfig
from ms_unireid.data.pictures import FIX, describe
from ms_unireid.data.transforms import PixelLoader, load_pixels
from ms_unireid.errors import DataError, UserError

_FORMAT = 1  # to be raised when `transforms.load_pixels` comes to give other pixels


class PictureState(NamedTuple):
    """A picture file as it was when it was decoded; as long as nothing of it changes, its row is valid."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "PictureState":
        """Look at a file.

        Raises:
            OSError: If it cannot be looked at.
        """
        status = os.stat(path)
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)


class Found(NamedTuple):
    """What a store has of the pictures that are looked for.

    Attributes:
        pixels: Every row of the store, uint8 (N, H, W, 3), mapped.
        rows: The row of each picture that has a valid one.
        damaged: How many have a row that is damaged or cut off.
    """

    pixels: np.ndarray
    rows: dict[Path, int]
    damaged: int


def recipe(image_size: tuple[int, int]) -> dict[str, Any]:
    """Say what decides pixels besides the picture file: the versions of the decoders, filter and size."""
    decoders = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp")}
    return {
        "format": _FORMAT,
        "image_size": list(image_size),
        "filter": "bilinear",
        "pillow": PIL.__version__,
        **{name: version and str(version) for name, version in decoders.items()},
    }


class DecodedStore:
    """The files of one image size and one set of decoder versions.

    Args:
        folder: Holds the files of every size; made if absent.
        image_size: Height and width in pixels.

    Raises:
        OSError: If the folder cannot be made; the methods raise it as well.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int]):
        self.image_size = image_size
        self.row_bytes = image_size[0] * image_size[1] * 3
        self._header = json.dumps(recipe(image_size)).encode()
        self._next_row = 0
        name = f"{image_size[0]}x{image_size[1]}-{hashlib.sha256(self._header).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        self.pixels_file, self.lines_file, self.lock_file = (
            folder / f"{name}.{suffix}" for suffix in ("pixels", "jsonl", "lock")
        )

    def pixels(self) -> np.ndarray:
        """Map the whole rows there are: uint8 (N, H, W, 3), read from disk as they are used."""
        rows = self.pixels_file.stat().st_size // self.row_bytes if self.pixels_file.exists() else 0
        if not rows:  # nothing cannot be mapped
            return np.empty((0, *self.image_size, 3), np.uint8)
        return np.asarray(np.memmap(self.pixels_file, np.uint8, "r", shape=(rows, *self.image_size, 3)))

    def find(self, wanted: Mapping[Path, PictureState], threads: int) -> Found:
        """Look for pictures; every row is checked against its checksum."""
        held, pixels = self._held(), self.pixels()
        known = {path: held[state] for path, state in wanted.items() if state in held}

        def sound(found: tuple[int, int]) -> bool:
            row, checksum = found
            return row < len(pixels) and zlib.crc32(pixels[row]) == checksum

        with ThreadPoolExecutor(threads) as pool:
            checks = pool.map(sound, known.values())
            bar = tqdm(checks, "checking decoded pictures", len(known), unit="picture", delay=2, dynamic_ncols=True)
            rows = {path: row for (path, (row, _)), good in zip(known.items(), bar, strict=True) if good}
        return Found(pixels, rows, len(known) - len(rows))

    @contextlib.contextmanager
    def appending(self) -> Iterator[None]:
        """Be the only one who appends; wait for whoever does."""
        with self.lock_file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another run that decodes pictures into {self.pixels_file}", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_ready()
            yield

    def append(self, states: Sequence[PictureState], pictures: Sequence[np.ndarray]) -> range:
        """Append pictures' pixels, each uint8 (H, W, 3), and their lines once these are on disk; return their rows.

        Only within `appending`.
        """
        rows = range(self._next_row, self._next_row + len(states))
        block = np.stack(pictures)
        with self.pixels_file.open("r+b") as file:
            file.seek(rows.start * self.row_bytes)  # behind the last line's row, whatever else is there
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        lines = [json.dumps([*state, zlib.crc32(pixels)]) for state, pixels in zip(states, block, strict=True)]
        with self.lines_file.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        self._next_row = rows.stop
        return rows

    def _held(self) -> dict[PictureState, tuple[int, int]]:
        """Return row and checksum of every picture state; of several rows the last."""
        header, *lines = self._content().split(b"\n")
        held: dict[PictureState, tuple[int, int]] = {}
        if header == self._header:
            for row, line in enumerate(lines):
                with contextlib.suppress(ValueError, TypeError):  # a line cut off or damaged: nobody's row
                    path, size, mtime_ns, checksum = json.loads(line)
                    held[PictureState(path, size, mtime_ns)] = row, checksum
        return held

    def _content(self) -> bytes:
        return self.lines_file.read_bytes() if self.lines_file.exists() else b""

    def _make_ready(self) -> None:
        """Begin the files if there are none or if they are of something else; end a line that was cut off."""
        content = self._content()
        if not content.startswith(self._header + b"\n"):
            if content:
                print(f"note: {self.lines_file}: is damaged; all pictures are decoded again", file=sys.stderr)
            # Removed, not emptied: who has the pixels mapped keeps them.
            self.lines_file.unlink(missing_ok=True)
            self.pixels_file.unlink(missing_ok=True)
            content = self._header + b"\n"
            self.lines_file.write_bytes(content)
        elif not content.endswith(b"\n"):
            with self.lines_file.open("ab") as file:
                file.write(b"\n")
            content += b"\n"
        self.pixels_file.touch()
        self._next_row = content.count(b"\n") - 1


_CHUNK = 256  # pictures between two writes: what a kill loses
_GIB = 1 << 30


class DecodedCache:
    """Pixels of pictures out of a memory-mapped file; a `PixelLoader`, safe in several threads.

    Args:
        pixels: uint8 (N, H, W, 3).
        rows: Which row is whose.
    """

    def __init__(self, pixels: np.ndarray, rows: Mapping[Path, int]):
        self.pixels, self.rows = pixels, rows

    def __call__(self, path: Path) -> np.ndarray:
        """Return a picture's pixels, uint8 (H, W, 3), not to be written to.

        Raises:
            KeyError: For a picture that the cache was not opened with.
        """
        return self.pixels[self.rows[path]]


def pixel_loader(runtime: RuntimeConfig, image_size: tuple[int, int], paths: Iterable[Path]) -> PixelLoader:
    """Return what gives the pixels of a run's pictures, as `runtime.decoded_cache` says.

    Args:
        runtime: The cache's folder, and how many threads may decode.
        image_size: Height and width in pixels.
        paths: All pictures that will be asked for.

    Raises:
        UserError: See `open_decoded_cache`.
    """
    if runtime.decoded_cache is None:
        return functools.partial(load_pixels, image_size=image_size)
    return open_decoded_cache(Path(runtime.decoded_cache), image_size, paths, runtime.workers)


def open_decoded_cache(
    folder: Path, image_size: tuple[int, int], paths: Iterable[Path], threads: int = 1
) -> DecodedCache:
    """Open the cache of decoded pictures, and decode into it what it lacks.

    A picture is decoded again if its file's size or modification time has changed, if its pixels on disk do not have
    their checksum, and if Pillow or one of its decoders has another version. Runs and processes may share a folder:
    one decodes, the others wait. Killed, it keeps what it has.

    Args:
        folder: Holds the caches of every image size; made if absent.
        image_size: Height and width in pixels.
        paths: The pictures; one given twice is decoded once.
        threads: How many decode.

    Returns:
        The cache, with the pixels that `load_pixels` gives.

    Raises:
        DataError: If a picture cannot be read.
        UserError: If the folder cannot be written or has too little room.
    """
    wanted = {path: _state(path) for path in dict.fromkeys(paths)}
    try:
        store = DecodedStore(folder, image_size)
        found = store.find(wanted, threads)
        if found.damaged:
            what = f"{found.damaged} of {len(wanted)} pictures are damaged or cut off; they are decoded again"
            print(f"note: {store.pixels_file}: {what}", file=sys.stderr)
        if len(found.rows) == len(wanted):
            return DecodedCache(found.pixels, found.rows)
        with store.appending():
            # Anew: another run may have appended since, or somebody emptied the folder.
            rows = store.find(wanted, threads).rows
            rows |= _decode(store, {path: state for path, state in wanted.items() if path not in rows}, threads)
            return DecodedCache(store.pixels(), rows)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); make room or choose another "
            "folder for runtime.decoded_cache"
        ) from error


def _state(path: Path) -> PictureState:
    try:
        return PictureState.of(path)
    except OSError as error:
        raise DataError(f"{path}: {describe(error)}. {FIX}") from error


def _decode(store: DecodedStore, missing: Mapping[Path, PictureState], threads: int) -> dict[Path, int]:
    """Decode pictures into the store and return their rows."""
    _check_room(store, len(missing))
    decode = functools.partial(load_pixels, image_size=store.image_size)
    paths, rows = list(missing), {}
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(desc="decoding pictures", total=len(paths), unit="picture", mininterval=1.0, disable=not paths) as bar,
    ):
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            new = store.append([missing[path] for path in chunk], list(pool.map(decode, chunk)))
            rows |= zip(chunk, new, strict=True)
            bar.update(len(chunk))
    return rows


def _check_room(store: DecodedStore, pictures: int) -> None:
    folder, needed = store.pixels_file.parent, pictures * store.row_bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {pictures} decoded pictures need {needed / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free; make "
            "room, choose another folder for runtime.decoded_cache, or leave it null"
        )
