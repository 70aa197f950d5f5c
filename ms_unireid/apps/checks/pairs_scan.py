"""Checks of people's own collections: rows, splits, captions and missing files; pixels are not read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from ms_unireid.apps.checks.dataset_scan import ListedPicture, Scan, check_splits
from ms_unireid.config import DataConfig
from ms_unireid.data.findings import DataFinding, count_defects, from_error
from ms_unireid.data.pair_rows import PHOTO, read_rows, unnumbered
from ms_unireid.data.pairs import NAME, Pairs, examine
from ms_unireid.data.pictures import SUFFIXES
from ms_unireid.data.published import ALL
from ms_unireid.errors import DataError
from ms_unireid.modalities import PICTURES, is_picture_name


def scan_pairs(folder: Path, file: Path | None) -> Scan:
    """Check a collection with the pictures of all modalities; `file` None means the only one in the folder.

    A modality is a known one, or a column that holds nothing but names of pictures.

    Raises:
        DataError: If the folder cannot be listed.
    """
    annotations = None if file is None else str(file)
    data = DataConfig(name=NAME, root=str(folder), annotations=annotations, modalities=PICTURES)
    try:
        pairs, findings = examine(data)
        if further := _further(pairs):
            pairs, findings = examine(replace(data, modalities=(*PICTURES, *further)))
    except DataError as error:
        return Scan([from_error("file", error)])
    prefixes, missing = pairs.places()
    scan = Scan([*findings, *missing, *_tell(pairs)])
    for row in pairs.rows:
        person = pairs.numbers[row.person]
        split = "" if pairs.drawn else row.split
        for column, paths in row.files.items():
            there = (folder / (prefixes[column] + path) for path in paths)
            kind = "photo" if column == PHOTO else column
            scan.pictures += (ListedPicture(path, kind, person, split) for path in there if path.is_file())
        scan.captions += ((person, caption) for caption in row.captions)
    scan.counts = _count(pairs)
    if pairs.rows and not pairs.drawn:
        check_splits(scan, pairs.splits)
    return scan


def _further(pairs: Pairs) -> list[str]:
    """Return the modalities that are not known, but have columns of names of pictures."""
    found: dict[str, list[bool]] = {}
    rows = [raw for _, raw in read_rows(pairs.file) if isinstance(raw, dict)] if pairs.unread else []
    for key in filter(lambda key: is_picture_name(unnumbered(key)), pairs.unread):
        cells = [one for row in rows for one in (row[key] if isinstance(row.get(key), list) else [row.get(key)]) if one]
        named = [isinstance(one, str) and one.strip().lower().endswith(SUFFIXES) for one in cells]
        found.setdefault(unnumbered(key), []).extend(named)
    return [name for name, named in found.items() if named and all(named)]


def _tell(pairs: Pairs) -> list[DataFinding]:
    """Report what is no problem of the rows, but may surprise."""
    told = [DataFinding("rows", "ok", note.removeprefix(f"{pairs.file}: ")) for note in pairs.notes()]
    described = {row.person for row in pairs.rows if row.captions}
    silent = list(dict.fromkeys(row.person for row in pairs.rows if row.person not in described))
    fix = "write at least one for each; a person of train without one is refused where a task asks with text"
    return [*told, *count_defects("captions", pairs.file, ("warning", silent, "persons without a caption", fix))]


def _count(pairs: Pairs) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for split in (*(() if pairs.drawn else pairs.splits), ALL):
        rows = [row for row in pairs.rows if split in (row.split, ALL)]
        counts[split, "identities"] = len({row.person for row in rows})
        counts[split, "photos"] = len(rows)
        counts[split, "captions"] = sum(len(row.captions) for row in rows)
        for row in rows:
            for name, paths in row.pictures.items():
                counts[split, name] += len(paths)
    return {key: count for key, count in counts.items() if count}
