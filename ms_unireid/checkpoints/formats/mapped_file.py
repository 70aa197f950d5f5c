"""Memory-map files read-only, and report what is wrong with their content."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ms_unireid.errors import CheckpointError

_GIT_LFS = b"version https://git-lfs"
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_PACKED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
_TAR = slice(257, 262)
_HEAD = 512


class InvalidFile(Exception):
    """A file's content is wrong. The message continues "FILE: "; `error_context` adds the file's name."""


@contextlib.contextmanager
def error_context(path: Path) -> Iterator[None]:
    """Add the file's name to an `InvalidFile` that is raised inside.

    Raises:
        CheckpointError: In place of the `InvalidFile`.
    """
    try:
        yield
    except InvalidFile as error:
        raise CheckpointError(f"{path}: {error}") from error


def quoted(name: str) -> str:
    """Quote a name from a file for a message: one line of at most about 100 characters."""
    text = repr(name[:100])
    return text if len(text) <= 120 else f"{text[:100]}..."


def truncated(place: str) -> InvalidFile:
    """Return the error for a file that ends too early; `place` completes "ends before"."""
    return InvalidFile(f"ends before {place}, probably an incomplete download; download it again")


def map_file(path: Path) -> np.ndarray:
    """Map a file into memory, (bytes,) uint8, read-only.

    Raises:
        InvalidFile: If the file cannot be read, is empty, or is a web page, a git-LFS pointer or a packed file.
    """
    if not path.is_file():
        raise InvalidFile("is a folder; expected a file" if path.is_dir() else "no such file; check the path")
    try:
        if path.stat().st_size == 0:
            raise InvalidFile("is an empty file, probably a failed download; download it again")
        content = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise InvalidFile(f"cannot be read ({error.strerror or error}); check its permissions") from error
    _check_head(content[:_HEAD].tobytes())
    return content


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
