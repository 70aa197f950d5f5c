"""What a search and the page need of photos that can be searched, wherever their features are."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.search.filters import Filter
from ms_unireid.data.findings import listed
from ms_unireid.data.pictures import MAX_BYTES, describe
from ms_unireid.errors import CheckpointError, DataError, QueryError, escaped
from ms_unireid.files import open_regular
from ms_unireid.installation import job_command


class ChangedPhoto(DataError):
    """A photo is not the one that was indexed."""


class PhotoStore(ABC):
    """A state of some photos and their features; a photo is named by a number, its row.

    Attributes:
        place: Folder or address, for messages; it has no password.
        about: How the features were made: `checkpoint`, `model`, `preprocessing`, `dtype`, `dim`; `id` and `changes`
            tell states apart, `left` is the number of photos that have been listed but not read.
        count: Number of photos.
        unreadable: Number of photos that could not be read.
        whole: Whether all photos are there that were listed.
        folders: Folders and their sub-folders, sorted, and the number of photos inside each.
        cameras: Known cameras, sorted, and the number of photos of each.
        persons: Known identities, sorted, and the number of photos of each.
        times: First and last known time, YYYY-MM-DDTHH:MM:SS; None if none is known.
        notes: What a user should know: that it is not whole.
        most: Number of photos that a ranked list can have.
        names_all: Whether `folders`, `cameras` and `persons` name all that there are.
    """

    most = 1 << 62
    names_all = True

    place: str
    about: dict[str, Any]
    count: int
    unreadable: int
    whole: bool
    folders: dict[str, int]
    cameras: dict[str, int]
    persons: dict[str, int]
    times: tuple[str, str] | None
    notes: list[str]

    @abstractmethod
    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the k most similar photos for each query (Q, D), un-normalised, among those that pass a filter.

        Returns:
            Rows (Q, K) int64, best first, K at most k, -1 where fewer are found; and cosine similarities (Q, K)
            float32, at most 1.
        """

    @abstractmethod
    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the features (M, D) of photos, L2-normalised."""

    @abstractmethod
    def passing_count(self, where: Filter) -> int:
        """Return how many photos pass a filter; QueryError if what it asks for is not known of any photo."""

    @abstractmethod
    def has(self, row: int) -> bool:
        """Whether there is a photo of this number."""

    @abstractmethod
    def row(self, path: Path, known: int | None = None) -> int:
        """Return the row of a photo; QueryError if there is no such photo.

        `known` is its row in some state, which saves the search if it is the same in this one.
        """

    @abstractmethod
    def path(self, row: int) -> Path:
        """Return the path of a photo; IndexError if the row does not exist."""

    @abstractmethod
    def person(self, row: int) -> str | None:
        """Return the identity of the person in a photo; None if unknown."""

    @abstractmethod
    def taken(self, row: int) -> str | None:
        """Return the local time of a photo, YYYY-MM-DDTHH:MM:SS; None if unknown."""

    @abstractmethod
    def camera(self, row: int) -> str | None:
        """Return the camera of a photo; None if unknown."""

    @abstractmethod
    def sha256(self, row: int) -> bytes | None:
        """Return a photo's digest at the time of indexing; None if it has been removed since."""

    @abstractmethod
    def has_changed(self) -> bool:
        """Whether there is a newer state; takes milliseconds. UserError if that cannot be told."""

    @abstractmethod
    def reopened(self) -> "PhotoStore":
        """Open the newest state; UserError if it cannot be opened."""

    @property
    def dim(self) -> int:
        """Length of a feature."""
        return self.about["dim"]

    @property
    def state(self) -> dict[str, Any]:
        """Whether it is whole, and its numbers of photos: indexed, skipped, and left to encode."""
        return {"whole": self.whole, "photos": self.count, "skipped": self.unreadable, "left": self.about["left"]}

    def describe(self) -> dict[str, Any]:
        """Describe how the features were made, the state, and how many folders, cameras and persons are known."""
        known = {"folders": len(self.folders), "cameras": len(self.cameras), "persons": len(self.persons)}
        return {**self.about, **self.state, **known, "times": self.times}

    def checkpoint(self, given: str | Path | None = None) -> Path:
        """Return the path of the checkpoint that made the features, or of the one `given` because that was moved.

        CheckpointError if it does not exist.
        """
        path = Path(given or self.about["checkpoint"]["path"])
        if not path.exists():
            raise CheckpointError(f"{path}: does not exist, and made {self.place}; give it by --checkpoint")
        return path

    def chosen(self, where: Filter) -> int:
        """Return how many photos pass a filter.

        QueryError, which says which part of the filter is to blame and what there is, if none does.
        """
        if count := self.passing_count(where):
            return count
        passed = {}
        for kind, part in where.parts().items():
            passed[kind] = self.passing_count(part)
            if not passed[kind]:
                times = [" to ".join(self.times)] if self.times else []
                known = times if kind == "time" else [escaped(name) for name in getattr(self, f"{kind}s")]
                there = listed(known) or f"no known {kind}"
                raise QueryError(f"no photo passes the filter by {kind}; the index has {there}")
        counts = ", ".join(f"{count:,} by {kind}" for kind, count in passed.items())
        raise QueryError(f"no photo passes the whole filter ({counts}); leave out a part of it")

    def content(self, row: int) -> bytes:
        """Read the file of a photo, if it is the one that was indexed.

        Raises:
            ChangedPhoto: If it is another one now, or has been removed from the index.
            DataError: If it cannot be read.
        """
        return indexed_content(self.path(row), self.sha256(row))


def indexed_content(path: Path, digest: bytes | None) -> bytes:
    """Read a photo's file if its SHA-256 is `digest`; errors as in `PhotoStore.content`."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: {describe(error)}") from error
    if hashlib.sha256(content).digest() != digest:
        raise ChangedPhoto(f"{path}: has changed since it was indexed; update it with {job_command('search')} index")
    return content
