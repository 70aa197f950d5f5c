"""Folders of pictures whose file names say whose they are."""

import re
from pathlib import Path, PurePosixPath

from ms_unireid.data.data_findings import DataFinding, count_defects
from ms_unireid.data.folders import contents
from ms_unireid.data.pictures import list_files

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
