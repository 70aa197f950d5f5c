"""Lists of photos to draw sketches from or to index: from a caption file or from any folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_unireid.config import DataConfig
from ms_unireid.data.findings import listed
from ms_unireid.data.folders import is_system_file
from ms_unireid.data.pair_rows import PHOTO
from ms_unireid.data.pairs import NAME, read_captioned
from ms_unireid.data.pictures import DECODE_ERRORS, SUFFIXES, list_files, opened
from ms_unireid.data.tri_pedes import DATASETS, PHOTOS, read_tri_pedes
from ms_unireid.errors import ConfigError, DataError, escaped
from ms_unireid.remote import Status, is_remote, list_remote

LISTED = (*DATASETS, NAME)  # the data sets that `dataset_photos` knows


@dataclass(frozen=True)
class PhotoSet:
    """Photos by sorted path relative to `folder`, with person and split of each path where known.

    `sketches` is the folder where the data set's reader expects the sketches; None for a plain folder. `left_out` are
    the files of a plain folder that are no pictures; `states` are those of the files, where the listing has told them.
    """

    folder: Path
    names: tuple[str, ...]
    identities: dict[str, int | str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    sketches: Path | None = None
    left_out: tuple[str, ...] = ()
    states: Mapping[str, Status] = field(default_factory=dict)


def dataset_photos(name: str, root: Path) -> PhotoSet:
    """List the photos that the caption file of one of `LISTED` names; the photos need not exist."""
    if name == NAME:
        return _pairs_photos(root)
    tri = read_tri_pedes(name, root)
    return PhotoSet(
        folder=tri.folder / PHOTOS,
        names=tuple(sorted(entry.photo for entry in tri.entries)),
        identities={entry.photo: entry.person_id for entry in tri.entries},
        splits={entry.photo: entry.split for entry in tri.entries},
        sketches=tri.folder / DATASETS[name].sketch_folder,
    )


def _pairs_photos(root: Path) -> PhotoSet:
    read = read_captioned(DataConfig(name=NAME, root=str(root), modalities=()))
    if read.drawn:
        raise DataError(
            f"{read.file}: has no splits, and an index does not know data.split_shares. Fix: add the column split, or "
            f"index the folder with --photos {root}."
        )
    prefix = read.places()[0][PHOTO]
    photos = {prefix + row.photo: row for row in read.rows}
    return PhotoSet(
        folder=read.folder,
        names=tuple(sorted(photos)),
        identities={name: row.person for name, row in photos.items()},
        splits={name: row.split for name, row in photos.items()},
    )


def folder_photos(folder: Path, identity_pattern: str | None = None) -> PhotoSet:
    """List the picture files of a folder and its sub-folders, without hidden ones; they need not be readable.

    The first group of `identity_pattern`, searched in each relative path, is the person; a path without a match raises
    a DataError.
    """
    states = list_remote(folder) if is_remote(folder) else {}
    if not states and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the photos")
    files = sorted(name for name in states or list_files(folder, unusable=True) if not is_system_file(name))
    names = tuple(name for name in files if _is_picture(folder / name))
    identities = _identities(folder, names, identity_pattern) if identity_pattern else {}
    return PhotoSet(folder, names, identities, left_out=tuple(sorted({*files} - {*names})), states=states)


def describe_left_out(names: Sequence[str]) -> str:
    """Count files that are no pictures, and name the first ones; empty if there are none."""
    return f"left out, no pictures: {len(names):,} ({listed([escaped(name) for name in names])})" if names else ""


def _is_picture(path: Path) -> bool:
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        with opened(path):
            return True
    except DECODE_ERRORS:
        return False


def _identities(folder: Path, names: tuple[str, ...], pattern: str) -> dict[str, int | str]:
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"identity pattern {pattern!r}: not a regular expression ({error})") from error
    if not search.groups:
        raise ConfigError(f"identity pattern {pattern!r}: needs a group around the identity, such as '^(\\d+)_'")
    found = {name: search.search(name) for name in names}
    if without := [name for name, match in found.items() if match is None]:
        raise DataError(f"{folder}: identity pattern {pattern!r} does not match {listed(without, 1)}")
    return {name: match.group(1) for name, match in found.items()}
