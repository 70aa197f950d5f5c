"""What the verifier looks at in Tri-CUHK-PEDES, Tri-ICFG-PEDES and Tri-RSTPReid, the pixels aside."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ms_unireid.apps.checks.dataset_layout import elsewhere, nearly
from ms_unireid.apps.checks.dataset_report import FolderRow, ListedPicture, Scan
from ms_unireid.data import tri_pedes
from ms_unireid.data.annotations import CaptionEntry, parse_entry, read_raw_captions
from ms_unireid.data.findings import DataFinding, count_defects, finding, from_error, listed
from ms_unireid.data.folders import count_by_folder, first_folder, is_left_behind
from ms_unireid.data.pictures import list_files
from ms_unireid.data.published import ALL
from ms_unireid.data.tri_pedes import PHOTOS, TriPedesLayout
from ms_unireid.errors import DataError


def scan_tri(name: str, folder: Path) -> Scan:
    """Read the caption file and list the files of a data set.

    Args:
        name: A key of ``tri_pedes.DATASETS``.
        folder: The data set's folder.

    Raises:
        DataError: If a folder cannot be listed.
    """
    layout, scan = tri_pedes.DATASETS[name], Scan()
    files = [path for path in list_files(folder) if not is_left_behind(path)]
    entries = _read(layout, folder, scan.findings)
    photos, sketch_files = _below(PHOTOS, files), _below(layout.sketch_folder, files)
    named = list(entries) or sorted(photos)  # without a caption file every photo counts
    sketches = tri_pedes.match_sketches(layout, named, sketch_files, entries or photos)
    scan.findings += _check_photos(folder, files, list(entries), photos)
    scan.findings += _check_sketches(folder, layout, files, named, sketches, sketch_files)
    scan.counts = {**_count(entries.values()), (ALL, "sketches"): len(sketches)}
    scan.folders = _folders(list(entries), photos, sketches)
    for photo in named:
        entry = entries.get(photo)
        whose = (entry.person_id, entry.split) if entry else (None, "")
        if photo in photos:
            scan.pictures.append(ListedPicture(folder / PHOTOS / photo, "photo", *whose))
        if photo in sketches:
            scan.pictures.append(ListedPicture(folder / layout.sketch_folder / sketches[photo], "sketch", *whose))
    scan.captions = [(entry.person_id, caption) for entry in entries.values() for caption in entry.captions]
    return scan


def _below(folder: str, files: Collection[str]) -> frozenset[str]:
    return frozenset(path[len(folder) + 1 :] for path in files if path.startswith(f"{folder}/"))


def _read(layout: TriPedesLayout, folder: Path, findings: list[DataFinding]) -> dict[str, CaptionEntry]:
    """Return by photo the entries that are whole, the first of each."""
    try:
        file = tri_pedes.caption_file(layout, folder)
        raw = read_raw_captions(file)
    except DataError as error:
        findings.append(from_error("caption file", error))
        return {}
    entries: dict[str, CaptionEntry] = {}
    malformed, twice = [], []
    for index, item in enumerate(raw):
        try:
            entry = parse_entry(layout.path_key, file, index, item)
        except DataError as error:
            malformed.append(str(error).removeprefix(f"{file}, ").partition(" Fix: ")[0])
            continue
        if entries.setdefault(entry.photo, entry) is not entry:
            twice.append(entry.photo)
    findings += count_defects(
        "caption file",
        file,
        ("problem", malformed, "malformed entries", "correct them, or copy the file again from the download"),
        ("problem", twice, "photos with two entries", "put all captions of a photo into one entry"),
    )
    findings += _check_identities(layout, file, entries.values())
    return entries


def _check_identities(layout: TriPedesLayout, file: Path, entries: Collection[CaptionEntry]) -> Iterator[DataFinding]:
    splits: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        splits[entry.person_id].add(entry.split)
    across = [f"{person} in {' and '.join(sorted(found))}" for person, found in splits.items() if len(found) > 1]
    fix = "take the caption file of the download: a person must be in one split only"
    yield from count_defects("identities", file, ("problem", across, "identities in several splits", fix))
    trained = {entry.person_id for entry in entries if entry.split == "train"}
    try:
        if trained:
            tri_pedes.check_contiguous(file, layout, trained)
    except DataError as error:
        yield from_error("identities", error)


def _count(entries: Collection[CaptionEntry]) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        for split in (entry.split, ALL):
            counts[split, "photos"] += 1
            counts[split, "captions"] += len(entry.captions)
    persons = {(split, entry.person_id) for entry in entries for split in (entry.split, ALL)}
    counts.update((split, "identities") for split, _ in persons)
    return dict(counts)


def _check_photos(
    folder: Path, files: Collection[str], named: Sequence[str], photos: Collection[str]
) -> Iterator[DataFinding]:
    place = folder / PHOTOS
    missing = [photo for photo in named if photo not in photos]
    if not missing:
        if not photos:
            yield DataFinding("photos", "problem", "there are none", f"unpack them to {place}", str(place))
        elif named:
            unnamed = len(photos) - len(named)
            extra = f"; {unnamed:,} more that no entry names are not used" if unnamed else ""
            yield DataFinding("photos", "ok", f"all {len(named):,} are there{extra}", where=str(place))
        return
    detail = f"{len(missing):,} of {len(named):,} are missing, by sub-folder: {count_by_folder(missing, named)}"
    yield finding("photos", "problem", detail, place, missing, _photo_fix(folder, files, named, missing, photos))


def _photo_fix(
    folder: Path, files: Collection[str], named: Sequence[str], missing: Sequence[str], photos: Collection[str]
) -> str:
    hints = [
        _move(folder / prefix, found, folder / PHOTOS)
        for prefix, found in elsewhere(missing, files).items()
        if "sketch" not in prefix.lower() and prefix != f"{PHOTOS}/"
    ][:1]
    close = nearly(missing, photos)
    if close:
        hints.append(f"{len(close):,} differ in extension or letter case only: rename these files")
    counts, lost = Counter(map(first_folder, named)), Counter(map(first_folder, missing))
    whole = [name for name in lost if lost[name] == counts[name]]
    if whole and not hints:
        hints.append(f"part of the download is missing: get the folders {listed(whole)} from the data set's authors")
    return "; ".join(hints) or "the download is incomplete: unpack it again, or get these from the data set's authors"


def _move(place: Path, found: Sequence[str], to: Path) -> str:
    names = listed(sorted(set(map(_first_part, found))))
    return f"{len(found):,} of them lie in {place}: move {names} from there into {to}"


def _first_part(path: str) -> str:
    first, slash, _ = path.partition("/")
    return first + slash


def _check_sketches(
    folder: Path,
    layout: TriPedesLayout,
    files: Collection[str],
    photos: Sequence[str],
    sketches: Mapping[str, str],
    present: Collection[str],
) -> Iterator[DataFinding]:
    place = folder / layout.sketch_folder
    missing = [photo for photo in photos if photo not in sketches]
    if missing:
        detail = f"{len(missing):,} of {len(photos):,} photos have none: {count_by_folder(missing, photos)}"
        known = {f"{layout.sketch_folder}/{prefix}" for prefix in layout.sketch_prefixes}
        fix = tri_pedes.sketch_fix(folder, place).removeprefix("Fix: ")
        places = elsewhere(missing, files)
        odd = [prefix for prefix in places if "sketch" in prefix.lower() and prefix not in known]
        if odd:
            fix = _move(folder / odd[0], places[odd[0]], place)
        yield finding("sketches", "problem", detail, place, missing, fix)
    elif photos:
        yield DataFinding("sketches", "ok", f"all {len(photos):,} photos have one", where=str(place))
    alone = sorted(set(present) - set(sketches.values()))
    yield from count_defects(
        "sketches", place, ("warning", alone, "files that belong to no photo", "take them out, or leave them")
    )


def _folders(named: Sequence[str], photos: Collection[str], sketches: Collection[str]) -> list[FolderRow]:
    expected, there, drawn = (Counter(map(first_folder, names)) for names in (named, photos, sketches))
    names = sorted({*expected, *there, *drawn})
    return [FolderRow(name, expected[name] if named else None, there[name], drawn[name]) for name in names]
