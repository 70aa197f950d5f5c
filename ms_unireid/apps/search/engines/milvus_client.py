"""Milvus' client: addresses, the connection, calls with errors in one line, and literals of filters."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ms_unireid.apps.optional import need
from ms_unireid.errors import ConfigError, DataError, UserError, escaped, shown
from ms_unireid.installation import install_extra, job_command

LITE = "milvus-lite"
_COLLECTION = "photos"
_LOGIN = "MILVUS_USER and MILVUS_PASSWORD"
_WRITES = ("upsert", "delete", "flush")
_CONNECT, _CALL = 5.0, 60.0  # seconds


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

    @property
    def push(self) -> str:
        """The command that pushes to it, for messages."""
        return f"{job_command('search')} push --index INDEX --to {self}"


def is_address(text: str) -> bool:
    """Whether a text is meant as an address of Milvus, and not as a folder."""
    return "://" in text or text.partition("#")[0].endswith(".db")


def parse_address(text: str) -> Address:
    """Read an address, `URI` or `URI#COLLECTION`; ConfigError if it is none, or has a password in it."""
    uri, _, name = text.partition("#")
    host = "the address"
    try:
        parts = urlsplit(uri)
        host = parts.hostname or host
        known = parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.port != 0
    except ValueError:
        known = False
    if "://" in uri and "@" in uri:  # what may be a password is not shown
        raise ConfigError(f"{escaped(host)}: has a name or password in its address; set MILVUS_TOKEN, or {_LOGIN}")
    if not (known if "://" in uri else uri.endswith(".db")):
        raise ConfigError(f"{escaped(uri)}: expected http://HOST:19530, https://HOST:PORT or a file that ends in .db")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,199}", name or _COLLECTION):
        raise ConfigError(f"collection {shown(name)}: expected letters, digits and _, such as #{_COLLECTION}")
    return Address(uri, name or _COLLECTION)


class Client:
    """A connection to the database of an address.

    Args:
        address: Where it is.
        can_make: Whether a file is made if there is none.

    Attributes:
        is_lite: Whether milvus-lite serves it.
        types: The types of fields.

    Raises:
        EnvironmentProblem: If pymilvus is not installed.
        DataError: If a file is missing or no database.
        UserError: If the database cannot be reached or opened.
    """

    def __init__(self, address: Address, can_make: bool = False):
        self.address = address
        self._milvus = _imported(address)
        self.types = self._milvus.DataType
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs tracebacks of what is told here
        if address.is_file:
            _check_file(address, can_make)
            log, _REASON.found = logging.getLogger("milvus_lite"), None
            log.addHandler(_REASON)
            log.propagate = False
            logging.getLogger("grpc._server").setLevel(logging.CRITICAL + 1)  # of calls that milvus-lite does not know
        options = {} if address.is_file else {"timeout": _CONNECT, **_credentials()}
        with self._clear_errors("connect"):
            self._client = self._milvus.MilvusClient(address.uri, **options)
        self.is_lite = "lite" in str(self.call("get_server_version")).lower()

    def call(self, method: str, *arguments: Any, timeout: float = _CALL, **options: Any) -> Any:
        """Call a method of pymilvus' client; UserError, in one line, if that fails.

        A server has some seconds; a file is served by this process, and as slow as its disk.
        """
        timeout = None if self.address.is_file else timeout
        with self._clear_errors(method):
            return getattr(self._client, method)(*arguments, timeout=timeout, **options)

    def scan(self, name: str, batch: int, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a collection that a query finds, however many; errors as in `call`."""
        pages = self.call("query_iterator", name, batch_size=batch, consistency_level="Strong", **options)
        while True:
            with self._clear_errors("query"):
                page = pages.next()
            if not page:
                return
            yield from page

    @contextlib.contextmanager
    def _clear_errors(self, method: str) -> Iterator[None]:
        import grpc

        try:
            yield
        except (self._milvus.MilvusException, grpc.RpcError, OSError, ValueError, TypeError, KeyError) as error:
            raise self._failed(method, error) from error

    def _failed(self, method: str, error: Exception) -> UserError:
        error = _REASON.found if method == "connect" and self.address.is_file and _REASON.found else error
        reason = escaped(" ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__, 300)
        if type(error).__name__ == "DataDirLockedError":
            return UserError(
                f"{self.address}: another process uses it, and a file has one user at a time; stop that one, or use a "
                "server"
            )
        if not self.address.is_file and (method == "connect" or getattr(error, "code", None) == 2):
            return UserError(
                f"{self.address}: cannot be reached ({reason}); check the address, that the server runs, and the "
                f"credentials in MILVUS_TOKEN or {_LOGIN}"
            )
        fix = f"try again; if it stays, it is damaged: push again with {self.address.push}, or to another place"
        if method in _WRITES:
            fix = "what was pushed before is kept, and the next push goes on from there"
        return UserError(f"{self.address}: {method} failed ({reason}); {fix}")


def reach(address: Address) -> None:
    """Tell early what `Client` would, without making a file.

    To be called before MindSpore is imported, which makes pymilvus four times slower when it comes first.
    """
    if address.is_file:
        _imported(address)
        _check_file(address, can_make=True)
    else:
        Client(address)


class _Reason(logging.Handler):
    """Keeps why milvus-lite could not open a file, which it only logs, with a traceback."""

    found: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.found = record.exc_info[1] if record.exc_info else self.found


_REASON = _Reason()


def _imported(address: Address) -> Any:
    fix = f"install it with: {install_extra('milvus')}"
    if address.is_file:
        need("milvus_lite", f"the file {address.uri}", fix)
    return need("pymilvus", "search in Milvus", fix)


def _check_file(address: Address, can_make: bool) -> None:
    path = Path(address.uri)
    if path.is_dir() and ((path / "collections").is_dir() or (can_make and not any(path.iterdir()))):
        return
    if os.path.lexists(path):
        raise DataError(f"{path}: is no database of {LITE} 3, which is a folder; give another name")
    if not can_make:
        raise DataError(f"{path}: does not exist; make it with {address.push}")
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
