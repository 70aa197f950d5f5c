"""Photos in Milvus as they are searched: a file, a server or a cluster, with one client."""

import contextlib
import functools
import hashlib
import json
import math
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.apps.search.engines.milvus_client import any_of, parse_address, quoted
from ms_unireid.apps.search.engines.milvus_collection import KINDS, MOST, VECTOR, Collection
from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.places import absolute, is_url, path_of
from ms_unireid.data.findings import listed
from ms_unireid.errors import QueryError
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.installation import job_command

ID_BITS = 63  # of SHA-256: among 10^9 photos the chance that two have the same is 5 %, among 10^8 0.05 %
_DECIMALS = 6  # scores that are equal in these are ties: the sums of an engine depend on where a photo lies
_QUERIES, _LOOKUPS = 32, 1024  # in one call
_KEPT = 50_000  # photos that are not asked for again, some 500 bytes each


class _Photo(NamedTuple):
    """What is known of a photo."""

    folder: str  # absolute
    name: str
    digest: str  # SHA-256 in hexadecimal
    person: str | None
    taken: str | None
    camera: str | None


class MilvusStore(PhotoStore):
    """Photos in a collection of Milvus; the row of a photo is a number of 63 bits that its path determines.

    Args:
        place: `URI` or `URI#COLLECTION`, or an open collection.

    Attributes:
        pushed: What was pushed, by the index's `id`.

    Raises:
        ConfigError: If the address is none.
        DataError: If the collection is missing, another program's, damaged or of a newer format.
        UserError: If the database cannot be reached or opened.
    """

    most = MOST

    def __init__(self, place: str | Collection):
        self._photos: OrderedDict[int, _Photo] = OrderedDict()
        self._lock = threading.Lock()
        self._passing = functools.lru_cache(64)(self._count)
        collection = self._collection = place if isinstance(place, Collection) else Collection(parse_address(place))
        collection.load()
        self.pushed = collection.pushed()
        self.about = {**collection.about, "left": sum(one["left"] for one in self.pushed.values())}
        self.about["changes"] = _number(json.dumps(sorted(self.pushed.items())).encode())
        self.count = self._count("")

    @property
    def place(self) -> str:
        """The address."""
        return str(self._collection.address)

    @property
    def unreadable(self) -> int:
        """Number of photos that could not be read, of all indexes that were pushed."""
        return sum(one["skipped"] for one in self.pushed.values())

    @property
    def whole(self) -> bool:
        """Whether every push has come to its end, and the indexes themselves were whole."""
        return bool(self.pushed) and all(one["whole"] and not one["left"] for one in self.pushed.values())

    @property
    def notes(self) -> list[str]:
        """What a user should know: which pushes are not whole."""
        stopped = [one["place"] for one in self.pushed.values() if not one["whole"]]
        partial = [one["place"] for one in self.pushed.values() if one["whole"] and one["left"]]
        push = f"{job_command('search')} push --index {(stopped or ['INDEX'])[0]} --to {self.place}"
        told = [f"{self.place}: is not whole, the push of {listed(stopped)} stopped; finish it with {push}"]
        told += [f"{self.place}: is not whole, since {listed(partial)} is not; finish that, and push it again"]
        return [note for note, places in zip(told, (stopped, partial), strict=True) if places]

    def describe(self) -> dict[str, Any]:
        """Describe it as `PhotoStore.describe`, with the indexes that were pushed."""
        keys = ("id", "place", "photos", "skipped", "left", "whole")
        return {**super().describe(), "indexes": [{key: one[key] for key in keys} for one in self.pushed.values()]}

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search as `PhotoStore.search`; photos whose scores agree in six decimals come in the order of their paths.

        QueryError if k is more than `most`.
        """
        if k > MOST:
            raise QueryError(f"{k:,} photos: Milvus finds at most {MOST:,} for a query; ask for fewer")
        units = normalize_rows(queries)
        found = [
            one
            for start in range(0, len(units), _QUERIES)
            for one in self._ranked(units[start : start + _QUERIES], k, expression(where))
        ]
        width = max(map(len, found), default=0)
        rows, scores = np.full((len(found), width), -1, np.int64), np.full((len(found), width), -1, np.float32)
        for query, ranked in enumerate(found):
            rows[query, : len(ranked)], scores[query, : len(ranked)] = [*zip(*ranked, strict=True)] or ((), ())
        return rows, np.minimum(scores, 1)

    def found(self, units: np.ndarray, k: int, effort: int | None, expr: str = "") -> list[list[tuple[int, float]]]:
        """Return the first k rows and scores that the engine finds for each query (Q, D) of length 1."""
        kind, collection = KINDS[self.about["kind"]], self._collection
        least = 1 if kind.effort == "nprobe" else k
        parameters = {kind.effort: max(effort or kind.usual, least)} if kind.effort else {}
        answer = collection.call(
            "search",
            collection.name,
            list(units.astype(np.float16 if collection.is_half else np.float32)),
            anns_field=VECTOR,
            filter=expr,
            limit=k,
            output_fields=list(_Photo._fields),
            search_params={"metric_type": "IP", "params": parameters},
        )
        with self._checked():
            for hits in answer:
                self._keep({hit["id"]: hit["entity"] for hit in hits})
            ranked = [[(hit["id"], round(float(hit["distance"]), _DECIMALS)) for hit in hits] for hits in answer]
            if len(ranked) != len(units) or not all(math.isfinite(score) for one in ranked for _, score in one):
                raise ValueError("it answers with other scores")
        return ranked

    def _ranked(self, units: np.ndarray, k: int, expr: str) -> list[list[tuple[int, float]]]:
        """Return the first k rows and scores; those of equal scores at the end are fetched, so that paths decide."""
        depth = min(k + 1, MOST)
        while True:
            found = self.found(units, depth, self.about["effort"], expr)
            ties = any(len(one) == depth > k and one[-1][1] == one[k - 1][1] for one in found)
            if not ties or depth == MOST:
                break
            depth = min(4 * depth, MOST)
        return [sorted(one, key=lambda hit: (-hit[1], os.path.join(*self._photo(hit[0])[:2])))[:k] for one in found]

    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the features (M, D) float32 of photos."""
        rows, feats = np.asarray(rows, np.int64).tolist(), {}
        for start in range(0, len(rows), _LOOKUPS):
            for one in self._query(any_of("id", rows[start : start + _LOOKUPS]), ["id", VECTOR]):
                with self._checked():
                    value = one[VECTOR][0] if isinstance(one[VECTOR], list) and len(one[VECTOR]) == 1 else one[VECTOR]
                    wide = isinstance(value, bytes)
                    feats[one["id"]] = np.frombuffer(value, np.float16) if wide else np.asarray(value, np.float32)
        if gone := [row for row in rows if row not in feats]:
            raise QueryError(f"row {gone[0]}: is no longer in {self.place}; search again")
        with self._checked():
            return np.array([feats[row] for row in rows], np.float32).reshape(len(rows), self.dim)

    def passing_count(self, where: Filter) -> int:
        """Return how many photos pass a filter."""
        return self._passing(expression(where))

    def has(self, row: int) -> bool:
        """Whether there is a photo of this number."""
        return 0 <= row < 1 << ID_BITS and bool(self._fetched([row]))

    def row(self, path: Path, known: int | None = None) -> int:
        """Return the row of a photo; QueryError if there is no such photo. `known` is not needed."""
        whole = absolute(path)
        row = id_of(whole)
        if not self.has(row) or str(self.path(row)) != whole:
            raise QueryError(f"{path}: is not among the {self.count:,} photos of {self.place}; give one of them")
        return row

    def path(self, row: int) -> Path:
        """Return the path of a photo; IndexError if the row does not exist."""
        photo = self._photo(row)
        return path_of(photo.folder) / photo.name

    def person(self, row: int) -> str | None:
        """Return the identity of the person in a photo; None if unknown."""
        return self._photo(row).person

    def taken(self, row: int) -> str | None:
        """Return the local time of a photo; None if unknown."""
        return self._photo(row).taken

    def camera(self, row: int) -> str | None:
        """Return the camera of a photo; None if unknown."""
        return self._photo(row).camera

    def sha256(self, row: int) -> bytes | None:
        """Return a photo's digest at the time of indexing, as it is known here."""
        photo = self._photo(row)
        with self._checked():
            return bytes.fromhex(photo.digest)

    def has_changed(self) -> bool:
        """Whether something has been pushed since; UserError if the database cannot be reached."""
        return self._collection.pushed() != self.pushed

    def reopened(self) -> "MilvusStore":
        """Open the newest state; errors as in the class."""
        return type(self)(str(self._collection.address))

    @functools.cached_property
    def _names(self) -> dict[str, Counter[str]]:
        """The names of folders, cameras and persons that each push has kept, with their numbers of photos."""
        names = {kind: Counter() for kind in ("folders", "cameras", "persons")}
        with self._checked():
            for part in self._collection.records("names/").values():
                for kind, name, count in part:
                    names[kind][str(name)] += int(count)
        return names

    @property
    def names_all(self) -> bool:
        """Whether the names of all folders, cameras and persons were kept."""
        return all(one["named"] for one in self.pushed.values())

    @property
    def folders(self) -> dict[str, int]:
        """Folders and their sub-folders, sorted, and the number of photos inside each; the largest ones."""
        return dict(sorted(self._names["folders"].items()))

    @property
    def cameras(self) -> dict[str, int]:
        """Known cameras, sorted, and the number of photos of each; those of the most photos."""
        return dict(sorted(self._names["cameras"].items()))

    @property
    def persons(self) -> dict[str, int]:
        """Known identities, sorted, and the number of photos of each; those of the most photos."""
        return dict(sorted(self._names["persons"].items()))

    @property
    def times(self) -> tuple[str, str] | None:
        """First and last known time; None if none is known."""
        known = [one["times"] for one in self.pushed.values() if one["times"]]
        return (min(first for first, _ in known), max(last for _, last in known)) if known else None

    def _count(self, expr: str) -> int:
        with self._checked():
            return int(self._query(expr, ["count(*)"])[0]["count(*)"])

    def _query(self, expr: str, fields: Iterable[str]) -> list[dict[str, Any]]:
        return self._collection.call("query", self._collection.name, filter=expr, output_fields=list(fields))

    def _photo(self, row: int) -> _Photo:
        found = self._fetched([row])
        if not found:
            raise IndexError(row)
        return found[row]

    def _fetched(self, rows: Sequence[int]) -> dict[int, _Photo]:
        """Return what is known of those rows that exist; asks the database for those that are not kept."""
        with self._lock:
            kept = {row: self._photos[row] for row in rows if row in self._photos}
        if missing := [row for row in rows if row not in kept]:
            answer = self._query(any_of("id", missing), ["id", *_Photo._fields])
            with self._checked():
                kept |= self._keep({one["id"]: one for one in answer})
        return kept

    def _keep(self, rows: dict[int, dict[str, Any]]) -> dict[int, _Photo]:
        photos = {row: _Photo(*(one[key] for key in _Photo._fields)) for row, one in rows.items()}
        for row, one in photos.items():
            needed = isinstance(row, int) and all(isinstance(value, str) for value in one[:3])
            if not needed or not all(value is None or isinstance(value, str) for value in one[3:]):
                raise ValueError("a photo has other fields")
            if not (os.path.isabs(one.folder) or is_url(one.folder)) or os.path.basename(one.name) != one.name:
                raise ValueError("a photo is in no folder")
        with self._lock:
            self._photos.update(photos)
            while len(self._photos) > _KEPT:
                self._photos.popitem(last=False)
        return photos

    @contextlib.contextmanager
    def _checked(self) -> Iterable[None]:
        """Tell an answer of another form than expected as damage."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise self._collection.damaged(f"{type(error).__name__}: {error}") from error


def id_of(path: str) -> int:
    """Return the row of a photo: the first 63 bits of the SHA-256 of its absolute path."""
    return _number(os.fsencode(path))


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> (64 - ID_BITS)


def expression(where: Filter | None) -> str:
    """Write a filter in Milvus' language; a photo whose time, camera or person is not known passes none by it."""
    if not where:
        return ""
    parts = []
    if where.folders:
        # A range of texts holds the sub-folders: "0" follows "/". `like` would take % and _ in names as patterns.
        bare = [folder.rstrip("/") for folder in where.folders]
        inside = [f"(folder >= {quoted(f'{one}/')} and folder < {quoted(f'{one}0')})" for one in bare]
        parts.append(f"({' or '.join([any_of('folder', [one or '/' for one in bare]), *inside])})")
    parts += [
        any_of(field, values) for field, values in (("camera", where.cameras), ("person", where.persons)) if values
    ]
    if where.after or where.before:
        first, last = map(quoted, where.times)
        parts.append(f"(taken >= {first} and taken <= {last})")
    return " and ".join(parts)
