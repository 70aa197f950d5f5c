"""Find a data set and its files where they really are: wrong levels, other names, archives, partial downloads."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ms_unireid.data import market_sketch, orbench, pairs, pku_sketch, tri_pedes
from ms_unireid.data.findings import DataFinding, count_defects, from_error
from ms_unireid.data.folders import stem
from ms_unireid.errors import DataError

_DEPTH = 3  # levels of folders searched below the root
_MOST_FOLDERS = 2000  # the root may be a whole disk
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z", ".001")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")


@dataclass(frozen=True)
class Kind:
    """How a data set is found (as its reader does) and recognised: its folder holds all `marks` of one group.

    Without marks every folder may be one.
    """

    find_root: Callable[[Path], Path]
    marks: tuple[tuple[str, ...], ...]


def _tri_kind(name: str) -> Kind:
    layout = tri_pedes.DATASETS[name]
    return Kind(lambda root: tri_pedes.find_root(name, root), tuple((file,) for file in layout.annotation_files))


def _own_folder(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Fix: give the folder of your collection.")
    return root


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        **{name: _tri_kind(name) for name in tri_pedes.DATASETS},
        pku_sketch.NAME: Kind(pku_sketch.find_root, ((pku_sketch.STYLES,), (pku_sketch.PHOTOS, pku_sketch.SKETCHES))),
        orbench.NAME: Kind(orbench.find_root, ((orbench.TRAIN_FILE,), (orbench.TEST_FILE,))),
        pairs.NAME: Kind(_own_folder, ()),
        market_sketch.NAME: Kind(market_sketch.find_root, tuple((mark,) for mark in market_sketch.MARKS)),
    }
)


def locate(name: str, root: Path) -> tuple[Path | None, list[DataFinding]]:
    """Find a data set's folder, even where its reader does not look; add a problem if the reader does not find it.

    The folder is None if the data set is not found.
    """
    kind = KINDS[name]
    try:
        folder = kind.find_root(root)
    except DataError as error:
        actual = _search(kind, root)
        if actual is None:
            return None, [from_error("folder", error), *_other_kinds(name, root), *packed(root)]
        detail = f"the data set is in {actual}, where training does not look with this root"
        fix = f"give --root {actual}, and data.root={actual} for training"
        return actual, [DataFinding("folder", "problem", detail, fix, str(root), 1)]
    if _is_kind(kind, folder):
        return folder, []
    if not kind.marks:
        return folder, []
    below = next(_below(kind, folder), None)
    if below is None:
        return folder, _other_kinds(name, folder)  # the checks of its files report what is missing
    detail = f"the data set is too deep, in {below}"
    fix = f"move the contents of {below} into {folder}; or give --root {below}, and data.root={below} for training"
    return below, [DataFinding("folder", "problem", detail, fix, str(folder), 1)]


def packed(folder: Path) -> list[DataFinding]:
    """Return warnings about archives and unfinished downloads directly in a folder."""
    if not folder.is_dir():
        return []
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    archives = [name for name in files if name.lower().endswith(_ARCHIVES)]
    unfinished = [name for name in files if name.lower().endswith(_UNFINISHED)]
    return [
        *count_defects(
            "archives",
            folder,
            ("warning", archives, "archives that may hold what is missing", "unpack them here"),
            ("warning", unfinished, "unfinished downloads", "download them again"),
        )
    ]


def elsewhere(missing: Collection[str], files: Iterable[str]) -> dict[str, list[str]]:
    """Find missing files below other folders.

    Returns:
        For each prefix such that `prefix + path` exists, with any extension, those paths; most paths first.
    """
    wanted = {stem(path): path for path in missing}
    found: dict[str, list[str]] = defaultdict(list)
    for name in map(stem, files):
        for start in (0, *(place + 1 for place, letter in enumerate(name) if letter == "/")):
            if name[start:] in wanted:
                found[name[:start]].append(wanted[name[start:]])
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _is_kind(kind: Kind, folder: Path) -> bool:
    return any(all((folder / mark).exists() for mark in group) for group in kind.marks)


def _search(kind: Kind, root: Path) -> Path | None:
    for above in list(root.resolve().parents)[:2]:
        if root.is_dir() and _is_kind(kind, above):
            return above
    return next(_below(kind, root), None)


def _below(kind: Kind, root: Path) -> Iterator[Path]:
    return (folder for folder in _folders(root) if _is_kind(kind, folder))


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders below `root`, the nearest first."""
    level = [root] if root.is_dir() else []
    seen = 0
    for _ in range(_DEPTH):
        level = sorted(child for folder in level for child in _children(folder))[: _MOST_FOLDERS - seen]
        seen += len(level)
        yield from level


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from (child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())
    except OSError:
        return  # not readable, so not the data set's folder


def _other_kinds(name: str, root: Path) -> list[DataFinding]:
    others = [other for other, kind in KINDS.items() if other != name and _is_kind(kind, root)]
    words = "this looks like another data set"
    return [*count_defects("folder", root, ("warning", others, words, f"give --dataset {' or '.join(others)}"))]
