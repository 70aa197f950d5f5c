"""Folders of data sets: finding the right one, and saying what is in it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ms_unireid.errors import DataError

_NAMED = 5


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


def listed(names: Sequence[object], limit: int = _NAMED) -> str:
    """Name the first few of many things and count the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more


def sub_folder(path: str) -> str:
    """Return the first folder of a relative path with forward slashes; `.` if it has none."""
    return path.split("/")[0] if "/" in path else "."


def by_folder(missing: Iterable[str], named: Iterable[str]) -> str:
    """Count the missing files of each sub-folder beside all its named ones."""
    totals = Counter(map(sub_folder, named))
    counts = Counter(map(sub_folder, missing))
    return ", ".join(f"{folder} {count} of {totals[folder]}" for folder, count in counts.items())
