"""`manifest.sqlite`: which photo each row of an index's features is of, and what made them.

SQLite, since every change of it is whole or absent, whenever the process is killed.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ms_unireid.errors import DataError, UserError

FILE = "manifest.sqlite"
FORMAT = 1
_TABLES = (
    "about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # A number is never given again: photos of a folder that was removed are not those of another.
    "sources (id INTEGER PRIMARY KEY AUTOINCREMENT, folder TEXT NOT NULL, dataset TEXT NOT NULL, "
    "split TEXT NOT NULL, UNIQUE (folder, dataset, split))",
    "photos (row INTEGER PRIMARY KEY, source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL, person TEXT, UNIQUE (source, name))",
    "skipped (source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "reason TEXT NOT NULL, PRIMARY KEY (source, name))",
)
_ADD_PHOTO = "INSERT INTO photos (row, source, name, size, mtime_ns, sha256, person) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Source(NamedTuple):
    """A folder of photos, or a split of a data set in it.

    Attributes:
        folder: Absolute path that photos are named relative to.
        dataset: Name of the data set; empty for a plain folder.
        split: train, val or test; empty for a plain folder.
    """

    folder: str
    dataset: str = ""
    split: str = ""


class Photo(NamedTuple):
    """An indexed photo.

    Attributes:
        source: Number of its source.
        name: Relative path, with forward slashes.
        size: Bytes.
        mtime_ns: Time of its last change.
        sha256: Digest of its content.
        person: Who it shows, where a data set tells.
    """

    source: int
    name: str
    size: int
    mtime_ns: int
    sha256: bytes
    person: str | None = None


class Skipped(NamedTuple):
    """A photo that cannot be read, as `Photo`, with the reason."""

    source: int
    name: str
    size: int
    mtime_ns: int
    reason: str


class Manifest:
    """An open manifest.

    Args:
        folder: The index.
        about: What makes the features, for an index that is not there yet.

    Raises:
        DataError: If there is none, or it is damaged or of another version of this project.
        UserError: If it cannot be written.
    """

    def __init__(self, folder: Path, about: dict[str, Any] | None = None):
        self.file = folder / FILE
        if about is None and not self.file.is_file():
            raise DataError(f"{folder}: is no index ({FILE} is missing); make one with tools/search.py index")
        with self._explained():
            self.database = sqlite3.connect(self.file, isolation_level=None)
            if about is not None and self._format() == 0:
                with self.change():
                    self._create(about)
            found = self._format()
        if found != FORMAT:
            raise DataError(f"{self.file}: has format {found}, expected {FORMAT}; make the index anew")

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Make all changes within whole or absent.

        Raises:
            UserError: If the file is damaged or cannot be written.
        """
        with self._explained():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")

    def about(self) -> dict[str, Any]:
        """Return what made the features, and where they lie."""
        return {key: json.loads(value) for key, value in self._rows("SELECT key, value FROM about")}

    def set_about(self, **values: Any) -> None:
        """Set some of `about`'s values."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        self.database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def sources(self) -> dict[int, Source]:
        """Return the sources by number."""
        return {number: Source(*rest) for number, *rest in self._rows("SELECT id, folder, dataset, split FROM sources")}

    def add_source(self, source: Source) -> int:
        """Add a source, if it is not there, and return its number."""
        self.database.execute("INSERT OR IGNORE INTO sources (folder, dataset, split) VALUES (?, ?, ?)", source)
        ((number,),) = self._rows("SELECT id FROM sources WHERE (folder, dataset, split) = (?, ?, ?)", source)
        return number

    def drop_source(self, number: int) -> None:
        """Remove a source and what was skipped of it; its photos are the caller's to remove."""
        self.database.execute("DELETE FROM sources WHERE id = ?", (number,))
        self.database.execute("DELETE FROM skipped WHERE source = ?", (number,))

    def count(self) -> int:
        """Return the number of photos; their rows are 0 to this number."""
        ((count,),) = self._rows("SELECT count(*) FROM photos")
        return count

    def photos(self) -> list[Photo]:
        """Return the photos by row."""
        query = "SELECT source, name, size, mtime_ns, sha256, person FROM photos ORDER BY row"
        return [Photo(*row) for row in self._rows(query)]

    def names(self) -> Iterator[tuple[int, str, str | None]]:
        """Yield source, name and person of each photo by row: what a search needs."""
        return iter(self._rows("SELECT source, name, person FROM photos ORDER BY row"))

    def sha256(self, source: int, name: str) -> bytes | None:
        """Return the digest of a photo's content when it was indexed; None if it is not in the index."""
        found = self._rows("SELECT sha256 FROM photos WHERE source = ? AND name = ?", (source, name))
        return found[0][0] if found else None

    def add_photos(self, first: int, photos: Iterable[Photo]) -> None:
        """Add photos from row `first` on."""
        self.database.executemany(_ADD_PHOTO, ((first + i, *photo) for i, photo in enumerate(photos)))

    def replace_photos(self, photos: Iterable[Photo]) -> None:
        """Put these photos in the place of all."""
        self.database.execute("DELETE FROM photos")
        self.add_photos(0, photos)

    def keep_photos(self, count: int) -> None:
        """Forget the photos from row `count` on."""
        self.database.execute("DELETE FROM photos WHERE row >= ?", (count,))

    def skipped(self) -> list[Skipped]:
        """Return the photos that cannot be read."""
        query = "SELECT source, name, size, mtime_ns, reason FROM skipped ORDER BY source, name"
        return [Skipped(*row) for row in self._rows(query)]

    def replace_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Put these in the place of all that were skipped."""
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
        with self._explained():
            return self.database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.file}: cannot be used ({error}); check the disk and who may write to the folder"
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise DataError(
                f"{self.file}: is damaged or no manifest ({error}); remove the folder and make the index anew"
            ) from error
