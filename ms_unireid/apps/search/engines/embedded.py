"""The index on disk as it is searched: a snapshot in memory, searched exactly."""

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.manifest import Manifest, Named, read_features
from ms_unireid.apps.search.places import absolute, path_of
from ms_unireid.errors import QueryError
from ms_unireid.installation import job_command


class PhotoIndex(PhotoStore):
    """A snapshot of an index to search in, in memory; later changes and damage on disk do not affect it.

    Args:
        folder: The index.

    Attributes:
        about: How the features were made: checkpoint, model, preprocessing, dtype.
        features: (N, D) float16 or float32, L2-normalised rows.
        skipped: Path to reason for each photo that could not be read.

    Raises:
        DataError: If the folder is not an index, or the index is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        manifest = Manifest(self.folder)
        with contextlib.closing(manifest), manifest.transaction(write=False):
            self.about = manifest.about()
            self.features = read_features(self.folder, self.about, manifest.count())
            self._photos = manifest.named_features(self.features)
            self.sources = manifest.sources()
            skipped = manifest.skipped()
        self._passing = functools.lru_cache(8)(self._find_passing)  # 8 MB each for a million photos
        self._folders = {number: path_of(source.folder) for number, source in self.sources.items()}
        self.skipped = {str(self._folders[one.source] / one.name): one.reason for one in skipped}

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def unreadable(self) -> int:
        """Number of photos that could not be read."""
        return len(self.skipped)

    @property
    def count(self) -> int:
        """Number of photos."""
        return len(self._photos)

    @property
    def whole(self) -> bool:
        """Whether every photo that was listed has been read; False after a stop or on a full disk."""
        return bool(self.sources) and not self.about["left"]

    @property
    def notes(self) -> list[str]:
        """What a user of the index should know: that it is not whole."""
        seen = self.count + len(self.skipped)
        note = (
            f"{self.folder}: is not whole, it stopped at {seen} of {seen + self.about['left']} photos "
            f"({len(self.skipped)} skipped); finish it with {job_command('search')} index --output {self.folder}"
        )
        return [] if self.whole else [note]

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search exactly, as `PhotoStore.search`; photos with the same score come in the order of their rows."""
        return exact_search(self.features, queries, k, self.passing(where) if where else None)

    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the features (M, D) of photos, in the type that is stored."""
        return self.features[np.asarray(rows, np.int64)]

    def passing_count(self, where: Filter) -> int:
        """Return how many photos pass a filter; errors as in `passing`."""
        return len(self.passing(where))

    def has(self, row: int) -> bool:
        """Whether there is a photo in this row."""
        return 0 <= row < self.count

    def has_changed(self) -> bool:
        """Whether the index on disk is in another state; takes a millisecond. UserError if it cannot be opened."""
        with contextlib.closing(Manifest(self.folder)) as manifest:
            return manifest.about() != self.about

    def reopened(self) -> "PhotoIndex":
        """Open the state that is on disk now; errors as in the class."""
        return type(self)(self.folder)

    def describe(self) -> dict[str, Any]:
        """Describe it as `PhotoStore.describe`, with its sources and the photos that could not be read."""
        sources = [{key: value for key, value in one._asdict().items() if value} for one in self.sources.values()]
        return {**super().describe(), "sources": sources, "skipped": self.skipped}

    @property
    def photos(self) -> list[Path]:
        """Paths of all photos, by row."""
        return [self.path(row) for row in range(self.count)]

    def path(self, row: int) -> Path:
        """Return the path of a photo; IndexError if the row does not exist."""
        if row < 0:
            raise IndexError(row)
        one = self._photos[row]
        return self._folders[one.source] / one.name

    def row(self, path: Path, known: int | None = None) -> int:
        """Return the row of a photo; QueryError if it is not in the index.

        `known` is its row in some state of the index, which saves the search if it is the same in this one.
        """
        if known is not None and self.has(known) and self.path(known) == path:
            return known
        whole = absolute(path)
        for number, source in self.sources.items():
            row = self._rows.get((number, whole.removeprefix(f"{source.folder.rstrip('/')}/")))
            if row is not None:
                return row
        raise QueryError(f"{path}: is not among the {self.count} photos of {self.folder}; give one of them, or its row")

    @functools.cached_property
    def _rows(self) -> dict[tuple[int, str], int]:
        return {(one.source, one.name): row for row, one in enumerate(self._photos)}

    def person(self, row: int) -> str | None:
        """Return the identity of the person in a photo; None if unknown."""
        return self._photos[row].person

    def taken(self, row: int) -> str | None:
        """Return the local time of a photo, YYYY-MM-DDTHH:MM:SS; None if unknown."""
        return self._photos[row].taken

    def camera(self, row: int) -> str | None:
        """Return the camera of a photo; None if unknown."""
        return self._photos[row].camera

    @functools.cached_property
    def folders(self) -> dict[str, int]:
        """Folders and their sub-folders, sorted, and the number of photos inside each."""
        found: Counter[str] = Counter()
        for (source, place), count in Counter((one.source, _place(one)) for one in self._photos).items():
            parts = place.split("/") if place else []
            for depth in range(len(parts) + 1):
                found[os.path.join(self.sources[source].folder, *parts[:depth])] += count
        return dict(sorted(found.items()))

    @functools.cached_property
    def cameras(self) -> dict[str, int]:
        """Known cameras, sorted, and the number of photos of each."""
        return _counted(one.camera for one in self._photos)

    @functools.cached_property
    def persons(self) -> dict[str, int]:
        """Known identities, sorted, and the number of photos of each."""
        return _counted(one.person for one in self._photos)

    @functools.cached_property
    def times(self) -> tuple[str, str] | None:
        """First and last known time, YYYY-MM-DDTHH:MM:SS; None if none is known."""
        known = [one.taken for one in self._photos if one.taken]
        return (min(known), max(known)) if known else None

    def passing(self, where: Filter) -> np.ndarray:
        """Return the rows that pass a filter, ascending, read-only.

        QueryError if the filter asks for times or cameras, and an earlier version made the index, which knows none.
        """
        return self._passing(where)

    def _find_passing(self, where: Filter) -> np.ndarray:
        if "facts" not in self.about and (where.cameras or where.after or where.before):
            raise QueryError(
                f"{self.folder}: knows no times and cameras, since an earlier version made it; bring it up to date "
                f"with {job_command('search')} index --output {self.folder}"
            )
        passes = np.ones(self.count, bool)
        if where.folders:
            places = {(one.source, _place(one)) for one in self._photos}
            inside = {one for one in places if _holds(where.folders, os.path.join(self.sources[one[0]].folder, one[1]))}
            passes &= [(one.source, _place(one)) in inside for one in self._photos]
        for wanted, key in ((where.cameras, "camera"), (where.persons, "person")):
            if wanted:
                wanted = frozenset(wanted)
                passes &= [getattr(one, key) in wanted for one in self._photos]
        if where.after or where.before:
            first, last = where.times
            passes &= [one.taken is not None and first <= one.taken <= last for one in self._photos]
        rows = np.flatnonzero(passes)
        rows.flags.writeable = False
        return rows

    def sha256(self, row: int) -> bytes | None:
        """Return a photo's digest at the time of indexing; None if it has been removed from the index since."""
        one = self._photos[row]
        with contextlib.closing(Manifest(self.folder)) as manifest:
            return manifest.sha256(one.source, one.name)


def _counted(values: Iterable[str | None]) -> dict[str, int]:
    return {value: count for value, count in sorted(Counter(filter(None, values)).items())}


def _place(photo: Named) -> str:
    """Return a photo's folder relative to its source, empty for that itself."""
    return photo.name.rpartition("/")[0]


def _holds(folders: Sequence[str], place: str) -> bool:
    """Whether a folder is one of others, or inside one."""
    return any(f"{place}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)
