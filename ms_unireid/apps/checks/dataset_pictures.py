"""Every picture of a data set decoded to its last pixel, and those with the same bytes found.

Pillow decodes a JPEG whose middle is damaged without a word (of 560 PKU-Sketch photos with 512 bytes zeroed, all), so
JPEGs are decoded by libjpeg-turbo with its warnings taken as errors (506 of the 560 found; the others decode to the
same number of blocks). The decoders let go of Python's lock: threads are as fast here as processes, and start at once.
"""

import hashlib
import importlib.util
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.data.pictures import DECODE_ERRORS, MAX_PIXELS, decode_picture, describe, looks_whole
from ms_unireid.errors import EnvironmentProblem
from ms_unireid.installation import INSTALL_CORE

_JPEG = b"\xff\xd8\xff"
_CHUNK = 64
_MOST_THREADS = 32


@dataclass(frozen=True)
class CheckedPicture:
    """What was found about one picture.

    Attributes:
        readable: Whether the project can read it.
        defect: What is wrong with it, in words; empty if nothing was found.
        digest: Equal for files with the same bytes; empty if they were not read.
    """

    readable: bool = True
    defect: str = ""
    digest: bytes = b""


def check_all(
    paths: Sequence[Path],
    workers: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Path, CheckedPicture]:
    """Check pictures.

    Args:
        paths: Picture files.
        workers: Threads; None takes two for each core, which also hides the latency of network disks.
        quick: Look at the ends of the files only, as a loader does.
        progress: Called with how many are done and how many there are.

    Returns:
        What was found about each picture, in the order of `paths`.

    Raises:
        EnvironmentProblem: If the JPEG decoder is not installed and not `quick`.
    """
    if not quick and importlib.util.find_spec("simplejpeg") is None:
        raise EnvironmentProblem(f"simplejpeg is not installed; install it with: {INSTALL_CORE}")
    unique = list(dict.fromkeys(paths))
    found: dict[Path, CheckedPicture] = {}
    with ThreadPoolExecutor(workers or min(2 * (os.cpu_count() or 1), _MOST_THREADS)) as pool:
        for chunk in pool.map(lambda part: [(path, _check(path, quick)) for path in part], _chunks(unique)):
            found.update(chunk)
            progress(len(found), len(unique))
    return found


def same_bytes(digests: Mapping[str, bytes]) -> list[list[str]]:
    """Group names whose files have the same bytes.

    Args:
        digests: Digest of each name; names with an empty one are left out.

    Returns:
        The groups of two names or more, in the order of their first names.
    """
    groups: dict[bytes, list[str]] = defaultdict(list)
    for name, digest in digests.items():
        if digest:
            groups[digest].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _chunks(paths: list[Path]) -> Iterator[list[Path]]:
    return (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))


def _check(path: Path, quick: bool) -> CheckedPicture:
    try:
        if quick and looks_whole(path):
            return CheckedPicture()
        data = path.read_bytes()
        digest = b"" if quick else hashlib.blake2b(data, digest_size=16).digest()
        defect = _damage(data) if data.startswith(_JPEG) else None
        if defect != "":
            decode_picture(io.BytesIO(data))
        return CheckedPicture(defect=defect or "", digest=digest)
    except DECODE_ERRORS as error:
        return CheckedPicture(False, describe(error))


def _damage(data: bytes) -> str:
    """Return what libjpeg-turbo says against a JPEG; a very large one is not decoded but referred to Pillow."""
    import simplejpeg

    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            return "very large"
        simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return ""
