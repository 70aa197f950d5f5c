"""Where a run's pictures come from: each file decoded whenever it is needed, or once and for all into a cache."""

import functools
import shutil
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ms_unireid.config import RuntimeConfig
from ms_unireid.data.decoded_store import DecodedStore, PictureState
from ms_unireid.data.transforms import PixelLoader, load_pixels
from ms_unireid.errors import DataError, UserError
from ms_unireid.picture_files import FIX, describe

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
