"""Checks of ORBench's two files and the pictures that they need; pixels are not read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_unireid.apps.checks.dataset_scan import ListedPicture, Scan
from ms_unireid.data.findings import DataFinding, count_defects, from_error
from ms_unireid.data.orbench import (
    PHOTOS,
    PICTURE_FOLDERS,
    QueryRows,
    TrainEntry,
    examine_test,
    examine_training,
    find_pictures,
)
from ms_unireid.data.published import ALL
from ms_unireid.errors import DataError
from ms_unireid.modalities import TEXT

_KINDS = {PHOTOS: "photo"} | {place: name for name, place in PICTURE_FOLDERS.items()}
_COUNTED = {"photo": "photos", "sketch": "sketches"}  # as published; other kinds are counted by their name


def scan_orbench(folder: Path) -> Scan:
    """Check ORBench with the pictures of every modality; a file that cannot be read is a problem of its own.

    Raises:
        DataError: If the folder cannot be listed.
    """
    scan = Scan()
    entries: list[TrainEntry] = _examined(scan, "training file", [], lambda: examine_training(folder))
    pictures, findings = find_pictures(folder, entries, tuple(PICTURE_FOLDERS))
    rows: QueryRows = _examined(scan, "test file", QueryRows((), {}), lambda: examine_test(folder, [*PICTURE_FOLDERS]))
    scan.findings += [*findings, *_across(folder, entries, rows)]
    persons = {entry.person_folder: entry.person_id for entry in entries}
    for name, of in pictures.items():
        found = (path for paths in of.values() for path in paths)
        scan.pictures += (ListedPicture(path, _kind(folder, path), persons[name], "train") for path in found)
    scan.pictures += _listed(folder, {entry.photo: entry.person_id for entry in entries}, "train")
    items = rows.items()
    named = {path: person for person, path in rows.gallery}
    named |= {path: person for name in items if name != TEXT for person, path in items[name]}
    scan.pictures += _listed(folder, named, "test")
    scan.captions = [(entry.person_id, entry.caption) for entry in entries] + list(items.get(TEXT, {}))
    _count(scan, {"train": len(persons), "test": len({person for person, _ in rows.gallery})})
    for split, count in (("train", len(entries)), ("test", len(rows.queries.get(TEXT, ())))):
        scan.counts[split, "captions"] = count
        scan.counts[ALL, "captions"] = scan.counts.get((ALL, "captions"), 0) + count
    if not any(finding.state == "problem" for finding in scan.findings):
        detail = f"{len(rows.queries)} tasks; every person and query has its pictures"
        scan.findings.append(DataFinding("files", "ok", detail))
    return scan


def _examined(scan: Scan, what: str, nothing: Any, examine: Any) -> Any:
    """Return what is read, or nothing if the file cannot be read; add the findings."""
    try:
        found, findings = examine()
    except DataError as error:
        scan.findings.append(from_error(what, error))
        return nothing
    scan.findings += findings
    return found


def _across(folder: Path, entries: list[TrainEntry], rows: QueryRows) -> Iterator[DataFinding]:
    trained = {entry.person_folder for entry in entries}
    both = sorted(trained & {photo.split("/")[1] for _, photo in rows.gallery})
    fix = "use the files of the download: a person must be in one split only"
    yield from count_defects("identities", folder, ("problem", both, "persons in both splits", fix))


def _kind(folder: Path, path: Path) -> str:
    return _KINDS[path.relative_to(folder).parts[0]]


def _listed(folder: Path, named: dict[str, int], split: str) -> Iterator[ListedPicture]:
    paths = ((folder / name, person) for name, person in named.items())
    return (ListedPicture(path, _kind(folder, path), person, split) for path, person in paths if path.is_file())


def _count(scan: Scan, identities: dict[str, int]) -> None:
    for split in (*identities, ALL):
        scan.counts[split, "identities"] = sum(identities.values()) if split == ALL else identities[split]
        for kind in ("photo", "infrared", "pencil", "sketch"):
            own = {picture.path for picture in scan.pictures if picture.kind == kind and split in (picture.split, ALL)}
            scan.counts[split, _COUNTED.get(kind, kind)] = len(own)
