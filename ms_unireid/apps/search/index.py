"""An index of photos on disk: a feature a row, memory-mapped, and the manifest that says whose it is.

Rows are only ever added behind those that the manifest knows, or written anew into another file that the manifest then
names: whenever a process is killed, what the manifest says is there.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ms_unireid.apps.search.manifest import FILE, Manifest, Photo
from ms_unireid.errors import DataError, UserError

DTYPES = ("float16", "float32")
_ROWS_AT_ONCE = 1 << 14
_LOCK = ".lock"


class PhotoIndex:
    """A snapshot of an index, to search in; later changes of the files do not reach it.

    Args:
        folder: The index.

    Attributes:
        folder: The index.
        about: What made it: checkpoint, model, preprocessing, dtype.
        features: (N, D) float16 or float32, each of length 1, memory-mapped.

    Raises:
        DataError: If it is no index, or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        manifest = Manifest(self.folder)
        with contextlib.closing(manifest), manifest.change():
            self.about = manifest.about()
            self.features = _features(self.folder, self.about, manifest.count())
            self._folders = {number: Path(source.folder) for number, source in manifest.sources().items()}
            self._names = list(manifest.names())

    @classmethod
    def open(cls, folder: Path) -> "PhotoIndex":
        """Open an index."""
        return cls(folder)

    @property
    def count(self) -> int:
        """Number of photos."""
        return len(self._names)

    @property
    def dim(self) -> int:
        """Length of a feature."""
        return self.features.shape[1]

    @property
    def photos(self) -> list[Path]:
        """Paths of all photos, by row."""
        return [self.path(row) for row in range(self.count)]

    def path(self, row: int) -> Path:
        """Return where the photo of a row lies.

        Raises:
            IndexError: If there is no such row.
        """
        if row < 0:
            raise IndexError(row)
        source, name, _ = self._names[row]
        return self._folders[source] / name

    def name(self, row: int) -> str:
        """Return a photo's path relative to its folder."""
        return self._names[row][1]

    def person(self, row: int) -> str | None:
        """Return who the photo of a row shows; None where nobody said."""
        return self._names[row][2]

    def sha256(self, row: int) -> bytes | None:
        """Return the digest of a photo's content when it was indexed; None if it was taken out since then.

        Raises:
            UserError: If the manifest cannot be read.
        """
        source, name, _ = self._names[row]
        with contextlib.closing(Manifest(self.folder)) as manifest:
            return manifest.sha256(source, name)


def describe(folder: Path) -> dict[str, Any]:
    """Describe an index: what made it, what is in it, what was skipped.

    Raises:
        DataError: If it is no index, or damaged.
    """
    manifest = Manifest(Path(folder))
    with contextlib.closing(manifest), manifest.change():
        sources = manifest.sources()
        skipped = {str(Path(sources[one.source].folder) / one.name): one.reason for one in manifest.skipped()}
        listed = [{key: value for key, value in source._asdict().items() if value} for source in sources.values()]
        return {**manifest.about(), "photos": manifest.count(), "sources": listed, "skipped": skipped}


def model_overrides(about: dict[str, Any]) -> list[str]:
    """Return the `model.key=value` strings that make the model of an index from its checkpoint."""
    return [f"model.{key}={'null' if value is None else value}" for key, value in about["model"].items()]


class IndexWriter:
    """An index that one process at a time changes.

    Args:
        folder: The index; made if it is not there.
        about: What makes the features: `checkpoint` (path and sha256), `model`, `preprocessing`, `dtype`, `dim`.

    Attributes:
        manifest: What is in it.
        repaired: Rows that an earlier process named and whose features are gone.

    Raises:
        UserError: If another process is changing it, or it cannot be written.
        DataError: If it is damaged, or was made by another checkpoint or another preprocessing.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder = folder
        _make_folder(folder)
        self._lock = _locked(folder)
        try:
            self.manifest = Manifest(folder, {**about, "file": 1, "changes": 0})
            _check_same(folder, self.manifest.about(), about)
            self.repaired = self._repair()
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Close the files and let others change the index."""
        self.manifest.close()
        self._lock.close()

    def append(self, photos: Sequence[Photo], features: np.ndarray) -> None:
        """Add photos with their features (N, D), each of length 1; on disk when this returns.

        Raises:
            UserError: If there is no room.
        """
        about, count = self.manifest.about(), self.manifest.count()
        with _explained(self.folder), open(self._features_file(about), "r+b") as file:
            file.seek(count * _row_bytes(about))
            file.truncate()
            file.write(np.ascontiguousarray(features, about["dtype"]).tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.manifest.change():
            self.manifest.add_photos(count, photos)
            self._count_change(about)

    def rearrange(self, photos: Sequence[Photo], rows: Sequence[int], dropped: Sequence[int] = ()) -> None:
        """Put these photos in the place of all, with the features that now stand in `rows`; forget dropped sources.

        Raises:
            UserError: If there is no room.
        """
        about = self.manifest.about()
        features = _features(self.folder, about, self.manifest.count())
        number = about["file"] + 1
        target = _features_name(self.folder, number, about["dtype"])
        rows = np.asarray(rows, np.int64)
        with _explained(self.folder), open(target, "wb") as file:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                file.write(np.ascontiguousarray(features[rows[start : start + _ROWS_AT_ONCE]]).tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self.manifest.change():
            for source in dropped:
                self.manifest.drop_source(source)
            self.manifest.replace_photos(photos)
            self.manifest.set_about(file=number)
            self._count_change(about)
        self._remove_leftovers()

    def _count_change(self, about: dict[str, Any]) -> None:
        self.manifest.set_about(changes=about["changes"] + 1)

    def _repair(self) -> int:
        """Forget photos whose features are not in the file, and remove what an interrupted change left."""
        about, count = self.manifest.about(), self.manifest.count()
        file = self._features_file(about)
        there = file.stat().st_size // _row_bytes(about) if file.exists() else 0
        if there < count:
            with self.manifest.change():
                self.manifest.keep_photos(there)
        if not file.exists():
            file.touch()
        self._remove_leftovers()
        return max(0, count - there)

    def _remove_leftovers(self) -> None:
        kept = self._features_file(self.manifest.about())
        for file in self.folder.glob("features.*"):
            if file != kept:
                file.unlink(missing_ok=True)

    def _features_file(self, about: dict[str, Any]) -> Path:
        return _features_name(self.folder, about["file"], about["dtype"])


def _make_folder(folder: Path) -> None:
    with _explained(folder):
        if folder.exists() and not (folder / FILE).exists() and any(f.name != _LOCK for f in folder.iterdir()):
            raise DataError(f"{folder}: holds other files and no index; choose another --output")
        folder.mkdir(parents=True, exist_ok=True)


def _locked(folder: Path) -> IO:
    """Keep other processes from changing the index until the file is closed or this process ends, however it ends."""
    import fcntl  # not on Windows, where MindSpore has no GPU or Ascend either

    with _explained(folder):
        file = (folder / _LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(f"{folder}: another process is changing this index; wait for it, or stop it") from error
    return file


def _check_same(folder: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that features of two makings may stand in one index."""
    if made["checkpoint"]["sha256"] != wanted["checkpoint"]["sha256"]:
        raise DataError(
            f"{folder}: was made by another checkpoint ({made['checkpoint']['path']}, sha256 "
            f"{made['checkpoint']['sha256'][:12]}...), whose features cannot be compared with those of "
            f"{wanted['checkpoint']['path']}; take that checkpoint, or another --output"
        )
    for key in ("model", "preprocessing", "dtype"):
        if made[key] != wanted[key]:
            raise DataError(
                f"{folder}: was made with {key} {made[key]}, not {wanted[key]}; keep that, or choose another --output"
            )


def _features(folder: Path, about: dict[str, Any], count: int) -> np.ndarray:
    """Map the features of all photos."""
    shape = (count, about["dim"])
    if not count:
        return np.zeros(shape, about["dtype"])
    file = _features_name(folder, about["file"], about["dtype"])
    if not file.exists() or file.stat().st_size < count * _row_bytes(about):
        raise DataError(
            f"{file}: is not there, or shorter than its {count} features; tools/search.py index repairs the index"
        )
    return np.memmap(file, about["dtype"], "r", shape=shape)


def _features_name(folder: Path, number: int, dtype: str) -> Path:
    return folder / f"features.{number}.{dtype}"


def _row_bytes(about: dict[str, Any]) -> int:
    return about["dim"] * np.dtype(about["dtype"]).itemsize


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); make room, or choose another "
            "--output"
        ) from error
