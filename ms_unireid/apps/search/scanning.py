"""Compares the photos of an index with the files in its folders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ms_unireid.apps.search.manifest import Photo, Skipped
from ms_unireid.apps.search.photo_facts import photo_facts
from ms_unireid.data.pictures import describe
from ms_unireid.files import open_regular, sha256, status_of
from ms_unireid.remote import Status

New = tuple[int, str, str | None]  # a photo to encode: source, name, person


class Listing(dict[str, str | None]):
    """Photos of a source: relative path to the identity of the person, None if unknown.

    `states` are those of the files, where the listing has told them; the other files are asked for theirs.
    """

    def __init__(self, persons: Mapping[str, str | None], states: Mapping[str, Status] = MappingProxyType({})):
        super().__init__(persons)
        self.states = states


@dataclass
class Changes:
    """What an update of an index has to do."""

    photos: list[Photo] = field(default_factory=list)  # to keep, with their present names and states
    rows: list[int] = field(default_factory=list)  # present row of each kept photo's feature
    new: list[New] = field(default_factory=list)  # to encode
    skipped: list[Skipped] = field(default_factory=list)  # unreadable now, or before in a source that is not compared
    kept: int = 0  # number of unchanged photos
    copied: int = 0  # content that the index has under another name
    removed: int = 0  # gone, or with new content


def find_changes(
    folders: Mapping[int, Path],
    listings: Mapping[int, Listing],
    photos: list[Photo],
    skipped: list[Skipped],
    progress: Callable[[int, int], None] | None = None,
) -> Changes:
    """Compare the photos of an index with the files by size and modification time, then by content.

    Args:
        folders: Folder of each source to keep; the photos of other sources are removed.
        listings: Present photos of the sources to compare; the other sources count as unchanged.
        photos: The index's photos, by row.
        skipped: The index's unreadable photos.
        progress: Called with (done, total) files compared by content.
    """
    rows = {(photo.source, photo.name): row for row, photo in enumerate(photos)}
    changes = Changes()
    for row, photo in enumerate(photos):
        if photo.source in folders and photo.source not in listings:
            _keep(changes, photo, row)
    changes.skipped += [one for one in skipped if one.source in folders and one.source not in listings]
    candidates = []
    for source, listing in listings.items():
        for name, person in listing.items():
            status = _status(changes, folders[source], source, name, listing.states.get(name))
            if status is None:
                continue
            row = rows.get((source, name))
            if row is not None and (photos[row].size, photos[row].mtime_ns) == status:
                _keep(changes, photos[row]._replace(person=person), row)
            else:  # also what could not be read before: a package may have been installed since
                candidates.append((source, name, person))
    _compare_contents(changes, folders, photos, rows, candidates, progress)
    changes.removed = len(photos) - changes.kept
    return changes


def is_same(changes: Changes, photos: list[Photo]) -> bool:
    """Whether the kept photos are all photos of the index, in its order."""
    return changes.rows == list(range(len(photos))) and changes.photos == photos


def _keep(changes: Changes, photo: Photo, row: int) -> None:
    changes.photos.append(photo)
    changes.rows.append(row)
    changes.kept += 1


def _status(changes: Changes, folder: Path, source: int, name: str, known: Status | None) -> Status | None:
    """Return a file's size and modification time; None, and an entry in `skipped`, if it has none."""
    if any(part in ("", ".", "..") for part in name.split("/")):  # object stores have such names
        changes.skipped.append(Skipped(source, name, 0, 0, "no file can have this name in a folder; rename it"))
        return None
    try:
        name.encode()
        return known or status_of(folder / name)
    except UnicodeEncodeError:
        printable = name.encode(errors="backslashreplace").decode()
        changes.skipped.append(Skipped(source, printable, 0, 0, "the file name is not UTF-8; rename the file"))
    except OSError as error:
        changes.skipped.append(Skipped(source, name, 0, 0, describe(error)))
    return None


def _compare_contents(
    changes: Changes,
    folders: Mapping[int, Path],
    photos: list[Photo],
    rows: dict[tuple[int, str], int],
    candidates: Sequence[New],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Keep candidates whose content has a feature already; the others are to be encoded."""
    if not photos:
        changes.new = list(candidates)
        return
    by_content = {photo.sha256: row for row, photo in enumerate(photos)}
    for done, (source, name, person) in enumerate(candidates):
        found = _digest(folders[source] / name)
        row = None if found is None else by_content.get(found[2])
        if row is None:
            changes.new.append((source, name, person))
        else:
            changes.photos.append(Photo(source, name, *found, person, *photo_facts(folders[source] / name, name)))
            changes.rows.append(row)
            same_name = rows.get((source, name)) is not None and photos[rows[source, name]].sha256 == found[2]
            changes.kept += same_name
            changes.copied += not same_name
        if progress:
            progress(done + 1, len(candidates))


def _digest(path: Path) -> tuple[int, int, bytes] | None:
    """Return a file's size, modification time and SHA-256; None if it cannot be read."""
    try:
        file = open_regular(path)
        return *status_of(file), bytes.fromhex(sha256(file))
    except OSError:
        return None
