"""Reading regular files only, writing files so that they are never left half-written, and locks."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ms_unireid.errors import UserError, shown

_MAX_JSON = 16 << 20  # bytes; its lists and dictionaries take up to thirty times as much
_TOO_LARGE = 1e300


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. A pipe or a device, which may never end, is refused before anything waits for it.

    Raises:
        OSError: If it is no regular file or cannot be opened.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "a file cannot have this name", str(path)) from error
    if stat.S_ISREG(os.fstat(number).st_mode):
        return os.fdopen(number, "rb")
    os.close(number)
    raise OSError(errno.EINVAL, "it is a folder, pipe or device; expected a file", str(path))


def read_json(path: Path, form: Any, fix: str) -> Any:
    """Read a JSON file of our own, of at most 16 MiB, and check it with `check_form`.

    Raises:
        UserError: If it cannot be read, is no JSON or has another form; the message ends with `fix`.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_JSON + 1)
        if len(content) > _MAX_JSON:
            raise ValueError("it is larger than 16 MiB")
        value = json.loads(content)
        check_form(value, form)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {fix}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); {fix}") from error
    return value


def check_form(value: Any, form: Any, name: str = "content") -> None:
    """Check a value that was read from JSON.

    Args:
        value: The value.
        form: A type, where float is any finite number; a set of texts; a tuple of these and None, one of which fits;
            `[form]` for a list; a dictionary from each needed key to its form, and from `str` to that of other keys.
        name: What to call the value.

    Raises:
        ValueError: If the value has another form; the message names the place.
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
        return kind is object or value is kind
    return isinstance(value, int | float) and abs(value) < _TOO_LARGE if kind is float else isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if isinstance(kind, set):
        return f"one of {', '.join(sorted(kind))}"
    return {float: "a finite number", int: "a whole number", str: "text", None: "null"}[kind]


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


def locked(file: Path, waiting: str | None = None) -> BinaryIO:
    """Lock a file, made if missing, until it is closed or the process ends; only the first holder goes on.

    A file system that knows no locks is told on stderr; the lock then holds nobody back.

    Args:
        file: A plain file in the folder that is to be changed; its content stays.
        waiting: Printed on stderr before waiting for another holder, instead of raising a UserError.

    Raises:
        UserError: If another process holds the lock, or the file cannot be opened or is no plain file.
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
            raise UserError(
                f"{file.parent}: another process is changing this folder; wait for it, or stop it"
            ) from error
        print(waiting, file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        print(
            f"warning: {file}: cannot be locked ({error.strerror}); let no other process change {file.parent}",
            file=sys.stderr,
        )
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
