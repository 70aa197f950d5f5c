"""Memory-map files read-only, parse the JSON in them, and report what is wrong with their content."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid import files
from ms_unireid.errors import CheckpointError

# Far above any file of weights; they bound the memory and the time that a small hostile file can claim.
MAX_JSON_BYTES = 8 << 20
MAX_ITEMS = 50_000
MAX_NAME_LENGTH = 400

_GIT_LFS = b"version https://git-lfs"
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_PACKED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
_TAR = slice(257, 262)
_HEAD = 512


class InvalidFile(Exception):
    """A file's content is wrong. The message continues "FILE: "; `error_context` adds the file's name."""


@contextlib.contextmanager
def error_context(path: Path) -> Iterator[None]:
    """Raise a CheckpointError with the file's name in place of an `InvalidFile` that is raised inside."""
    try:
        yield
    except InvalidFile as error:
        raise CheckpointError(f"{path}: {error}") from error


def truncated(place: str) -> InvalidFile:
    """Return the error for a file that ends too early; `place` completes "ends before"."""
    return InvalidFile(f"ends before {place}, probably an incomplete download; download it again")


def map_file(path: Path) -> np.ndarray:
    """Map a file, (bytes,) uint8, read-only; InvalidFile if it is empty, packed or obviously no file of tensors."""
    try:
        with files.open_regular(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InvalidFile("is an empty file, probably a failed download; download it again")
            content = np.memmap(file, np.uint8, "r")
    except FileNotFoundError as error:
        raise InvalidFile("no such file; check the path") from error
    except OSError as error:
        raise InvalidFile(f"cannot be read ({error.strerror or error}); give a file that you may read") from error
    _check_head(content[:_HEAD].tobytes())
    return content


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in a text from a file, or in its UTF-8; `what` names it in errors.

    InvalidFile if it is too long, is not a JSON object, or has a key twice.
    """
    if len(text) > MAX_JSON_BYTES:
        raise InvalidFile(f"has a {what} of {len(text):,} bytes; expected at most {MAX_JSON_BYTES:,}")
    try:
        found = files.parse_json(str(text, "utf-8-sig") if isinstance(text, bytes) else text)
    except ValueError as error:
        problem = f"in its {what}, the JSON is not valid ({error})"
        raise InvalidFile(f"is damaged: {problem}; download or copy it again") from error
    if not isinstance(found, dict):
        raise InvalidFile(f"is damaged: its {what} is not a JSON object; download or copy it again")
    return found


def _check_head(head: bytes) -> None:
    if head.startswith(_GIT_LFS):
        raise InvalidFile("is only a git-LFS pointer to the weights; fetch the file itself with git lfs pull")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGES):
        raise InvalidFile("is a web page, not a checkpoint, probably a failed download; download it again")
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            raise InvalidFile(f"is packed with {kind}; unpack it first")
    if head[_TAR] == b"ustar":
        raise InvalidFile(
            "is a tar archive; unpack it. If PyTorch 0.1 wrote it, load it with a newer PyTorch and save it again"
        )
