"""Reading regular files only, writing files so that they are never left half-written, and locks."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ms_unireid.errors import UserError, shown
from ms_unireid.remote import RemoteFile, Status, is_remote, read_remote, remote_status

FIGURES = (".png", ".jpg", ".jpeg", ".pdf")  # endings of the names of figures
_MAX_JSON = 16 << 20  # bytes; its lists and dictionaries take up to thirty times as much
_TOO_LARGE = 1e300


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which may never end, raises an OSError before anything waits.

    A remote file is read at once; that its place cannot be reached is a UserError.
    """
    if is_remote(path):
        return read_remote(path)
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "a file cannot have this name", str(path)) from error
    if stat.S_ISREG(os.fstat(number).st_mode):
        return os.fdopen(number, "rb")
    os.close(number)
    raise OSError(errno.EINVAL, "it is a folder, pipe or device; expected a file", str(path))


def status_of(file: Path | BinaryIO) -> Status:
    """Return the status of a file by its path, or of one that `open_regular` opened; errors as there."""
    if isinstance(file, RemoteFile):
        return file.status
    if isinstance(file, io.IOBase):
        found = os.fstat(file.fileno())
    elif is_remote(file):
        return remote_status(file)
    else:
        found = os.stat(file)
    return found.st_size, found.st_mtime_ns


def read_text(path: Path, most_bytes: int) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; its ends of lines stay.

    OSError as `open_regular`; ValueError, whose message says so, if it is too large or not UTF-8.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            limit = f"{most_bytes >> 20} MiB" if most_bytes >> 20 else f"{most_bytes >> 10} KiB"
            raise ValueError(f"larger than {limit}")
        data = file.read(size)
    try:
        if b"\0" in data:
            raise ValueError("a zero byte")
        return data.decode("utf-8-sig")
    except ValueError as error:
        known = "UTF-16, " if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        raise ValueError(f"not UTF-8 text ({known}{error})") from error


def parse_json(text: str) -> Any:
    """Parse JSON; a key twice in one object, NaN, infinities and anything that is no JSON raise a ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} appears twice in one object")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def read_json(path: Path, form: Any, fix: str) -> Any:
    """Read a JSON file of our own, of at most 16 MiB, and check it with `check_form`.

    UserError, whose message ends with `fix`, if it cannot be read, is no JSON or has another form.
    """
    try:
        value = parse_json(read_text(path, _MAX_JSON))
        check_form(value, form)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {fix}") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); {fix}") from error
    return value


def check_form(value: Any, form: Any, name: str = "content") -> None:
    """Check a value that was read from JSON; ValueError, which names the place below `name`, if it has another form.

    A form is a type, where float is any finite number; a set of texts; a tuple of these and None, one of which fits;
    `[form]` for a list; a dictionary from each needed key to its form, and from `str` to that of other keys.
    """
    if not isinstance(form, dict | list):
        kinds = form if isinstance(form, tuple) else (form,)
        if not any(_fits(value, kind) for kind in kinds):
            raise ValueError(f"{name} is {shown(value)}; expected {' or '.join(map(_in_words, kinds))}")
        return
    if not isinstance(value, type(form)):
        raise ValueError(f"{name} is {shown(value)}; expected a {'list' if isinstance(form, list) else 'dictionary'}")
    if isinstance(form, list):
        for index, item in enumerate(value):
            check_form(item, form[0], f"{name}[{index}]")
        return
    if missing := [key for key in form if key is not str and key not in value]:
        raise ValueError(f"{name} has no {missing[0]!r}")
    for key, item in value.items():
        check_form(item, form.get(key, form.get(str, object)), f"{name}[{shown(key)}]")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, set):
        return isinstance(value, str) and value in kind
    if value is None or kind is None or isinstance(value, bool):  # true is no number, although Python's bool is an int
        return kind is object or value is kind or (kind is bool and value is not None)
    return isinstance(value, int | float) and abs(value) < _TOO_LARGE if kind is float else isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if isinstance(kind, set):
        return f"one of {', '.join(sorted(kind))}"
    return {float: "a finite number", int: "a whole number", str: "text", bool: "true or false", None: "null"}[kind]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`, with its suffix; on success the file replaces `path`.

    If it cannot be written, it raises a UserError and an old file at `path` stays.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`; on success it replaces `path` with all its contents.

    If it cannot be written, it raises a UserError and an old folder at `path` stays.
    """
    path = path.absolute()
    fresh, old = (path.with_name(f".{path.name}.{word}") for word in ("partial", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def cache_folder() -> Path:
    """Return where this user's processes keep what can be made again: in XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ms_unireid"


def locked(file: Path, waiting: str | None = None) -> BinaryIO:
    """Lock a plain file, made if missing, until it is closed or the process ends; only the first holder goes on.

    Another holder raises a UserError, or is waited for if there are words to say so on stderr, `waiting`. A file system
    that knows no locks is told on stderr.
    """
    import fcntl  # missing on Windows

    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        raise UserError(f"{file}: is not a plain file, so it cannot be the lock of its folder; remove it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A link put there meanwhile is not followed, and nothing is truncated.
        lock = open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb+", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _cannot_write(file, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if waiting is None:
            lock.close()
            raise UserError(f"{file.parent}: another process is changing this folder; wait, or stop it") from error
        print(waiting, file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        advice = f"let no other process change {file.parent}"
        print(f"warning: {file}: cannot be locked ({error.strerror}); {advice}", file=sys.stderr)
    return lock


def _cannot_write(path: Path, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(f"{path}: cannot be written ({reason}); make room or choose a folder you may write to")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; if it cannot be written, raise a UserError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; if it cannot be written, raise a UserError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file's bytes in hexadecimal, and close it."""
    digest = hashlib.sha256()
    with file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
