"""What has changed in the folders of an index since it was last made."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ms_unireid.apps.search.manifest import Photo, Skipped
from ms_unireid.data.pictures import describe
from ms_unireid.files import sha256

# Photos of a source: relative path to the person shown, None where nobody says.
Listing = Mapping[str, str | None]


@dataclass
class Changes:
    """What an index has to become.

    Attributes:
        photos: What it keeps: each photo as it is now.
        rows: Where the feature of each of these stands.
        new: What has to be encoded: source, path relative to it, person.
        skipped: What could not be read before and has not changed since, or cannot be read now.
        kept: Photos that have not changed.
        copied: Photos of content that the index knows under another name.
        removed: Photos that are there no more, or with another content.
    """

    photos: list[Photo] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    new: list[tuple[int, str, str | None]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    kept: int = 0
    copied: int = 0
    removed: int = 0


def find_changes(
    folders: Mapping[int, Path],
    listings: Mapping[int, Listing],
    photos: list[Photo],
    skipped: list[Skipped],
    progress: Callable[[int, int], None] | None = None,
) -> Changes:
    """Compare the photos of an index with those in its folders, by size and time of change, and then by content.

    Args:
        folders: Each source's folder; the index keeps the photos of these sources alone.
        listings: The photos that are now in some of them; the others are taken as unchanged.
        photos: The index's photos, by row.
        skipped: Those that it could not read.
        progress: Called with (done, total) files whose content is compared.
    """
    rows = {(photo.source, photo.name): row for row, photo in enumerate(photos)}
    unread = {(one.source, one.name): one for one in skipped}
    changes = Changes()
    for row, photo in enumerate(photos):
        if photo.source in folders and photo.source not in listings:
            _keep(changes, photo, row)
    changes.skipped += [one for one in skipped if one.source in folders and one.source not in listings]
    looked_at = []
    for source, listing in listings.items():
        for name, person in listing.items():
            status = _status(changes, folders[source], source, name)
            if status is None:
                continue
            row, known = rows.get((source, name)), unread.get((source, name))
            if row is not None and photos[row][2:4] == status:
                _keep(changes, photos[row]._replace(person=person), row)
            elif known is not None and known[2:4] == status:
                changes.skipped.append(known)
            else:
                looked_at.append((source, name, person))
    _compare_contents(changes, folders, photos, rows, looked_at, progress)
    changes.removed = len(photos) - changes.kept
    return changes


def is_same(changes: Changes, photos: list[Photo]) -> bool:
    """Tell whether what is kept is all that the index holds, and in its order."""
    return changes.rows == list(range(len(photos))) and changes.photos == photos


def _keep(changes: Changes, photo: Photo, row: int) -> None:
    changes.photos.append(photo)
    changes.rows.append(row)
    changes.kept += 1


def _status(changes: Changes, folder: Path, source: int, name: str) -> tuple[int, int] | None:
    """Return a file's size and time of change; None, and a line among the skipped, if there is none."""
    try:
        name.encode()
        found = os.stat(folder / name)
        return found.st_size, found.st_mtime_ns
    except UnicodeEncodeError:
        printable = name.encode(errors="backslashreplace").decode()
        changes.skipped.append(Skipped(source, printable, 0, 0, "its name is not UTF-8; rename it"))
    except OSError as error:
        changes.skipped.append(Skipped(source, name, 0, 0, describe(error)))
    return None


def _compare_contents(
    changes: Changes,
    folders: Mapping[int, Path],
    photos: list[Photo],
    rows: dict[tuple[int, str], int],
    looked_at: Iterable[tuple[int, str, str | None]],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Sort what is new or touched: of a content that has a feature already, or to be encoded."""
    looked_at = list(looked_at)
    if not photos:
        changes.new = looked_at
        return
    by_content = {photo.sha256: row for row, photo in enumerate(photos)}
    for done, (source, name, person) in enumerate(looked_at):
        found = _digest(folders[source] / name)
        row = None if found is None else by_content.get(found[2])
        if row is None:
            changes.new.append((source, name, person))
        else:
            changes.photos.append(Photo(source, name, *found, person))
            changes.rows.append(row)
            same_place = rows.get((source, name)) is not None and photos[rows[source, name]].sha256 == found[2]
            changes.kept += same_place
            changes.copied += not same_place
        if progress:
            progress(done + 1, len(looked_at))


def _digest(path: Path) -> tuple[int, int, bytes] | None:
    """Return a file's size, time of change and SHA-256; None if it cannot be read."""
    try:
        file = path.open("rb")
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns, bytes.fromhex(sha256(file))
    except OSError:
        return None
