"""An index of photos on disk: a file of features, one row per photo, and `manifest.sqlite`, which names the photos.

The manifest is an SQLite database because each of its transactions is applied completely or not at all, even if the
process is killed. A checksum ties each photo to its feature, and a digest covers the rest of the manifest, so damage
is found when an index is opened. `index_writer` changes an index.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.errors import ConfigError, DataError, UserError, escaped
from ms_unireid.files import check_form, open_regular, replacing
from ms_unireid.installation import job_command

DTYPES = ("float16", "float32")
DEFAULT_ENCODER = "mindspore fp32"  # and its precision; an index does not name them
MANIFEST = "manifest.sqlite"
FORMAT = 3
_WITHOUT_CHECKSUMS, _WITHOUT_FACTS = 1, 2  # the formats of earlier versions, which are still read
_WAIT = 60  # seconds that a reader or writer waits for another one
_MAX_DIM = 1 << 16
_ROWS_AT_ONCE = 1 << 14
_TABLES = (
    "about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # AUTOINCREMENT never reuses the number of a removed source, so its photos cannot be taken for another source's.
    "sources (id INTEGER PRIMARY KEY AUTOINCREMENT, folder TEXT NOT NULL, dataset TEXT NOT NULL, "
    "split TEXT NOT NULL, UNIQUE (folder, dataset, split))",
    "photos (row INTEGER PRIMARY KEY, source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL, person TEXT, checksum INTEGER, taken TEXT, camera TEXT, "
    "UNIQUE (source, name))",
    "skipped (source INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "reason TEXT NOT NULL, PRIMARY KEY (source, name))",
)
_KNOWN = (str, NoneType)
_PHOTO_TYPES = (int, str, int, int, bytes, _KNOWN, _KNOWN, _KNOWN)
_ABOUT = {
    "checkpoint": {"path": str, "sha256": str, str: object}, "model": {str: object}, "preprocessing": {str: object},
    "dtype": set(DTYPES), "dim": int, "file": int, "changes": int, "id": str, "left": int, str: object,
}  # fmt: skip


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
    taken: str | None = None  # local time, ISO, if known
    camera: str | None = None  # if known


class Named(NamedTuple):
    """The fields of a `Photo` that a search uses."""

    source: int
    name: str
    person: str | None
    taken: str | None
    camera: str | None


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
        about: Values to make a new manifest with, if there is none; None opens an existing one.

    Raises:
        DataError: If it is missing, damaged or of another format version.
        UserError: If it cannot be read or written.
    """

    def __init__(self, folder: Path, about: dict[str, Any] | None = None):
        self.file = folder / MANIFEST
        if not self.file.is_file():
            if about is None:
                raise DataError(
                    f"{folder}: is not an index ({MANIFEST} is missing); make one with {job_command('search')} index"
                )
            with replacing(self.file) as temporary:
                self._create(temporary, about)
        with self._clear_errors():
            self._connect(self.file)
            ((self.format,),) = self._rows("PRAGMA user_version")
            self._check_tables()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    @contextlib.contextmanager
    def transaction(self, write: bool = True) -> Iterator[None]:
        """Apply all changes of the block, or none of them; without `write`, read one state of the manifest."""
        with self._clear_errors():
            self.database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                if write and self.format != _WITHOUT_CHECKSUMS:
                    self.set_about(digest=self._digest(self._stored_about()))
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise

    def about(self) -> dict[str, Any]:
        """Return how the features were made, the number of the features file, and how many photos are left to encode.

        DataError if it is damaged.
        """
        about = self._stored_about()
        digest = about.pop("digest", None)
        if self.format != _WITHOUT_CHECKSUMS and digest != self._digest(about):
            raise self.damaged("its digest is another one")
        about = {"id": "", "left": 0, **about}
        with self._clear_errors():
            check_form(about, _ABOUT, "about")
        if not (0 < about["dim"] <= _MAX_DIM and about["file"] > 0 and about["changes"] >= 0 and about["left"] >= 0):
            raise self.damaged("a number is out of range")
        return about

    def set_about(self, **values: Any) -> None:
        """Set values of `about`."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        self.database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def sources(self) -> dict[int, Source]:
        """Return the sources by number."""
        rows = self._typed((int, str, str, str), "SELECT id, folder, dataset, split FROM sources")
        return {number: Source(*rest) for number, *rest in rows}

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
        ((count,),) = self._rows("SELECT coalesce(max(row) + 1, 0) FROM photos")
        return count

    def photos(self) -> list[Photo]:
        """Return the photos by row."""
        query = f"SELECT source, name, size, mtime_ns, sha256, person, {self._facts} FROM photos ORDER BY row"
        return [Photo(*row) for row in self._typed(_PHOTO_TYPES, query)]

    def named_features(self, features: np.ndarray) -> list[Named]:
        """Return what is known of the photo of each row of the features (N, D).

        DataError if a photo or its feature is damaged, or they do not belong together.
        """
        columns = f"source, name, person, {self._facts}"
        if self.format != _WITHOUT_CHECKSUMS:
            return list(self._checked(features, columns))
        rows = self._typed((int, str, _KNOWN, _KNOWN, _KNOWN), f"SELECT {columns} FROM photos ORDER BY row")
        names = [Named(*row) for row in rows]
        sources = self.sources()
        if len(names) != len(features) or not all(one[0] in sources and _is_inside(one[1]) for one in names):
            raise self.damaged("its rows do not fit the features")
        for start in range(0, len(features), _ROWS_AT_ONCE):
            with np.errstate(all="ignore"):
                lengths = np.linalg.norm(features[start : start + _ROWS_AT_ONCE].astype(np.float32), axis=1)
            if not (abs(lengths - 1) < 0.01).all():  # true for NaN too
                raise self.damaged("a feature has not the length 1")
        return names

    def sha256(self, source: int, name: str) -> bytes | None:
        """Return the indexed digest of a photo; None if the photo is not in the index."""
        found = self._rows("SELECT sha256 FROM photos WHERE source = ? AND name = ?", (source, name))
        return found[0][0] if found else None

    def add_photos(self, first: int, photos: Iterable[Photo], features: np.ndarray) -> None:
        """Add photos at row `first` and after, with their features as they are on disk."""
        rows = enumerate(zip(photos, features, strict=True), first)
        values = (
            (row, *one[:6], _checksum(feat, row, Named(one.source, one.name, *one[5:])), *one[6:])
            for row, (one, feat) in rows
        )
        self.database.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def replace_photos(self, photos: Iterable[Photo], features: np.ndarray) -> None:
        """Replace all photos."""
        self.truncate_photos(0)
        self.add_photos(0, photos, features)

    def truncate_photos(self, count: int) -> None:
        """Remove the photos at row `count` and after."""
        self.database.execute("DELETE FROM photos WHERE row >= ?", (count,))

    def skipped(self) -> list[Skipped]:
        """Return the photos that cannot be read."""
        query = "SELECT source, name, size, mtime_ns, reason FROM skipped ORDER BY source, name"
        skipped = [Skipped(*row) for row in self._typed((int, str, int, int, str), query)]
        if not {one.source for one in skipped} <= self.sources().keys():
            raise self.damaged("a photo has no folder")
        return skipped

    def replace_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Replace all skipped photos."""
        self.database.execute("DELETE FROM skipped")
        self.add_skipped(skipped)

    def add_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Add photos that cannot be read."""
        self.database.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?, ?, ?)", skipped)

    def upgrade(self, features: np.ndarray, **about: Any) -> None:
        """Bring a manifest of an earlier format to the present one; its features (N, D) have been checked."""
        photos, columns = self.photos(), ["checksum INTEGER"] * (self.format == _WITHOUT_CHECKSUMS)
        with self.transaction():
            for column in (*columns, "taken TEXT", "camera TEXT"):
                self.database.execute(f"ALTER TABLE photos ADD COLUMN {column}")
            self.replace_photos(photos, features)
            self.set_about(**about)
            self.database.execute(f"PRAGMA user_version = {FORMAT}")
            self.format = FORMAT

    def check_database(self) -> None:
        """Check all tables and indexes of the database, which reading alone does not; a DataError tells of damage."""
        ((found,),) = self._rows("PRAGMA integrity_check(1)")
        if found != "ok":
            raise self.damaged(escaped(found))

    def damaged(self, why: object) -> DataError:
        """Make the error for a damaged index."""
        return DataError(
            f"{self.file.parent}: is damaged ({MANIFEST}: {why}); remove the folder, and make the index anew with "
            f"{job_command('search')} index"
        )

    def _create(self, file: Path, about: dict[str, Any]) -> None:
        with self._clear_errors():
            self._connect(file)
            with contextlib.closing(self.database):
                self.database.execute("PRAGMA journal_mode = MEMORY")  # leaves no journal beside the temporary file
                self.format = FORMAT
                with self.transaction():
                    for table in _TABLES:
                        self.database.execute(f"CREATE TABLE {table}")
                    self.set_about(**about)
                    self.database.execute(f"PRAGMA user_version = {FORMAT}")

    def _connect(self, file: Path) -> None:
        self.database = sqlite3.connect(file, timeout=_WAIT, isolation_level=None)
        self.database.execute("PRAGMA cache_spill = OFF")  # readers are not locked out before a change is committed
        self.database.execute("PRAGMA trusted_schema = OFF")

    def _check_tables(self) -> None:
        if not _WITHOUT_CHECKSUMS <= self.format <= FORMAT:
            problem = f"has format {self.format}, expected {_WITHOUT_CHECKSUMS} to {FORMAT}"
            raise DataError(f"{self.file}: {problem}; remove the folder, and make the index anew")
        found = {sql for (sql,) in self._rows("SELECT sql FROM sqlite_master WHERE name != 'sqlite_sequence'")}
        expected = {f"CREATE TABLE {table}" for table in _TABLES} | {None}  # None: an index for UNIQUE
        if self.format <= _WITHOUT_FACTS:
            expected = {sql and sql.replace(", taken TEXT, camera TEXT", "") for sql in expected}
        if self.format == _WITHOUT_CHECKSUMS:
            expected = {sql and sql.replace(", checksum INTEGER", "") for sql in expected}
        if found != expected:
            raise self.damaged("it has other tables")

    @property
    def _facts(self) -> str:
        return "taken, camera" if self.format > _WITHOUT_FACTS else "NULL, NULL"

    def _stored_about(self) -> dict[str, Any]:
        with self._clear_errors():
            return {key: json.loads(value) for key, value in self._typed((str, str), "SELECT key, value FROM about")}

    def _digest(self, about: dict[str, Any]) -> str:
        values = {key: value for key, value in about.items() if key != "digest"}
        return digest_of([values, self.count(), sorted(self.sources().items())])

    def _checked(self, features: np.ndarray, columns: str) -> Iterator[Named]:
        rows = self._rows(f"SELECT {columns}, checksum FROM photos ORDER BY row")
        if len(rows) != len(features):
            raise self.damaged("rows are missing")
        for row, (*values, checksum) in enumerate(rows):
            one = Named(*values)
            if checksum != _checksum(features[row], row, one, self.format) or not _is_inside(one.name):
                raise self.damaged(f"photo {row} and its feature do not belong together")
            yield one

    def _typed(self, types: tuple, query: str) -> list[tuple]:
        rows = self._rows(query)
        if not all(all(map(isinstance, row, types)) for row in rows):
            raise self.damaged("a value has another type")
        return rows

    def _rows(self, query: str, values: tuple = ()) -> list[tuple]:
        with self._clear_errors():
            return self.database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            fix = "check the disk and your permissions in its folder, or make the index anew"
            if "locked" in str(error):
                fix = "another process uses it; try again when that is done"
            raise UserError(f"{self.file}: cannot be used ({escaped(str(error))}); {fix}") from error
        except (sqlite3.DatabaseError, ValueError, RecursionError) as error:
            raise self.damaged(escaped(str(error))) from error


def present_about(folder: Path, can_make: bool) -> dict[str, Any] | None:
    """Return how an index was made; None if there is none yet, which raises a ConfigError unless it can be made."""
    if not (folder / MANIFEST).exists():
        if not can_make:
            raise ConfigError(f"{folder}: a new index needs --checkpoint, and --photos or --dataset")
        return None
    with contextlib.closing(Manifest(folder)) as manifest:
        return manifest.about()


def model_settings(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the config's values that an index keeps: those of its model, and its rule for long captions."""
    model = dict(about["model"])
    return {"data": {"long_captions": model.pop("long_captions", "cut")}, "model": model}


def model_overrides(about: dict[str, Any]) -> list[str]:
    """Return the `section.key=value` strings that build the model of an index from its checkpoint."""
    settings = model_settings(about).items()
    return [f"{name}.{key}={json.dumps(value)}" for name, section in settings for key, value in section.items()]


def encoder_overrides(about: dict[str, Any]) -> list[str]:
    """Return the `section.key=value` strings of the encoder and the precision that made an index."""
    encoder, precision = about["preprocessing"].get("encoder", DEFAULT_ENCODER).split()
    return [f"runtime.encoder={encoder}", f"runtime.precision={precision}"]


def read_features(folder: Path, about: dict[str, Any], count: int) -> np.ndarray:
    """Read the features of the first `count` photos, (count, D), read-only.

    They are not memory-mapped: a mapped file that is shortened kills the process.

    Raises:
        DataError: If the file is missing or too short.
    """
    if not count:
        return np.zeros((0, about["dim"]), about["dtype"])
    file = features_file(folder, about)
    try:
        with open_regular(file) as opened:
            if os.fstat(opened.fileno()).st_size < count * row_bytes(about):
                raise OSError(f"it is shorter than its {count} features")
            features = np.fromfile(opened, about["dtype"], count * about["dim"]).reshape(count, about["dim"])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}); {job_command('search')} index "
            f"--output {folder} repairs the index"
        ) from error
    features.flags.writeable = False
    return features


def features_file(folder: Path, about: dict[str, Any]) -> Path:
    """Return the path of the features file."""
    return folder / f"features.{about['file']}.{about['dtype']}"


def row_bytes(about: dict[str, Any]) -> int:
    """Return the bytes of one feature on disk."""
    return about["dim"] * np.dtype(about["dtype"]).itemsize


def digest_of(values: Any) -> str:
    """Return the SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _checksum(feature: np.ndarray, row: int, one: Named, version: int = FORMAT) -> int:
    """Return the CRC-32 of a feature's bytes and of what is known of its photo."""
    facts = f"{one.taken}/{one.camera}/" if version > _WITHOUT_FACTS else ""
    return zlib.crc32(f"{facts}{row}/{one.source}/{one.person}/{one.name}".encode(), zlib.crc32(feature))


def _is_inside(name: str) -> bool:
    """Whether a photo's path stays inside its folder."""
    return not name.startswith("/") and (".." not in name or ".." not in name.split("/"))
