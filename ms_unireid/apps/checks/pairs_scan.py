"""Checks of people's own collections: rows, splits, captions and missing files; pixels are not read."""

from collections import Counter
from pathlib import Path

from ms_unireid.apps.checks.dataset_scan import ListedPicture, Scan, check_splits
from ms_unireid.config import DataConfig
from ms_unireid.data.findings import DataFinding, count_defects, from_error
from ms_unireid.data.pair_rows import PHOTO
from ms_unireid.data.pairs import NAME, Pairs, examine
from ms_unireid.data.published import ALL
from ms_unireid.errors import DataError
from ms_unireid.modalities import PICTURES


def scan_pairs(folder: Path, file: Path | None) -> Scan:
    """Check a collection, with the pictures of every known modality; `file` None means the only one in the folder.

    Raises:
        DataError: If the folder cannot be listed.
    """
    given = None if file is None else str(file)
    try:
        pairs, findings = examine(DataConfig(name=NAME, root=str(folder), annotations=given, modalities=PICTURES))
    except DataError as error:
        return Scan([from_error("file", error)])
    prefixes, missing = pairs.places()
    scan = Scan([*findings, *missing, *_tell(pairs)])
    for row in pairs.rows:
        person = pairs.numbers[row.person]
        split = "" if pairs.drawn else row.split
        files = {"photo": [prefixes[PHOTO] + row.photo]}
        files |= {name: [prefixes[name] + path for path in paths] for name, paths in row.pictures.items()}
        there = [(kind, folder / path) for kind, paths in files.items() for path in paths]
        scan.pictures += (ListedPicture(path, kind, person, split) for kind, path in there if path.is_file())
        scan.captions += ((person, caption) for caption in row.captions)
    scan.counts = _count(pairs)
    if pairs.rows and not pairs.drawn:
        check_splits(scan, pairs.splits)
    return scan


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
        for name in PICTURES:
            counts[split, name] = sum(len(row.pictures[name]) for row in rows)
    return {key: count for key, count in counts.items() if count}
