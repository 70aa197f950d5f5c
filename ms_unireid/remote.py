"""Files of object stores and shared file systems, as fsspec reads them.

Their paths are those of `universal_pathlib`, which `apps.search.places` makes of URLs. They are no `os.PathLike`: that
tells them from the paths of this machine.
"""

import contextlib
import datetime
import errno
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_unireid.errors import DataError, EnvironmentProblem, one_line
from ms_unireid.installation import install_extra

# Size in bytes and modification time in nanoseconds; of a remote file, a number that changes with its content.
Status = tuple[int, int]
_MOST = 1 << 30  # bytes that are read at once
# What file systems tell of the state of a file, the best first.
_STATES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "modified", "updated", "modificationTime")


class RemoteFile(io.BytesIO):
    """The content of a remote file.

    Attributes:
        status: Its status when it was read.
    """

    status: Status


def is_remote(path: Path | str) -> bool:
    """Whether a path is one of `universal_pathlib` that the system cannot open."""
    return not isinstance(path, str | os.PathLike)


def read_remote(path: Path) -> RemoteFile:
    """Read a file; OSError if it is missing, closed to the user or too large, otherwise errors as in `reached`."""
    with reached(path):
        status = status_in(path.fs.info(path.path))
        if status[0] > _MOST:
            raise OSError(errno.EFBIG, f"{status[0]:,} bytes, more than can be read at once", str(path))
        file = RemoteFile(path.fs.cat_file(path.path))
    file.status = status
    return file


def remote_status(path: Path) -> Status:
    """Ask for the status of a file; errors as in `read_remote`."""
    with reached(path):
        return status_in(path.fs.info(path.path))


def list_remote(folder: Path) -> dict[str, Status]:
    """List the files of a folder and its sub-folders, in one listing: relative paths with forward slashes.

    A DataError tells that the folder is missing or cannot be listed.
    """
    fix = "check the URL, and that the credentials in the environment may list it"
    try:
        with reached(folder):
            folder.fs.invalidate_cache()
            found = folder.fs.find(folder.path, detail=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror or one_line(error)}); {fix}") from error
    start = f"{folder.path.rstrip('/')}/"
    names = {name.removeprefix(start): info for name, info in found.items() if name.startswith(start)}
    if not names:
        raise DataError(f"{folder}: no such folder, or nothing in it; {fix}")
    return {name: status_in(info) for name, info in names.items() if not name.endswith("/")}  # the mark of a folder


@contextlib.contextmanager
def reached(path: Path) -> Iterator[None]:
    """Tell in one line that the place of a path cannot be reached; what concerns the one file stays an OSError.

    Raises:
        EnvironmentProblem: If a package for the file system is missing.
        DataError: If its server cannot be reached, or refuses to answer.
    """
    try:
        yield
    except ImportError as error:
        raise EnvironmentProblem(f"{path}: {one_line(error)}; {install_extra('remote')} reads s3://") from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, "Permission denied", str(path)) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, DataError):
        raise
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise
        raise _unreachable(path, error) from error
    except Exception as error:  # each package has errors of its own
        raise _unreachable(path, error) from error


def _unreachable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be reached ({one_line(error)}); check the address, the network and the credentials in the "
        "environment, and run it again"
    )


def status_in(info: dict[str, Any]) -> Status:
    """Return the status in what a file system tells of a file; without any state it is another one each time."""
    state = next((info[key] for key in _STATES if info.get(key) is not None), None)
    if isinstance(state, datetime.datetime):
        state = state.timestamp()
    if isinstance(state, int | float):
        stamp = int(state) * 10**9  # a listing and a look at a file may differ in fractions
    elif state is None:
        stamp = time.time_ns()
    else:
        stamp = int.from_bytes(hashlib.sha256(str(state).strip('"').encode()).digest()[:7])
    return info.get("size") or 0, stamp
