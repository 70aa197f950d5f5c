"""Files as read-only memory maps, and the words for what is wrong with one."""

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


class Refusal(Exception):
    """What is wrong with a file's content, in words that follow the file's name; `naming` adds that name."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a refusal of the content into the error of a file.

    Raises:
        CheckpointError: For each `Refusal` raised inside.
    """
    try:
        yield
    except Refusal as refusal:
        raise CheckpointError(f"{path}: {refusal}") from refusal


def shown(name: str) -> str:
    """Return a name found in a file, quoted for a message: on one line, never longer than about 100 characters."""
    text = repr(name[:100])
    return text if len(text) <= 120 else f"{text[:100]}..."


def truncated(place: str) -> Refusal:
    """Return the refusal of a file that ends too early; `place` completes "ends before"."""
    return Refusal(f"ends before {place}, probably an incomplete download; download it again")


def map_file(path: Path) -> np.ndarray:
    """Map a file's bytes into memory, read-only.

    Returns:
        (bytes,) uint8; a page is read from the disk when it is first used.

    Raises:
        Refusal: If it cannot be read, is empty, or is a web page, a git-LFS pointer or a packed file.
    """
    if not path.is_file():
        raise Refusal("is a folder; expected a file" if path.is_dir() else "no such file; check the path")
    try:
        if path.stat().st_size == 0:
            raise Refusal("is an empty file, probably a failed download; download it again")
        content = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise Refusal(f"cannot be read ({error.strerror or error}); check its permissions") from error
    _refuse_foreign(content[:_HEAD].tobytes())
    return content


def _refuse_foreign(head: bytes) -> None:
    if head.startswith(_GIT_LFS):
        raise Refusal("is only a git-LFS pointer to the weights; fetch the file itself with git lfs pull")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGES):
        raise Refusal("is a web page, not a checkpoint, probably a failed download; download it again")
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            raise Refusal(f"is packed with {kind}; unpack it first")
    if head[_TAR] == b"ustar":
        raise Refusal(
            "is a tar archive; unpack it, or, if PyTorch 0.1 wrote it, load it with a newer PyTorch and save it again"
        )
