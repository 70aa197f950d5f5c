"""An index of photos on disk: a file of features, one row per photo, and `manifest.sqlite`, which names the photos.

The manifest is an SQLite database because each of its transactions is applied completely or not at all, even if the
process is killed. `index_writer` changes an index.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.errors import DataError, UserError
from ms_unireid.installation import job_command

DTYPES = ("float16", "float32")
MANIFEST = "manifest.sqlite"
FORMAT = 1
_TABLES = (
    "about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # AUTOINCREMENT never reuses the number of a removed source, so its photos cannot be taken for another source's.
    "sources (id INTEGER PRIMARY KEY AUTOINCREMENT, folder TEXT NOT NULL, dataset TEXT NOT NULL, "
    "split TEXT NOT NULL, UNIQUE (folder, dataset, split))",
    "photos (row INTEGER PRIMARY KEY, source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL, person TEXT, UNIQUE (source, name))",
    "skipped (source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "reason TEXT NOT NULL, PRIMARY KEY (source, name))",
)
_ADD_PHOTO = "INSERT INTO photos (row, source, name, size, mtime_ns, sha256, person) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Source(NamedTuple):
    """A folder of photos, or one split of a data set in it."""

    folder: str  # absolute; photo names are relative to it
    dataset: str = ""  # empty for a plain folder
    split: str = ""  # train, val or test; empty for a plain folder


class Photo(NamedTuple):
    """An indexed photo and its file's state."""

    source: int  # number in the manifest
    name: str  # relative path with forward slashes
    size: int  # bytes
    mtime_ns: int  # modification time
    sha256: bytes
    person: str | None = None  # identity, if known


class Skipped(NamedTuple):
    """A photo that cannot be read: the fields of `Photo`, and the reason."""

    source: int
    name: str
    size: int
    mtime_ns: int
    reason: str


class Manifest:
    """An open manifest.

    Args:
        folder: The index.
        about: Values to create a new manifest with; None opens an existing one.

    Raises:
        DataError: If it is missing, damaged or of another format version.
        UserError: If it cannot be read or written.
    """

    def __init__(self, folder: Path, about: dict[str, Any] | None = None):
        self.file = folder / MANIFEST
        if about is None and not self.file.is_file():
            raise DataError(
                f"{folder}: is not an index ({MANIFEST} is missing); make one with {job_command('search')} index"
            )
        with self._clear_errors():
            self.database = sqlite3.connect(self.file, isolation_level=None)
            if about is not None and self._format() == 0:
                with self.transaction():
                    self._create(about)
            found = self._format()
        if found != FORMAT:
            raise DataError(f"{self.file}: has format {found}, expected {FORMAT}; make a new index")

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Apply all changes of the block, or none of them."""
        with self._clear_errors():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")

    def about(self) -> dict[str, Any]:
        """Return how the features were made, and the number of the features file."""
        return {key: json.loads(value) for key, value in self._rows("SELECT key, value FROM about")}

    def set_about(self, **values: Any) -> None:
        """Set values of `about`."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        self.database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def sources(self) -> dict[int, Source]:
        """Return the sources by number."""
        return {number: Source(*rest) for number, *rest in self._rows("SELECT id, folder, dataset, split FROM sources")}

    def add_source(self, source: Source) -> int:
        """Add a source unless it is present; return its number."""
        self.database.execute("INSERT OR IGNORE INTO sources (folder, dataset, split) VALUES (?, ?, ?)", source)
        ((number,),) = self._rows("SELECT id FROM sources WHERE (folder, dataset, split) = (?, ?, ?)", source)
        return number

    def drop_source(self, number: int) -> None:
        """Remove a source and its skipped photos; the caller removes its indexed photos."""
        self.database.execute("DELETE FROM sources WHERE id = ?", (number,))
        self.database.execute("DELETE FROM skipped WHERE source = ?", (number,))

    def count(self) -> int:
        """Return the number of photos N; their rows are 0 to N - 1."""
        ((count,),) = self._rows("SELECT count(*) FROM photos")
        return count

    def photos(self) -> list[Photo]:
        """Return the photos by row."""
        query = "SELECT source, name, size, mtime_ns, sha256, person FROM photos ORDER BY row"
        return [Photo(*row) for row in self._rows(query)]

    def names(self) -> list[tuple[int, str, str | None]]:
        """Return source, name and person of each photo by row."""
        return self._rows("SELECT source, name, person FROM photos ORDER BY row")

    def sha256(self, source: int, name: str) -> bytes | None:
        """Return the indexed digest of a photo; None if the photo is not in the index."""
        found = self._rows("SELECT sha256 FROM photos WHERE source = ? AND name = ?", (source, name))
        return found[0][0] if found else None

    def add_photos(self, first: int, photos: Iterable[Photo]) -> None:
        """Add photos at row `first` and after."""
        self.database.executemany(_ADD_PHOTO, ((first + i, *photo) for i, photo in enumerate(photos)))

    def replace_photos(self, photos: Iterable[Photo]) -> None:
        """Replace all photos."""
        self.database.execute("DELETE FROM photos")
        self.add_photos(0, photos)

    def truncate_photos(self, count: int) -> None:
        """Remove the photos at row `count` and after."""
        self.database.execute("DELETE FROM photos WHERE row >= ?", (count,))

    def skipped(self) -> list[Skipped]:
        """Return the photos that cannot be read."""
        query = "SELECT source, name, size, mtime_ns, reason FROM skipped ORDER BY source, name"
        return [Skipped(*row) for row in self._rows(query)]

    def replace_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Replace all skipped photos."""
        self.database.execute("DELETE FROM skipped")
        self.add_skipped(skipped)

    def add_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Add photos that cannot be read."""
        self.database.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?, ?, ?)", skipped)

    def _format(self) -> int:
        ((found,),) = self._rows("PRAGMA user_version")
        return found

    def _create(self, about: dict[str, Any]) -> None:
        for table in _TABLES:
            self.database.execute(f"CREATE TABLE {table}")
        self.set_about(**about)
        self.database.execute(f"PRAGMA user_version = {FORMAT}")

    def _rows(self, query: str, values: tuple = ()) -> list[tuple]:
        with self._clear_errors():
            return self.database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.file}: cannot be used ({error}); check the disk and your permissions in the folder"
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise DataError(
                f"{self.file}: is damaged or not a manifest ({error}); remove the folder and make a new index"
            ) from error


class PhotoIndex:
    """A snapshot of an index to search in; later changes of the index do not affect it.

    Args:
        folder: The index.

    Attributes:
        about: How the features were made: checkpoint, model, preprocessing, dtype.
        features: (N, D) float16 or float32, L2-normalised rows, memory-mapped.

    Raises:
        DataError: If the folder is not an index, or the index is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        manifest = Manifest(self.folder)
        with contextlib.closing(manifest), manifest.transaction():
            self.about = manifest.about()
            self.features = map_features(self.folder, self.about, manifest.count())
            self._folders = {number: Path(source.folder) for number, source in manifest.sources().items()}
            self._names = manifest.names()

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
        """Return the path of a photo; IndexError if the row does not exist."""
        if row < 0:
            raise IndexError(row)
        source, name, _ = self._names[row]
        return self._folders[source] / name

    def person(self, row: int) -> str | None:
        """Return the identity of the person in a photo; None if unknown."""
        return self._names[row][2]

    def sha256(self, row: int) -> bytes | None:
        """Return a photo's digest at the time of indexing; None if it has been removed from the index since."""
        source, name, _ = self._names[row]
        with contextlib.closing(Manifest(self.folder)) as manifest:
            return manifest.sha256(source, name)


def describe_index(folder: Path) -> dict[str, Any]:
    """Return how an index was made, its sources, its number of photos and the skipped photos.

    Raises:
        DataError: If the folder is not an index, or the index is damaged.
    """
    manifest = Manifest(Path(folder))
    with contextlib.closing(manifest), manifest.transaction():
        sources = manifest.sources()
        skipped = {str(Path(sources[one.source].folder) / one.name): one.reason for one in manifest.skipped()}
        listed = [{key: value for key, value in source._asdict().items() if value} for source in sources.values()]
        return {**manifest.about(), "photos": manifest.count(), "sources": listed, "skipped": skipped}


def model_overrides(about: dict[str, Any]) -> list[str]:
    """Return the `model.key=value` strings that build the model of an index from its checkpoint."""
    return [f"model.{key}={json.dumps(value)}" for key, value in about["model"].items()]


def map_features(folder: Path, about: dict[str, Any], count: int) -> np.ndarray:
    """Memory-map the features of the first `count` photos, (count, D).

    Raises:
        DataError: If the file is missing or too short.
    """
    shape = (count, about["dim"])
    if not count:
        return np.zeros(shape, about["dtype"])
    file = features_file(folder, about)
    if not file.exists() or file.stat().st_size < count * row_bytes(about):
        raise DataError(
            f"{file}: is missing or shorter than its {count} features; {job_command('search')} index repairs the index"
        )
    return np.memmap(file, about["dtype"], "r", shape=shape)


def features_file(folder: Path, about: dict[str, Any]) -> Path:
    """Return the path of the features file."""
    return folder / f"features.{about['file']}.{about['dtype']}"


def row_bytes(about: dict[str, Any]) -> int:
    """Return the bytes of one feature on disk."""
    return about["dim"] * np.dtype(about["dtype"]).itemsize
