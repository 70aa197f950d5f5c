"""Changes to an index on disk, by one process at a time and safe against a kill at any moment.

New features are written after the rows that the manifest names, or into a new file that the manifest names afterwards,
so every photo in the manifest has its feature on disk. Features are checked before they are copied: damage is never
given a new checksum.
"""

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.apps.search.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    Photo,
    Skipped,
    features_file,
    read_features,
    row_bytes,
)
from ms_unireid.errors import DataError, UserError
from ms_unireid.files import locked

_LOCK = ".lock"


class Batch(NamedTuple):
    """A batch of new photos: what its files are, the features (N, D) of the readable ones, and damage inside them."""

    found: list[Photo | Skipped]
    feats: np.ndarray
    damaged: dict[str, str]


class IndexWriter:
    """An index that is locked for changes.

    Args:
        folder: The index; created if it does not exist.
        about: How the features are made: `checkpoint` (path and sha256), `model`, `preprocessing`, `dtype`, `dim`.

    Attributes:
        manifest: Its manifest.
        repaired: Photos that were dropped at opening because their features were missing.

    Raises:
        UserError: If another process is changing the index, or it cannot be written; so do the methods.
        DataError: If it is damaged, or was made with another checkpoint or other preprocessing.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder = folder
        _make_folder(folder)
        self._lock = locked(folder / _LOCK)
        try:
            new = {"id": uuid.uuid4().hex, "file": 1, "changes": 0, "left": 0}
            self.manifest = Manifest(folder, {**about, **new})
            self.manifest.check_database()
            _check_same(folder, self.manifest.about(), about)
            self.repaired = self._repair()
            features = self._features()
            if self.manifest.format != FORMAT:
                self.manifest.upgrade(features, id=new["id"], left=self.manifest.about()["left"])
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Close the files and release the lock."""
        self.manifest.close()
        self._lock.close()

    def append(self, photos: Sequence[Photo], features: np.ndarray, skipped: Sequence[Skipped] = ()) -> None:
        """Add photos, their L2-normalised features (N, D) and unreadable photos; all are on disk on return."""
        about, count = self.manifest.about(), self.manifest.count()
        features = np.ascontiguousarray(features, about["dtype"])
        with _clear_errors(self.folder), open(features_file(self.folder, about), "r+b") as file:
            file.seek(count * row_bytes(about))
            file.truncate()
            file.write(features)
            file.flush()
            os.fsync(file.fileno())
        with self.manifest.transaction():
            self.manifest.add_photos(count, photos, features)
            self.manifest.add_skipped(skipped)
            left = max(0, about["left"] - len(photos) - len(skipped))
            self.manifest.set_about(left=left, changes=about["changes"] + 1)

    def rearrange(self, photos: Sequence[Photo], rows: Sequence[int], dropped: Sequence[int] = ()) -> None:
        """Replace all photos; photo i takes the feature that is now at `rows[i]`. Remove the sources `dropped`."""
        about = self.manifest.about()
        features = self._features()[np.asarray(rows, np.int64)]
        number = about["file"] + 1
        with _clear_errors(self.folder), open(features_file(self.folder, {**about, "file": number}), "wb") as file:
            file.write(features)
            file.flush()
            os.fsync(file.fileno())
        with self.manifest.transaction():
            for source in dropped:
                self.manifest.drop_source(source)
            self.manifest.replace_photos(photos, features)
            self.manifest.set_about(file=number, changes=about["changes"] + 1)
        self._remove_old_files()

    def _features(self) -> np.ndarray:
        features = read_features(self.folder, self.manifest.about(), self.manifest.count())
        self.manifest.named_features(features)
        return features

    def _repair(self) -> int:
        """Drop photos whose features are missing, and remove the files of an interrupted change."""
        about, count = self.manifest.about(), self.manifest.count()
        file = features_file(self.folder, about)
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise DataError(
                f"{file}: is not a plain file, so it is not written to; put the features there, or remove it"
            )
        with _clear_errors(self.folder):
            if not file.exists():
                file.touch()
            stored = file.stat().st_size // row_bytes(about)
        if stored < count:
            with self.manifest.transaction():
                self.manifest.truncate_photos(stored)
                self.manifest.set_about(left=about["left"] + count - stored)
        self._remove_old_files()
        return max(0, count - stored)

    def _remove_old_files(self) -> None:
        kept = features_file(self.folder, self.manifest.about())
        for file in self.folder.glob("features.*"):
            if file != kept:
                file.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    with _clear_errors(folder):
        if folder.exists() and not (folder / MANIFEST).exists() and any(f.name[0] != "." for f in folder.iterdir()):
            raise DataError(f"{folder}: has other files and is not an index; choose another --output")
        folder.mkdir(parents=True, exist_ok=True)


def _check_same(folder: Path, present: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that new features can be compared with those in the index."""
    made_by, given = present["checkpoint"], wanted["checkpoint"]
    if made_by["sha256"] != given["sha256"]:
        raise DataError(
            f"{folder}: was made with another checkpoint ({made_by['path']}, sha256 {made_by['sha256'][:12]}...), "
            f"and features of {given['path']} cannot be compared with it; use that checkpoint, or another --output"
        )
    for key in ("model", "preprocessing", "dtype"):
        if present[key] != wanted[key]:
            raise DataError(
                f"{folder}: was made with {key} {present[key]}, not {wanted[key]}; keep that, or choose another "
                "--output"
            )


@contextlib.contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free disk space, or choose "
            "another --output"
        ) from error
