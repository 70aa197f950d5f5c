"""Shortlists: the photos that a user keeps, with notes, in the memory of a tab or in a case file that outlives it."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ms_unireid.errors import DataError, UserError, escaped, shown

SUFFIX = ".case"
MAX_NOTE, MAX_KEPT = 2000, 300  # characters of a note, photos of a list
_FORMAT = 1
_APPLICATION = 0x554E4952  # marks the file as ours
_TABLE = (
    "CREATE TABLE kept (path TEXT PRIMARY KEY, sha256 BLOB NOT NULL, score REAL NOT NULL, query TEXT NOT NULL, "
    "note TEXT NOT NULL, added TEXT NOT NULL)"
)
_NAME = re.compile(r"[\w][\w .-]{0,79}")
_TYPES = (str, bytes, float, str, str, str)


class Kept(NamedTuple):
    """A photo of a shortlist."""

    path: str
    sha256: bytes  # of the photo when it was kept
    score: float  # cosine similarity of the query that found it
    query: str  # as it is named in the history
    note: str = ""
    added: str = ""  # local time, ISO 8601


class Shortlist:
    """Kept photos, in the order of keeping; several pages may use one file.

    Args:
        file: The case file, created if it does not exist; None keeps the list in memory.

    Raises:
        DataError: If the file is not a case file, or is damaged; so do the methods.
        UserError: If it cannot be read or written, or the list is full; so do the methods.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        with self._clear_errors():
            self._database = sqlite3.connect(file or ":memory:", timeout=5, isolation_level=None)
            self._database.execute("PRAGMA trusted_schema = OFF")
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                if not self._rows("SELECT name FROM sqlite_master"):
                    self._database.execute(_TABLE)
                    self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._database.execute(f"PRAGMA user_version = {_FORMAT}")
            form = [*self._rows("PRAGMA application_id"), *self._rows("PRAGMA user_version")]
            if form != [(_APPLICATION,), (_FORMAT,)] or self._rows(
                "SELECT sql FROM sqlite_master WHERE sql NOT NULL"
            ) != [(_TABLE,)]:
                raise DataError(f"{file}: is not a case file of this version; choose another name")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def photos(self) -> list[Kept]:
        """Return the kept photos."""
        rows = self._rows("SELECT path, sha256, score, query, note, added FROM kept ORDER BY rowid LIMIT ?", MAX_KEPT)
        if not all(all(map(isinstance, row, _TYPES)) for row in rows):
            raise DataError(f"{self.file}: is damaged (a value has another type); choose another name")
        return [Kept(*row) for row in rows]

    def keep(self, *photos: Kept) -> None:
        """Add photos, all or none; one that is kept already stays as it is."""
        now = datetime.now().isoformat(timespec="seconds")
        with self._clear_errors(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for photo in photos:
                self._rows("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?)", *photo._replace(added=now))
            if self._rows("SELECT count(*) FROM kept") > [(MAX_KEPT,)]:
                raise UserError(f"A shortlist has at most {MAX_KEPT:,} photos; remove some, or begin another case.")

    def note(self, path: str, text: str) -> None:
        """Set the note of a photo: one line, cut at `MAX_NOTE` characters."""
        line = " ".join(text.encode("utf-8", "replace").decode().split())
        self._rows("UPDATE kept SET note = ? WHERE path = ?", line[:MAX_NOTE], path)

    def remove(self, path: str) -> None:
        """Remove a photo, if it is kept."""
        self._rows("DELETE FROM kept WHERE path = ?", path)

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._clear_errors():
            return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            fix = "another process uses it" if "locked" in str(error) else "check the disk and your permissions"
            raise UserError(f"{self.file}: cannot be used ({escaped(str(error))}); {fix}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.file}: is damaged ({escaped(str(error))}); choose another name") from error


class Cases:
    """The case files of a folder.

    Args:
        folder: The folder; created if it does not exist.

    Raises:
        UserError: If it cannot be created.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --cases") from error

    @property
    def names(self) -> list[str]:
        """Names of the cases, sorted."""
        return sorted(file.stem for file in self.folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(file.stem))

    def open(self, name: str) -> Shortlist:
        """Open a case, or begin it.

        DataError if the name is no plain one, or another file has it; UserError if it cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise DataError(f"{shown(name, 100)}: name a case with letters, digits, spaces, . _ or -, at most 80")
        file = self.folder / f"{name}{SUFFIX}"
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise DataError(f"{file}: is no plain file; choose another name")
        return Shortlist(file)
