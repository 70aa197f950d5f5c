"""A collection of photos in Milvus: its address, its fields, and every call of it, with errors in one line.

Beside a collection NAME, its companion `NAME_about` says which model made the features, and what of which index was
pushed: properties of a collection would be lost by milvus-lite, and would not let several machines push at once.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ms_unireid.apps.optional import need
from ms_unireid.errors import ConfigError, DataError, UserError, escaped, shown
from ms_unireid.files import check_form, parse_json
from ms_unireid.installation import install_extra, job_command

FORMAT = 1
MOST = 16_384  # photos of one answer, as Milvus limits it
VECTOR = "feature"
LITE = "milvus-lite"
_COLLECTION = "photos"
_CONNECT, _CALL, _BUILD = 5.0, 60.0, 24 * 3600.0  # seconds
_LOGIN = "MILVUS_USER and MILVUS_PASSWORD"
_TEXTS = {"owner": False, "digest": False, "folder": False, "name": False}
_TEXTS |= {"person": True, "taken": True, "camera": True}  # whether it may be unknown
_LONGEST = 65_535  # bytes of a text, as Milvus limits it
_MODEL = {
    "format": int, "id": str, "checkpoint": {"path": str, "sha256": str, str: object}, "model": {str: object},
    "preprocessing": {str: object}, "dtype": str, "dim": int, "kind": str, "effort": (int, None), str: object,
}  # fmt: skip
_PUSHED = {
    "id": str, "place": str, "changes": int, "photos": int, "skipped": int, "left": int, "whole": bool,
    "parts": int, "named": bool, "times": object, str: object,
}  # fmt: skip


class Address(NamedTuple):
    """Where a collection is."""

    uri: str  # http://HOST:PORT, https://..., or a file that ends in .db
    collection: str = _COLLECTION

    def __str__(self) -> str:
        return self.uri if self.collection == _COLLECTION else f"{self.uri}#{self.collection}"

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which milvus-lite serves inside this process."""
        return "://" not in self.uri


def is_address(text: str) -> bool:
    """Whether a text is meant as an address of Milvus, and not as a folder."""
    return "://" in text or text.partition("#")[0].endswith(".db")


def parse_address(text: str) -> Address:
    """Read an address, `URI` or `URI#COLLECTION`; ConfigError if it is none, or has a password in it."""
    uri, _, name = text.partition("#")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,199}", name or _COLLECTION):
        raise ConfigError(f"collection {shown(name)}: expected letters, digits and _, such as #{_COLLECTION}")
    address = Address(uri, name or _COLLECTION)
    if address.is_file:
        if not uri.endswith(".db"):
            raise ConfigError(f"{escaped(text)}: expected a file that ends in .db, or http://HOST:19530")
        return address
    try:
        parts = urlsplit(uri)
        known = parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.port != 0
        named = parts.hostname
    except ValueError:
        known, named = False, "the address"
    if "@" in uri:  # it is not shown, since it may have a password
        raise ConfigError(f"{named}: has a name or password in its address; set MILVUS_TOKEN, or {_LOGIN}, instead")
    if not known:
        raise ConfigError(f"{escaped(uri)}: expected http://HOST:19530, https://HOST:PORT or a file that ends in .db")
    return address


class Collection:
    """A connection to a collection of photos, and the calls of it.

    Args:
        address: Where it is.
        model: What `about` says of the model, to make the collection with if there is none; None opens an existing one.

    Attributes:
        about: How the features were made, kind and effort of the search, and the format.
        is_lite: Whether milvus-lite serves it.

    Raises:
        EnvironmentProblem: If pymilvus is not installed.
        DataError: If the collection is missing, another program's, damaged or of a newer format.
        UserError: If the database cannot be reached or opened.
    """

    def __init__(self, address: Address, model: dict[str, Any] | None = None):
        self.address = address
        self._milvus = need("pymilvus", "search in Milvus", f"install it with: {install_extra('milvus')}")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs tracebacks of what is told here
        self._client = self._connect(bool(model))
        self.is_lite = "lite" in str(self.call("get_server_version")).lower()
        if not self.call("has_collection", address.collection):
            if model is None:
                raise DataError(f"{address}: has no collection {address.collection}; {self._make()}")
            self._create(model)
        self._check_fields()
        self.about = self._read_about()

    def call(self, method: str, *arguments: Any, timeout: float = _CALL, **options: Any) -> Any:
        """Call a method of pymilvus' client; UserError, in one line, if that fails."""
        with self._clear_errors(method):
            return getattr(self._client, method)(*arguments, timeout=timeout, **options)

    def scan(self, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield the photos that a query finds, however many; errors as in `call`."""
        name = self.address.collection
        pages = self.call("query_iterator", name, batch_size=MOST, consistency_level="Strong", **options)
        while True:
            with self._clear_errors("query"):
                page = pages.next()
            if not page:
                return
            yield from page

    def records(self, prefix: str) -> dict[str, Any]:
        """Return the records of the companion whose keys begin with a prefix of letters, digits and /."""
        rows = self.call(
            "query", self.companion, filter=f'key like "{prefix}%"', output_fields=["key", "value"], limit=MOST
        )
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

    def check_made_by(self, model: dict[str, Any], place: str) -> None:
        """DataError unless a model, which made the index in `place`, made the collection's features too."""
        ours, theirs = (one["checkpoint"]["sha256"] for one in (model, self.about))
        if ours != theirs:
            raise DataError(
                f"{self.address}: has features of another checkpoint (sha256 {theirs[:12]}...) than {place} "
                f"({ours[:12]}...); push it under another name, {self.address.uri}#NAME"
            )
        if any(model[key] != self.about[key] for key in ("model", "preprocessing", "dim")):
            raise DataError(
                f"{self.address}: has features of other pictures than {place} (model or preprocessing); push it under "
                f"another name, {self.address.uri}#NAME"
            )

    def pushed(self) -> dict[str, dict[str, Any]]:
        """Return what was pushed, by the index's `id`."""
        found = self.records("index/")
        try:
            check_form(found, {str: _PUSHED}, "records")
            for one in found.values():
                if one["times"] is not None:
                    check_form(one["times"], [str], "times")
                    if len(one["times"]) != 2:
                        raise ValueError("times are not two")
        except ValueError as error:
            raise self.damaged(str(error)) from error
        return {one["id"]: one for one in found.values()}

    def load(self) -> None:
        """Let the collection be searched."""
        self.call("load_collection", self.address.collection, timeout=_BUILD)

    def index_type(self) -> str | None:
        """Return how the features are indexed; None if they are not."""
        if VECTOR not in self.call("list_indexes", self.address.collection):
            return None
        found = self.call("describe_index", self.address.collection, VECTOR)
        return found.get("index_type") if isinstance(found, dict) else None

    def build_index(self, index_type: str, parameters: dict[str, int]) -> None:
        """Index the features anew, and let them be searched."""
        self.drop_index()
        prepared = self._client.prepare_index_params()
        prepared.add_index(VECTOR, index_type=index_type, metric_type="IP", index_name=VECTOR, params=parameters)
        self.call("create_index", self.address.collection, prepared, timeout=_BUILD)
        self.load()

    def drop_index(self) -> None:
        """Remove the index of the features, if there is one."""
        if self.index_type():
            self.call("release_collection", self.address.collection)
            self.call("drop_index", self.address.collection, VECTOR)

    def unindexed(self) -> int:
        """Return how many photos the server has not indexed yet."""
        found = self.call("describe_index", self.address.collection, VECTOR) or {}
        return int(found.get("pending_index_rows") or 0)

    def damaged(self, why: str) -> DataError:
        """Make the error for a collection that is not as it was pushed."""
        name = self.address.collection
        return DataError(
            f"{self.address}: is damaged or another program's ({escaped(why, 200)}); {self._make()} under another "
            f"name, or drop {name} and {self.companion}"
        )

    @property
    def companion(self) -> str:
        """The name of the collection beside it."""
        return f"{self.address.collection}_about"

    def _make(self) -> str:
        return f"make it with {job_command('search')} push --index INDEX --to {self.address}"

    def _connect(self, can_make: bool) -> Any:
        address, credentials = self.address, {} if self.address.is_file else _credentials()
        if not address.is_file:
            self._client = None
            try:
                return self._milvus.MilvusClient(address.uri, timeout=_CONNECT, **credentials)
            except (self._milvus.MilvusException, ValueError) as error:
                raise self._failed("connect", error) from error
        need("milvus_lite", f"the file {address.uri}", f"install it with: {install_extra('milvus')}")
        _check_file(self.address, can_make, self._make())
        reasons = _Reasons()
        log = logging.getLogger("milvus_lite")
        log.addHandler(reasons)
        log.propagate = False  # it logs tracebacks of what is told here
        try:
            return self._milvus.MilvusClient(address.uri)
        except (self._milvus.MilvusException, OSError) as error:
            raise self._failed("open", reasons.found or error) from error
        finally:
            log.removeHandler(reasons)
            log.addHandler(logging.NullHandler())

    @contextlib.contextmanager
    def _clear_errors(self, method: str) -> Iterator[None]:
        import grpc

        try:
            yield
        except (self._milvus.MilvusException, grpc.RpcError, OSError, ValueError, TypeError, KeyError) as error:
            raise self._failed(method.replace("_", " "), error) from error

    def _failed(self, what: str, error: BaseException) -> UserError:
        reason = " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__
        fix = "try again; what was pushed is kept, and the next push goes on from there"
        if type(error).__name__ == "DataDirLockedError":
            reason, fix = "another process uses it", "a file has one user at a time: stop that one, or use a server"
        elif getattr(error, "code", None) == 2 or what == "connect":
            reason = f"cannot be reached ({reason})"
            fix = f"check the address, that the server runs, and the credentials in MILVUS_TOKEN or {_LOGIN}"
        else:
            reason = f"could not {what} ({reason})"
        return UserError(f"{self.address}: {escaped(reason, 300)}; {fix}")

    def _create(self, model: dict[str, Any]) -> None:
        """Make the collection and its companion; the model is written last, so a half-made one is made again."""
        types = self._milvus.DataType
        companion = self._client.create_schema(auto_id=False)
        companion.add_field("key", types.VARCHAR, max_length=1024, is_primary=True)
        companion.add_field("value", types.VARCHAR, max_length=_LONGEST)
        companion.add_field("unused", types.FLOAT_VECTOR, dim=2)  # a collection has to have one
        photos = self._client.create_schema(auto_id=False)
        photos.add_field("id", types.INT64, is_primary=True)
        photos.add_field("stamp", types.INT64)
        for name, nullable in _TEXTS.items():
            photos.add_field(name, types.VARCHAR, max_length=_LONGEST, nullable=nullable)
        half = model["dtype"] == "float16" and not self.is_lite
        photos.add_field(VECTOR, types.FLOAT16_VECTOR if half else types.FLOAT_VECTOR, dim=model["dim"])
        plain = self._client.prepare_index_params()
        plain.add_index("unused", index_type="FLAT", metric_type="IP")
        if self.call("has_collection", self.companion):  # of a collection that has been dropped, or a stopped push
            self.call("drop_collection", self.companion)
        strong = {"index_params": plain, "consistency_level": "Strong"}
        self.call("create_collection", self.companion, schema=companion, **strong)
        self.put({"model": model})
        self.call("create_collection", self.address.collection, schema=photos)

    def _check_fields(self) -> None:
        """DataError unless the collection has the fields of photos."""
        found = self.call("describe_collection", self.address.collection)
        try:
            fields = {one["name"]: one for one in found["fields"]}
            self.is_half = fields[VECTOR]["type"].name == "FLOAT16_VECTOR"
            right = fields.keys() == {"id", "stamp", VECTOR, *_TEXTS} and fields["id"]["type"].name == "INT64"
            if not right or not self.call("has_collection", self.companion):
                raise KeyError
        except (KeyError, TypeError, AttributeError) as error:
            raise self.damaged("it has other fields than a collection of photos") from error

    def _read_about(self) -> dict[str, Any]:
        self.call("load_collection", self.companion)
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


class _Reasons(logging.Handler):
    """Keeps why milvus-lite could not open a file, which it only logs."""

    found: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.found = record.exc_info[1] if record.exc_info else self.found


def _check_file(address: Address, can_make: bool, make: str) -> None:
    path = Path(address.uri)
    if path.is_dir() and ((path / "collections").is_dir() or (can_make and not any(path.iterdir()))):
        return
    if path.exists():
        raise DataError(f"{path}: is no database of {LITE} 3, which is a folder; give another name")
    if not can_make:
        raise DataError(f"{path}: does not exist; {make}")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: its folder does not exist; make it")


def _credentials() -> dict[str, str]:
    token, user, password = (os.environ.get(f"MILVUS_{key}", "") for key in ("TOKEN", "USER", "PASSWORD"))
    if bool(user) != bool(password):
        raise ConfigError("MILVUS_USER and MILVUS_PASSWORD: one of them is not set; set both, or MILVUS_TOKEN")
    return {"token": token or (user and f"{user}:{password}")}


def quoted(text: str) -> str:
    """Write a text as a literal of a filter, by the escapes that Milvus and milvus-lite both know."""
    for plain, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escape)
    return f'"{text}"'


def any_of(field: str, values: Sequence[str | int]) -> str:
    """Return the filter that a field has one of some values."""
    return f"{field} in [{', '.join(quoted(one) if isinstance(one, str) else str(one) for one in values)}]"
