"""A collection of photos in Milvus: its fields, how it is indexed, and what is known of it as a whole.

Beside a collection NAME, its companion `NAME_about` says which model made the features, and what of which index was
pushed: milvus-lite loses the properties of a collection, and they would not let several machines push at once.
"""

import json
import time
from typing import Any, NamedTuple

from ms_unireid.apps.search.engines.milvus_client import Address, Client
from ms_unireid.errors import DataError, escaped
from ms_unireid.files import check_form, parse_json

FORMAT = 1
MOST = 16_384  # rows of one answer, as Milvus limits it
VECTOR = "feature"


class Kind(NamedTuple):
    """How a collection is searched."""

    index_type: str  # as Milvus calls it
    effort: str = ""  # the parameter of a search that trades time for recall; empty if there is none
    smallest: int = 0  # effort that is tried first
    usual: int = 0  # effort until a recall is asked for


KINDS = {
    "exact": Kind("FLAT"),
    "hnsw": Kind("HNSW", "ef", 16, 128),
    "diskann": Kind("DISKANN", "search_list", 16, 128),
    "ivf-pq": Kind("IVF_PQ", "nprobe", 1, 64),
}

_LONGEST = 65_535  # bytes of a text, as Milvus limits it
_BUILD = 24 * 3600.0  # seconds
_TEXTS = {"owner": False, "digest": False, "folder": False, "name": False}
_TEXTS |= {"person": True, "taken": True, "camera": True}  # whether it may be unknown
_COMPANION = {"key", "value", "unused"}
_MODEL = {
    "format": int, "id": str, "checkpoint": {"path": str, "sha256": str, str: object}, "model": {str: object},
    "preprocessing": {str: object}, "dtype": str, "dim": int, "kind": set(KINDS),
    "built": {str: int}, "effort": (int, None), str: object,
}  # fmt: skip
_PUSHED = {
    "id": str, "place": str, "changes": int, "photos": int, "skipped": int, "left": int, "whole": bool,
    "parts": int, "named": bool, "times": object, str: object,
}  # fmt: skip


class Collection(Client):
    """An open collection of photos.

    Args:
        address: Where it is.
        model: What `about` says of the model, to make the collection with if there is none; None opens an existing one.

    Attributes:
        about: How the features were made, kind and effort of the search, and the format.
        is_half: Whether the features are float16.

    Raises:
        DataError: If the collection is missing, another program's, damaged or of a newer format.
        UserError: As in `Client`.
    """

    def __init__(self, address: Address, model: dict[str, Any] | None = None):
        super().__init__(address, can_make=model is not None)
        self.name, self.companion = address.collection, f"{address.collection}_about"
        if not self.call("has_collection", self.name):
            if model is None:
                raise DataError(f"{address}: has no collection {self.name}; make it with {address.push}")
            self._create(model)
        fields = self._fields(self.name)
        if fields.keys() != {"id", "stamp", VECTOR, *_TEXTS} or self._fields(self.companion).keys() != _COMPANION:
            raise self.damaged("it has other fields than a collection of photos")
        self.is_half = fields[VECTOR] == "FLOAT16_VECTOR"
        self.call("load_collection", self.companion)
        self.about = self._read_about()

    def records(self, prefix: str) -> dict[str, Any]:
        """Return the records of the companion whose keys begin with a prefix of letters, digits and /."""
        options = {"filter": f'key like "{prefix}%"', "output_fields": ["key", "value"], "limit": MOST}
        rows = self.call("query", self.companion, **options)
        try:
            return {row["key"]: parse_json(row["value"]) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(str(error)) from error

    def put(self, records: dict[str, Any]) -> None:
        """Write records of the companion."""
        rows = [{"key": key, "value": json.dumps(value), "unused": [0.0, 0.0]} for key, value in records.items()]
        self.call("upsert", self.companion, rows)

    def set_about(self, **values: Any) -> None:
        """Change what is said of the collection."""
        self.about = {**self.about, **values}
        self.put({"model": self.about})

    def pushed(self) -> dict[str, dict[str, Any]]:
        """Return what was pushed, by the index's `id`."""
        found = self.records("index/")
        try:
            check_form(found, {str: _PUSHED}, "records")
            for one in found.values():
                if one["times"] is not None:
                    check_form(dict(enumerate(one["times"])), {0: str, 1: str}, "times")
        except (TypeError, ValueError) as error:
            raise self.damaged(str(error)) from error
        return {one["id"]: one for one in found.values()}

    def check_made_by(self, model: dict[str, Any], place: str) -> None:
        """DataError unless a model, which made the index in `place`, made the collection's features too."""
        ours, theirs = (one["checkpoint"]["sha256"] for one in (model, self.about))
        if ours != theirs:
            problem = f"features of another checkpoint (sha256 {escaped(theirs[:12])}...) than {place} ({ours[:12]}...)"
        elif any(model[key] != self.about[key] for key in ("model", "preprocessing", "dim")):
            problem = f"features of pictures that were prepared otherwise than those of {place}"
        else:
            return
        raise DataError(f"{self.address}: has {problem}; push it under another name, {self.address.uri}#NAME")

    def load(self) -> None:
        """Let the collection be searched."""
        self.call("load_collection", self.name, timeout=_BUILD)

    def index_type(self) -> str | None:
        """Return how the features are indexed; None if they are not."""
        if VECTOR not in self.call("list_indexes", self.name):
            return None
        return self._index().get("index_type")

    def wait_for_index(self) -> None:
        """Wait until the server has indexed all photos, which it searches without until then."""
        deadline = time.monotonic() + _BUILD
        while (found := self._index()).get("pending_index_rows"):
            if found.get("state") == "Failed" or time.monotonic() > deadline:
                raise DataError(f"{self.address}: the server could not index the features; see its log, and push again")
            time.sleep(1)

    def build_index(self, index_type: str, parameters: dict[str, int]) -> None:
        """Index the features anew, and let them be searched."""
        self.drop_index()
        prepared = self._client.prepare_index_params()
        prepared.add_index(VECTOR, index_type=index_type, metric_type="IP", index_name=VECTOR, params=parameters)
        self.call("create_index", self.name, prepared, timeout=_BUILD)
        self.load()

    def drop_index(self) -> None:
        """Remove the index of the features, if there is one."""
        if self.index_type():
            self.call("release_collection", self.name)
            self.call("drop_index", self.name, VECTOR)

    def damaged(self, why: str) -> DataError:
        """Make the error for a collection that is not as it was pushed."""
        return DataError(
            f"{self.address}: {self.name} is damaged or another program's ({escaped(why, 200)}); use another name, "
            f"{self.address.uri}#NAME, or drop {self.name} and {self.companion}, and push again"
        )

    def _index(self) -> dict[str, Any]:
        found = self.call("describe_index", self.name, VECTOR)
        return found if isinstance(found, dict) else {}

    def _create(self, model: dict[str, Any]) -> None:
        """Make the companion, and the collection last, so that one that is half made is made again."""
        if self.call("has_collection", self.companion):  # of a collection that was dropped, or of a stopped push
            if self._fields(self.companion).keys() != _COMPANION:
                raise self.damaged(f"{self.companion} has other fields")
            self.call("drop_collection", self.companion)
        companion = self._client.create_schema(auto_id=False)
        companion.add_field("key", self.types.VARCHAR, max_length=1024, is_primary=True)
        companion.add_field("value", self.types.VARCHAR, max_length=_LONGEST)
        companion.add_field("unused", self.types.FLOAT_VECTOR, dim=2)  # a collection has to have one
        options = {"schema": companion, "consistency_level": "Strong"}
        if not self.is_lite:  # which searches without, and whose indexes a kill can damage
            options["index_params"] = self._client.prepare_index_params()
            options["index_params"].add_index("unused", index_type="FLAT", metric_type="IP")
        self.call("create_collection", self.companion, **options)
        self.put({"model": model})
        photos = self._client.create_schema(auto_id=False)
        photos.add_field("id", self.types.INT64, is_primary=True)
        photos.add_field("stamp", self.types.INT64)
        for name, nullable in _TEXTS.items():
            photos.add_field(name, self.types.VARCHAR, max_length=_LONGEST, nullable=nullable)
        half = model["dtype"] == "float16" and not self.is_lite  # which has no vectors of float16
        photos.add_field(VECTOR, self.types.FLOAT16_VECTOR if half else self.types.FLOAT_VECTOR, dim=model["dim"])
        self.call("create_collection", self.name, schema=photos)

    def _fields(self, name: str) -> dict[str, str]:
        """Return the names and types of a collection's fields; none if there is no such collection."""
        found = self.call("describe_collection", name) if self.call("has_collection", name) else {"fields": []}
        try:
            return {one["name"]: one["type"].name for one in found["fields"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise self.damaged("its fields cannot be told") from error

    def _read_about(self) -> dict[str, Any]:
        found = self.records("model").get("model")
        if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise DataError(
                f"{self.address}: has format {found['format']}, expected {FORMAT}; use the version of ms_unireid that "
                "made it, or a newer one"
            )
        try:
            check_form(found, _MODEL, "model")
        except ValueError as error:
            raise self.damaged(str(error)) from error
        return found
