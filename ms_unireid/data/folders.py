"""Folders of data sets: finding the right one, and saying what is in it."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ms_unireid.data.pictures import list_files
from ms_unireid.errors import DataError
from ms_unireid.findings import DataFinding, count_defects, listed

Entries = TypeVar("Entries", list, dict)


def find_folder(name: str, root: Path, usual: str, marks: Sequence[str], others: Sequence[str] = ()) -> Path:
    """Find the folder of a data set.

    Args:
        name: Name of the data set, for the error.
        root: That folder, or the one that contains it.
        usual: Name of the folder in the download.
        marks: Files and folders of which the data set's folder has at least one, relative to it.
        others: Patterns of further names of the folder (`*` stands for anything); such a folder must have a mark.

    Returns:
        The folder.

    Raises:
        DataError: If it is not there, or several could be meant.
    """
    root = Path(root)
    if (root / usual).is_dir():
        return root / usual
    if root.is_dir() and (root.name == usual or has_mark(root, marks)):
        return root
    found = sorted({child for pattern in others for child in root.glob(pattern) if has_mark(child, marks)})
    if len(found) > 1:
        raise DataError(
            f"{root}: several folders could be {name}: {listed([child.name for child in found])}. "
            "Fix: set the data root to the one that is meant."
        )
    if found:
        return found[0]
    there = f"it holds {contents(root)}" if root.is_dir() else "there is no such folder"
    raise DataError(
        f"{root}: expected the folder {usual}/ of {name}, or one that contains it; {there}. "
        "Fix: set the data root to the folder the data set was unpacked into."
    )


def has_mark(folder: Path, marks: Iterable[str]) -> bool:
    """Tell whether at least one of some files and folders, relative to `folder`, is there."""
    return any((folder / mark).exists() for mark in marks)


def contents(folder: Path) -> str:
    """Name what a folder holds, sub-folders with a slash, ten at most."""
    names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
    return listed(names, 10) if names else "nothing"


def sub_folder(path: str) -> str:
    """Return the first folder of a relative path with forward slashes; `.` if it has none."""
    return path.split("/")[0] if "/" in path else "."


def by_folder(missing: Iterable[str], named: Iterable[str]) -> str:
    """Count the missing files of each sub-folder beside all its named ones."""
    totals = Counter(map(sub_folder, named))
    counts = Counter(map(sub_folder, missing))
    return ", ".join(f"{folder} {count} of {totals[folder]}" for folder, count in counts.items())


EXTENSIONS = r"\.(?:jpg|jpeg|png|bmp)"
# What file managers and archivers leave behind.
_LEFT_BEHIND = re.compile(r"(?:^|/)(?:\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini)(?:/|$)", re.IGNORECASE)


def named_files(folder: Path, pattern: re.Pattern, form: str) -> tuple[list[re.Match], list[DataFinding]]:
    """List the files of a folder whose names have a form.

    Args:
        folder: Where they should lie, directly.
        pattern: Matches a whole name, ignoring nothing.
        form: The form in words, for the findings.

    Returns:
        The matches in the order of their names, and a problem each for a missing or empty folder, files that lie too
        deep, and names of another form. What file managers leave behind is ignored.

    Raises:
        DataError: If the folder is there and cannot be listed.
    """
    what = f"{folder.name}/"
    if not folder.is_dir():
        parent = folder.parent
        there = f"{parent} holds {contents(parent)}" if parent.is_dir() else f"there is no {parent}"
        return [], [_nothing(folder, f"the folder is missing; {there}")]
    names = sorted(name for name in list_files(folder) if not is_left_behind(name))
    found = [(name, pattern.fullmatch(name)) for name in names if "/" not in name]
    findings = _too_deep(folder, [name for name in names if "/" in name])
    if not names:
        findings = [_nothing(folder, f"the folder holds no file named {form}")]
    strange = [name for name, match in found if match is None]
    fix = "rename them, or move them elsewhere"
    findings += count_defects(what, folder, ("problem", strange, f"files with another name than {form}", fix))
    return [match for _, match in found if match is not None], findings


def is_left_behind(path: str) -> bool:
    """Tell whether a file is none of the data set's but of a file manager or archiver, or hidden."""
    return _LEFT_BEHIND.search(path) is not None


def _nothing(folder: Path, detail: str) -> DataFinding:
    fix = f"unpack it from the data set's download to {folder}"
    return DataFinding(f"{folder.name}/", "problem", detail, fix, str(folder), 1)


def _too_deep(folder: Path, names: list[str]) -> list[DataFinding]:
    if not names:
        return []
    below = sorted({str(PurePosixPath(name).parent) for name in names})
    fix = f"move the files of {folder / below[0]} into {folder}" + (", and of the others" if len(below) > 1 else "")
    words = f"files in sub-folders, expected directly in {folder.name}/"
    return [*count_defects(f"{folder.name}/", folder, ("problem", names, words, fix))]


def read_entries(file: Path, kind: type[Entries], expected: str, fix: str) -> Entries:
    """Read a JSON file of entries; every such file that a user brings is read here.

    Args:
        file: The file, in UTF-8, with or without a byte order mark.
        kind: `list` or `dict`: what the file holds.
        expected: The same in words, for the error.
        fix: What to do about a wrong file, for the error: `Fix: ...`.

    Raises:
        DataError: If it cannot be read, is not valid JSON, has a key twice in one object, or holds something else or
            nothing.
    """
    text = read_text(file, fix)
    try:
        entries = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON, truncated or damaged ({error}). {fix}") from error
    if not isinstance(entries, kind) or not entries:
        name = {list: "list", dict: "object"}.get(type(entries), type(entries).__name__)
        found = f"an empty {name}" if isinstance(entries, kind) else f"a JSON {name}"
        raise DataError(f"{file}: expected {expected}, found {found}. {fix}")
    return entries


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
