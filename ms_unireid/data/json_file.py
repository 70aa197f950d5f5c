"""JSON that users bring: read whole, or refused with the reason and the fix."""

import json
from pathlib import Path
from typing import Any

from ms_unireid.errors import DataError


def read_json(file: Path, fix: str) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Args:
        file: The file, in UTF-8.
        fix: What to do about a damaged file, for the error: `Fix: ...`.

    Raises:
        DataError: If it cannot be read, is damaged, or an object has a key twice.
    """
    text = read_text(file, fix)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON, truncated or damaged ({error}). {fix}") from error


def read_text(file: Path, fix: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: If it cannot be read or is in another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Fix: check its path and permissions.") from error
    except ValueError as error:
        raise DataError(f"{file}: not a text in UTF-8 ({error}). {fix}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice in one object")
    return found
