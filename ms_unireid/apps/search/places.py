"""Places of photos: folders and files of this machine, or URLs of what fsspec reads, such as s3://BUCKET/FOLDER."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from ms_unireid.apps.optional import need
from ms_unireid.errors import ConfigError
from ms_unireid.installation import install_extra

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
# A listing that is kept would hide later changes, and takes a kilobyte a photo. A file is read in one part, since
# s3fs asks for its size before it reads several.
_OPTIONS = {"s3": {"use_listings_cache": False, "max_concurrency": 1}}


def is_url(text: str) -> bool:
    """Whether a text is a URL, not a path of this machine."""
    return _URL.match(text) is not None


def path_of(text: str) -> Path:
    """Return a folder or file by its path, or one that reads like it by its URL, without asking for it.

    Raises:
        EnvironmentProblem: If `universal_pathlib` is missing, which URLs need.
        ConfigError: If a URL has a password, names no folder, or is of an unknown kind.
    """
    found = _URL.match(text)
    if not found:
        return Path(text)
    kind, rest = found.groups()
    if urlsplit(text).password is not None:
        raise ConfigError(
            f"{kind}://...: a URL with a password; leave it out, and put the credentials into the environment"
        )
    if not rest.strip("/"):
        raise ConfigError(f"{text}: names no folder; expected such as s3://BUCKET/FOLDER")
    upath = need("upath", f"a folder at {kind}://", install_extra("remote"))
    try:
        return upath.UPath(text, **_OPTIONS.get(kind, {}))
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; expected a kind that fsspec reads, such as s3://") from error


def absolute(path: str | Path) -> str:
    """Return the absolute form of a path or URL, as indexes name folders."""
    text = str(path).removeprefix("file://")
    return str(path_of(text)).rstrip("/") if is_url(text) else os.path.abspath(text)


def real(folder: str | Path) -> str:
    """Return the one name of a folder, to which links and other spellings lead."""
    text = absolute(folder)
    return text if is_url(text) else os.path.realpath(text)
