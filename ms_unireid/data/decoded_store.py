"""Decoded pictures on disk: rows of uint8 pixels, and lines that say whose they are.

FOLDER/384x128-1a2b3c4d.pixels   row after row, each the pixels (H, W, 3) of one picture
FOLDER/384x128-1a2b3c4d.jsonl    first how pixels are made; then, line after line, whose row it is and its checksum
FOLDER/384x128-1a2b3c4d.lock     held by who appends

Rows and lines are only ever appended, pixels before their lines. So a run keeps what it opened while another appends,
and who is killed in the middle leaves at worst a line without an end, whose row nobody uses. Which pictures a run
needs, and decoding them, is `decoded_cache`'s business.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import features
from tqdm import tqdm

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
