"""Folders and text files of data sets: find, list and read them, with errors that say what is there."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ms_unireid import files
from ms_unireid.data.findings import DataFinding, count_defects, listed
from ms_unireid.data.pictures import list_files
from ms_unireid.errors import DataError

_Entries = TypeVar("_Entries", list, dict)
_MOST_BYTES = 1 << 30


def find_folder(name: str, root: Path, usual: str, marks: Sequence[str], others: Sequence[str] = ()) -> Path:
    """Find the folder of the data set `name`: `root` itself, or in it `usual` or a folder that matches one of `others`.

    The folder must hold at least one of the files and folders in `marks`. No such folder, or more than one, raises a
    DataError.
    """
    root = Path(root)
    if (root / usual).is_dir():
        return root / usual
    if root.is_dir() and (root.name == usual or _has_mark(root, marks)):
        return root
    found = sorted({child for pattern in others for child in root.glob(pattern) if _has_mark(child, marks)})
    if len(found) > 1:
        raise DataError(
            f"{root}: several folders could be {name}: {listed([child.name for child in found])}. "
            "Fix: set the data root to the right one."
        )
    if found:
        return found[0]
    there = f"it holds {contents(root)}" if root.is_dir() else "there is no such folder"
    raise DataError(
        f"{root}: expected the folder {usual}/ of {name}, or a folder that contains it; {there}. "
        "Fix: set the data root to the folder that the data set was unpacked into."
    )


def _has_mark(folder: Path, marks: Iterable[str]) -> bool:
    return any((folder / mark).exists() for mark in marks)


def contents(folder: Path) -> str:
    """List what a folder holds, at most ten names, sub-folders with a slash."""
    names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
    return listed(names, 10) if names else "nothing"


def first_folder(path: str) -> str:
    """Return the first folder of a relative path with forward slashes, `.` for a plain name."""
    return path.split("/")[0] if "/" in path else "."


def count_by_folder(missing: Iterable[str], named: Iterable[str]) -> str:
    """Return how many of the named files of each sub-folder are missing, in words."""
    totals = Counter(map(first_folder, named))
    counts = Counter(map(first_folder, missing))
    return ", ".join(f"{folder} {count} of {totals[folder]}" for folder, count in counts.items())


EXTENSIONS = r"\.(?:jpg|jpeg|png|bmp)"
# Hidden files, those of file managers and archivers, and the list that tools/build_sketches.py keeps of its work.
_SYSTEM_FILES = re.compile(r"(?:^|/)(?:\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini|sketches\.json)(?:/|$)", re.IGNORECASE)


def matching_files(folder: Path, pattern: re.Pattern, form: str) -> tuple[list[re.Match], list[DataFinding]]:
    """Match the names of the files directly in a folder; return the matches, sorted by name, and findings.

    A missing or empty folder, files in sub-folders and names that do not match (`form` in words) are problems; files of
    file managers and archivers are ignored.
    """
    what = f"{folder.name}/"
    if not folder.is_dir():
        parent = folder.parent
        there = f"{parent} holds {contents(parent)}" if parent.is_dir() else f"{parent} does not exist"
        return [], [_nothing(folder, f"the folder is missing; {there}")]
    names = sorted(name for name in list_files(folder) if not is_system_file(name))
    found = [(name, pattern.fullmatch(name)) for name in names if "/" not in name]
    if not names:
        return [], [_nothing(folder, f"the folder has no file named {form}")]
    deep, strange = [name for name in names if "/" in name], [name for name, match in found if match is None]
    findings = count_defects(
        what,
        folder,
        ("problem", deep, f"files in sub-folders, expected directly in {what}", f"move them into {folder}"),
        ("problem", strange, f"files not named {form}", "rename them, or move them elsewhere"),
    )
    return [match for _, match in found if match is not None], [*findings]


def is_system_file(path: str) -> bool:
    """Return whether a file is hidden, or comes from a file manager, an archiver or `tools/build_sketches.py`."""
    return _SYSTEM_FILES.search(path) is not None


def nearly(missing: Sequence[str], present: Iterable[str]) -> list[str]:
    """Return the missing paths that differ from a present one only in extension, letter case or Unicode form."""
    there = set(map(_loose, present))
    return [path for path in missing if _loose(path) in there]


def renamed(missing: Sequence[str], present: Iterable[str], fix: str) -> str:
    """Return how to repair missing files: first rename those that `nearly` finds."""
    close = nearly(missing, present)
    words = f"rename {len(close):,} that differ only in extension, letter case or Unicode form; "
    return words * bool(close) + fix


def _loose(path: str) -> str:
    return unicodedata.normalize("NFC", stem(path)).casefold()


def stem(path: str) -> str:
    """Return a path without its extension."""
    head, _, tail = path.rpartition(".")
    return head if head and "/" not in tail else path


def _nothing(folder: Path, detail: str) -> DataFinding:
    fix = f"unpack it from the data set's download to {folder}"
    return DataFinding(f"{folder.name}/", "problem", detail, fix, str(folder), 1)


def read_entries(file: Path, kind: type[_Entries], expected: str, fix: str) -> _Entries:
    """Read a JSON file of entries that a user brings: a list or a dict, as `kind` says, that is not empty.

    Anything else raises a DataError with `expected`, in words, and `fix`.
    """
    try:
        entries = files.parse_json(read_text(file, fix))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON, truncated or damaged ({error}). {fix}") from error
    if not isinstance(entries, kind) or not entries:
        name = {list: "list", dict: "object"}.get(type(entries), type(entries).__name__)
        found = f"an empty {name}" if isinstance(entries, kind) else f"a JSON {name}"
        raise DataError(f"{file}: expected {expected}, found {found}. {fix}")
    return entries


def read_text(file: Path, fix: str) -> str:
    """Read a UTF-8 text file with any ends of lines; one that cannot be read or has over 1 GiB raises a DataError."""
    try:
        return files.read_text(file, _MOST_BYTES).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Fix: check its path and permissions.") from error
    except ValueError as error:
        raise DataError(f"{file}: {error}. {fix}") from error
