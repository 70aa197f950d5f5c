"""A cache on disk of a training run's pictures, decoded and resized.

FOLDER/384x128-1a2b3c4d.pixels   one row per picture: its pixels (H, W, 3), uint8
FOLDER/384x128-1a2b3c4d.jsonl    a header that says how the pixels are made, then one line per row: picture, checksum
FOLDER/384x128-1a2b3c4d.lock     held by the process that appends

Rows and lines are only appended, pixels before their lines. So an open cache stays valid while another process appends,
and a killed process leaves at worst an incomplete last line, whose row is ignored.
"""

import contextlib
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
from ms_unireid.data.pictures import FIX, READER, describe
from ms_unireid.data.transforms import PixelLoader, load_pixels
from ms_unireid.errors import DataError, UserError
from ms_unireid.files import locked


class PictureState(NamedTuple):
    """Path, size and modification time of a picture file; the cached row is valid while they do not change."""

    path: str
    size: int
    mtime_ns: int


class Found(NamedTuple):
    """The cached rows of some pictures."""

    pixels: np.ndarray  # all rows of the store, uint8 (N, H, W, 3), memory-mapped
    rows: dict[Path, int]  # by picture, for those with a valid row
    damaged: int  # pictures whose row is damaged or cut off


def recipe(image_size: tuple[int, int]) -> dict[str, Any]:
    """Return what decides the pixels besides the picture file: versions of the decoders, filter and size."""
    decoders = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp")}
    return {
        "format": READER,
        "image_size": list(image_size),
        "filter": "bilinear",
        "pillow": PIL.__version__,
        **{name: version and str(version) for name, version in decoders.items()},
    }


class DecodedStore:
    """The files of one image size (H, W) and one set of decoder versions; the folder is made if missing.

    Constructor and methods raise OSError if a file cannot be read or written.
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
        """Map all whole rows: uint8 (N, H, W, 3), read from disk when used."""
        rows = self.pixels_file.stat().st_size // self.row_bytes if self.pixels_file.exists() else 0
        if not rows:  # an empty file cannot be mapped
            return np.empty((0, *self.image_size, 3), np.uint8)
        return np.asarray(np.memmap(self.pixels_file, np.uint8, "r", shape=(rows, *self.image_size, 3)))

    def find(self, wanted: Mapping[Path, PictureState], threads: int) -> Found:
        """Look up pictures, and check each row against its checksum."""
        held, pixels = self._held(), self.pixels()
        known = {path: held[state] for path, state in wanted.items() if state in held}

        def sound(found: tuple[int, int]) -> bool:
            row, checksum = found
            return row < len(pixels) and zlib.crc32(pixels[row]) == checksum

        # Closed first, the checks cancel what an interruption leaves.
        with ThreadPoolExecutor(threads) as pool, contextlib.closing(pool.map(sound, known.values())) as checks:
            bar = tqdm(checks, "checking decoded pictures", len(known), unit="picture", delay=2, dynamic_ncols=True)
            rows = {path: row for (path, (row, _)), good in zip(known.items(), bar, strict=True) if good}
        return Found(pixels, rows, len(known) - len(rows))

    @contextlib.contextmanager
    def appending(self) -> Iterator[None]:
        """Hold the lock for `append`; wait while another process holds it."""
        with locked(self.lock_file, f"waiting for another run that decodes pictures into {self.pixels_file}"):
            self._make_ready()
            yield

    def append(self, states: Sequence[PictureState], pictures: Sequence[np.ndarray]) -> range:
        """Append pixels, each uint8 (H, W, 3), then their lines; return the rows. Only within `appending`."""
        rows = range(self._next_row, self._next_row + len(states))
        block = np.stack(pictures)
        with self.pixels_file.open("r+b") as file:
            file.seek(rows.start * self.row_bytes)  # after the last row that has a line; what follows is ignored
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        lines = [json.dumps([*state, zlib.crc32(pixels)]) for state, pixels in zip(states, block, strict=True)]
        with self.lines_file.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        self._next_row = rows.stop
        return rows

    def _held(self) -> dict[PictureState, tuple[int, int]]:
        header, *lines = self._content().split(b"\n")
        held: dict[PictureState, tuple[int, int]] = {}
        if header == self._header:
            for row, line in enumerate(lines):
                with contextlib.suppress(ValueError, TypeError, RecursionError):  # a damaged line: its row is ignored
                    path, size, mtime_ns, checksum = json.loads(line)
                    held[PictureState(path, size, mtime_ns)] = row, checksum
        return held

    def _content(self) -> bytes:
        return self.lines_file.read_bytes() if self.lines_file.exists() else b""

    def _make_ready(self) -> None:
        """Create the files if they are missing or damaged, and end an incomplete line."""
        content = self._content()
        if not content.startswith(self._header + b"\n"):
            if content:
                print(f"note: {self.lines_file} is damaged; all pictures are decoded again", file=sys.stderr)
            # Removed, not emptied: a process that has the pixels mapped keeps them.
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


_CHUNK = 256  # pictures between two writes; a kill loses at most these
_GIB = 1 << 30


class DecodedCache:
    """Pixels of pictures from a memory-mapped file; a `PixelLoader` that is safe in several threads."""

    def __init__(self, pixels: np.ndarray, rows: Mapping[Path, int]):
        self.pixels, self.rows = pixels, rows

    def __call__(self, path: Path) -> np.ndarray:
        """Return a picture's pixels, uint8 (H, W, 3), read-only; a KeyError if the cache was opened without it."""
        return self.pixels[self.rows[path]]


def pixel_loader(runtime: RuntimeConfig, image_size: tuple[int, int], paths: Iterable[Path]) -> PixelLoader:
    """Return the loader of a run's pictures: the cache in `runtime.decoded_cache`, `load_pixels` if that is null."""
    if runtime.decoded_cache is None:
        return functools.partial(load_pixels, image_size=image_size)
    return open_decoded_cache(Path(runtime.decoded_cache), image_size, paths, runtime.workers)


def open_decoded_cache(
    folder: Path, image_size: tuple[int, int], paths: Iterable[Path], threads: int = 1
) -> DecodedCache:
    """Open the cache in a folder and decode the pictures that are missing, changed or damaged in it.

    Processes may share a folder: one decodes, the others wait. A picture that cannot be read raises a DataError, a
    folder that cannot be written or has too little room a UserError.
    """
    wanted = {path: _state(path) for path in dict.fromkeys(paths)}
    try:
        store = DecodedStore(folder, image_size)
        found = store.find(wanted, threads)
        if found.damaged:
            what = f"{found.damaged} of {len(wanted)} pictures are damaged or incomplete; they are decoded again"
            print(f"note: {store.pixels_file}: {what}", file=sys.stderr)
        if len(found.rows) == len(wanted):
            return DecodedCache(found.pixels, found.rows)
        with store.appending():
            # Again: meanwhile another run may have appended, or somebody emptied the folder.
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
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {describe(error)}. {FIX}") from error
    return PictureState(os.path.abspath(path), status.st_size, status.st_mtime_ns)


def _decode(store: DecodedStore, missing: Mapping[Path, PictureState], threads: int) -> dict[Path, int]:
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
