"""Pushing an index into Milvus: what is new is sent, what is gone is deleted, and a stopped push goes on."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from typing import Any

import numpy as np

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.engines.exact import exact_search
from ms_unireid.apps.search.engines.faiss import TOP, recall_of
from ms_unireid.apps.search.engines.milvus import ID_BITS, MilvusStore, id_of
from ms_unireid.apps.search.engines.milvus_client import LITE, Address, any_of, quoted
from ms_unireid.apps.search.engines.milvus_collection import FORMAT, KINDS, MOST, VECTOR, Collection
from ms_unireid.apps.search.manifest import Manifest, Photo
from ms_unireid.data.findings import listed
from ms_unireid.errors import ConfigError, DataError, shown
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.installation import job_command

_LITE_KINDS = ("exact", "hnsw")
_BATCH, _BATCH_BYTES = 2000, 16 << 20  # photos, and bytes of features, in one call
_NAMES, _NAME_CHARACTERS, _PART = 1000, 4096, 30_000  # names kept of each kind, their length, characters of a record
_MOST_EFFORT = 4096
_WRITE = 180.0  # seconds, of a server that is busy


class Push:
    """Brings a collection of Milvus in line with an index; other indexes' photos in it stay.

    Args:
        index: The index.
        address: Where to; the collection is made if there is none.
        kind: One of `KINDS`; None keeps that of the collection, and makes a new one exact.

    Raises:
        ConfigError: If the kind is not to be had there.
        DataError: If the collection is another checkpoint's, or the index cannot be pushed.
        UserError: If the database cannot be reached or written.
    """

    def __init__(self, index: PhotoIndex, address: Address, kind: str | None = None):
        self.index, about = index, index.about
        if not about["id"] or "facts" not in about:
            raise DataError(
                f"{index.place}: was made by an earlier version; bring it up to date with {job_command('search')} "
                f"index --output {index.place}"
            )
        made = {key: about[key] for key in ("checkpoint", "model", "preprocessing", "dtype", "dim")}
        search = {"kind": kind or "exact", "built": {}, "effort": None, "recall_at_10": None}
        model = {"format": FORMAT, "id": uuid.uuid4().hex, **made, **search}
        _check_kind(kind, address.is_file)
        self.collection = Collection(address, model if index.count else None)  # nothing is made for no photos
        self.collection.check_made_by(made, index.place)
        self.kind = kind or self.collection.about["kind"]
        _check_kind(self.kind, self.collection.is_lite)
        self.entry = {
            "id": about["id"], "place": os.path.abspath(index.place), "changes": about["changes"],
            "photos": index.count, "skipped": index.unreadable, "left": about["left"], "times": index.times,
            "whole": False, "parts": 0, "named": False,
        }  # fmt: skip
        self._key = f"index/{about['id']}"

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Push; `progress` gets the numbers of photos that are there and of all. Returns a summary.

        Errors as in the class.
        """
        collection, pushed = self.collection, self.collection.pushed()
        before = pushed.pop(self.entry["id"], None)
        self._others = sum(one["photos"] for one in pushed.values())
        is_same = before is not None and before["whole"] and before["changes"] == self.entry["changes"]
        is_searched = collection.index_type() == (None if self._is_plain else KINDS[self.kind].index_type)
        sent = gone = 0
        if before:
            self.entry.update(parts=before["parts"], named=before["named"])
        if not (is_same and is_searched):
            collection.put({self._key: self.entry})  # it is not whole until the end
            self._prepare(is_searched)
            if not is_same:
                sent, gone = self._send(before is not None, progress)
                self._put_names()
            self._finish()
            collection.put({self._key: {**self.entry, "whole": True}})
        photos = {"photos": self.index.count, "sent": sent, "deleted": gone}
        return {"index": self.index.place, "to": str(collection.address), "kind": self.kind, **photos}

    @property
    def _is_plain(self) -> bool:
        """Whether the features have no index: milvus-lite reads them all then."""
        return self.collection.is_lite and self.kind == "exact"

    def _prepare(self, is_searched: bool) -> None:
        """Let the collection be read and written while photos are sent."""
        collection = self.collection
        if collection.is_lite:  # it would build an index again and again, and a kill may have damaged the present one
            collection.drop_index()
        elif is_searched:
            collection.load()
        else:
            self._build()
        if self.kind != collection.about["kind"]:
            collection.set_about(kind=self.kind, effort=None, recall_at_10=None)

    def _finish(self) -> None:
        """Let the engine write and index what was sent."""
        self.collection.call("flush", self.collection.name, timeout=_WRITE)
        if self.collection.is_lite and not self._is_plain:
            self._build()

    def _build(self) -> None:
        """Index the features by the usual values; for IVF-PQ 4 lists per root of photos, as faiss advises."""
        parameters = {"M": 32, "efConstruction": 200} if self.kind == "hnsw" else {}
        if self.kind == "ivf-pq":
            lists = min(max(4 * int((self.index.count + self._others) ** 0.5), 128), 1 << 16)
            width = next(width for width in (8, 4, 2, 1) if not self.index.dim % width)
            parameters = {"nlist": lists, "m": self.index.dim // width, "nbits": 8}  # a byte for 8 values
        self.collection.build_index(KINDS[self.kind].index_type, parameters)
        self.collection.set_about(built=parameters)

    def _send(self, is_known: bool, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Send what is missing or other, and delete what is gone; return the numbers of both."""
        collection, name = self.collection, self.collection.name
        photos, folders = self._read_photos()
        paths = [os.path.join(folders[one.source], one.name) for one in photos]
        ids = np.array([id_of(path) for path in paths], np.int64)
        stamps = np.array(list(starmap(self._stamp, enumerate(photos))), np.int64)
        there = dict(self._own_stamps()) if is_known else {}
        missing = [row for row, (one, stamp) in enumerate(zip(ids.tolist(), stamps.tolist(), strict=True))
                   if there.get(one) != stamp]  # fmt: skip
        done, step = len(ids) - len(missing), max(1, min(_BATCH, _BATCH_BYTES // (4 * self.index.dim)))
        progress(done, len(ids))
        for start in range(0, len(missing), step):
            rows = missing[start : start + step]
            feats = self.index.features_of(rows).astype(np.float16 if collection.is_half else np.float32)
            sent = [
                self._fields(int(ids[row]), int(stamps[row]), paths[row], photos[row], feature)
                for row, feature in zip(rows, feats, strict=True)
            ]
            collection.call("upsert", name, sent, timeout=_WRITE)
            progress(done + start + len(rows), len(ids))
        gone = sorted(there.keys() - set(ids.tolist()))
        for start in range(0, len(gone), step):
            collection.call("delete", name, filter=any_of("id", gone[start : start + step]))
        return len(missing), len(gone)

    def _read_photos(self) -> tuple[list[Photo], dict[int, str]]:
        """Return the photos of the index as it was opened, and the folders of their sources."""
        manifest = Manifest(self.index.folder)
        with contextlib.closing(manifest), manifest.transaction(write=False):
            if manifest.about() != self.index.about:
                raise DataError(f"{self.index.place}: has changed since it was opened; push it again")
            return manifest.photos(), {number: source.folder for number, source in manifest.sources().items()}

    def _stamp(self, row: int, photo: Photo) -> int:
        """Return 63 bits that tell whether what is sent of a photo has changed."""
        facts = json.dumps([photo.sha256.hex(), photo.person, photo.taken, photo.camera]).encode()
        digest = hashlib.sha256(facts + self.index.features_of([row]).tobytes()).digest()
        return int.from_bytes(digest[:8], "big") >> (64 - ID_BITS)

    def _own_stamps(self) -> Iterator[tuple[int, int]]:
        """Yield id and stamp of each photo of this index that is in the collection."""
        options = {"filter": f"owner == {quoted(self.entry['id'])}", "output_fields": ["id", "stamp"]}
        yield from ((one["id"], one["stamp"]) for one in self.collection.scan(self.collection.name, MOST, **options))

    def _fields(self, number: int, stamp: int, path: str, photo: Photo, feature: np.ndarray) -> dict[str, Any]:
        folder, name = os.path.split(path)
        known = {"person": photo.person, "taken": photo.taken, "camera": photo.camera}
        whose = {"id": number, "stamp": stamp, "owner": self.entry["id"], "digest": photo.sha256.hex()}
        return {**whose, "folder": folder, "name": name, **known, VECTOR: feature}

    def _put_names(self) -> None:
        """Keep the folders, cameras and persons of the most photos, in place of those that were kept."""
        named = {"folders": self.index.folders, "cameras": self.index.cameras, "persons": self.index.persons}
        parts, size, left_out = [[]], 0, False
        for kind, counts in named.items():
            for place, (name, count) in enumerate(sorted(counts.items(), key=lambda item: -item[1])):
                if place >= _NAMES or len(name) > _NAME_CHARACTERS:
                    left_out = True
                    continue
                if size > _PART:
                    parts, size = [*parts, []], 0
                parts[-1].append([kind, name, count])
                size += len(json.dumps(parts[-1][-1]))
        keys = _name_keys(self.entry["id"], max(self.entry["parts"], len(parts)))
        self.collection.put(dict(zip(keys, parts, strict=False)))
        if old := keys[len(parts) :]:
            self.collection.call("delete", self.collection.companion, ids=old)
        self.entry.update(parts=len(parts), named=not left_out)


def forget(address: Address, index_id: str) -> dict[str, Any]:
    """Delete the photos of an index that is gone from a collection; return a summary.

    DataError if nothing was pushed by that index; errors as in `Push`.
    """
    collection = Collection(address)
    entry = collection.pushed().get(index_id)
    if entry is None:
        known = listed(sorted(collection.pushed())) or "none"
        raise DataError(f"{collection.address}: has no photos of an index {shown(index_id)}; it has those of {known}")
    collection.load()
    collection.put({f"index/{index_id}": {**entry, "whole": False}})  # a stop in the middle is seen
    collection.call("delete", collection.name, filter=f"owner == {quoted(index_id)}")
    keys = [f"index/{index_id}", *_name_keys(index_id, entry["parts"])]
    collection.call("delete", collection.companion, ids=keys)
    return {"from": str(collection.address), "index": entry["place"], "forgotten": entry["photos"]}


def choose_effort(push: Push, queries: Mapping[str, np.ndarray], recall: float) -> dict[str, Any]:
    """Choose the smallest effort of a search that reaches a recall, and keep it with the collection.

    Recall is the fraction of the exact top 10 of the pushed index that the engine finds among its photos.

    Args:
        push: Has been run.
        queries: Kind of query to un-normalised features (Q, D).
        recall: Required for each kind of query.

    Returns:
        The chosen effort, the recall by effort, and the parameter's name.
    """
    push.collection.wait_for_index()
    store = MilvusStore(push.collection)
    kind = KINDS[push.kind]
    ids = np.array([id_of(str(path)) for path in push.index.photos], np.int64)
    units = {name: normalize_rows(feats) for name, feats in queries.items()}
    exact = {name: ids[exact_search(push.index.features, feats, TOP)[0]] for name, feats in units.items()}
    own = "" if len(store.pushed) == 1 else f"owner == {quoted(push.entry['id'])}"
    most = push.collection.about["built"].get("nlist", _MOST_EFFORT)
    measured, effort = [], kind.smallest
    while True:
        found = {name: store.found(feats, TOP, effort, own) for name, feats in units.items()}
        rows = {name: [[row for row, _ in hits] for hits in lists] for name, lists in found.items()}
        measured.append({kind.effort: effort, **{name: recall_of(rows[name], exact[name]) for name in units}})
        if min(measured[-1][name] for name in units) >= recall or effort >= most:
            break
        effort = min(2 * effort, most)
    reached = {name: measured[-1][name] for name in units}
    push.collection.set_about(effort=effort, recall_at_10=reached)
    return {"effort": effort, "recall_at_10": reached, "measured": measured}


def _name_keys(index_id: str, count: int) -> list[str]:
    return [f"names/{index_id}/{number}" for number in range(count)]


def _check_kind(kind: str | None, is_lite: bool) -> None:
    if is_lite and kind and kind not in _LITE_KINDS:
        raise ConfigError(f"--kind {kind}: {LITE} has none; push to a server, or choose {' or '.join(_LITE_KINDS)}")
