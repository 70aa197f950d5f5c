"""Checks of the files of each data set: names, caption files, missing photos and sketches; pixels are not read."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_unireid.apps.checks.dataset_layout import elsewhere
from ms_unireid.apps.checks.dataset_report import FolderRow
from ms_unireid.data import market_sketch, pku_sketch, tri_pedes
from ms_unireid.data.annotations import CaptionEntry, parse_entry, read_raw_captions
from ms_unireid.data.findings import DataFinding, count_defects, finding, from_error, listed
from ms_unireid.data.folders import count_by_folder, first_folder, is_system_file
from ms_unireid.data.pictures import list_files
from ms_unireid.data.pku_trials import trials
from ms_unireid.data.published import ALL
from ms_unireid.data.sketch_sets import SketchSet, read_person_captions
from ms_unireid.data.tri_pedes import PHOTOS, TriPedesLayout
from ms_unireid.errors import DataError


@dataclass(frozen=True)
class ListedPicture:
    """A picture of the data set that exists; `person` is None if no caption file names it."""

    path: Path
    kind: str  # photo or a modality
    person: int | None = None
    split: str = ""


@dataclass
class Scan:
    """What the files of a data set hold.

    Attributes:
        findings: Findings about the files.
        counts: Number by split and kind, as `CountRow` has them.
        folders: Rows of the table of folders.
        pictures: Photos and sketches that exist.
        captions: Person and raw caption.
        conditions: Under which it can be used, in words that follow "usable".
    """

    findings: list[DataFinding] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    folders: list[FolderRow] = field(default_factory=list)
    pictures: list[ListedPicture] = field(default_factory=list)
    captions: list[tuple[int, str]] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)


def scan_data_set(dataset: str, folder: Path, captions: Path | None) -> Scan:
    """Check the files of a data set; for a sketch data set also a file of captions by person.

    Raises:
        DataError: If a folder cannot be listed.
    """
    if dataset == pku_sketch.NAME:
        return _scan_pku_sketch(folder, captions)
    if dataset == market_sketch.NAME:
        return _scan_market_sketch(folder, captions)
    return _scan_tri(dataset, folder)


def _scan_tri(name: str, folder: Path) -> Scan:
    layout, scan = tri_pedes.DATASETS[name], Scan()
    files = [path for path in list_files(folder) if not is_system_file(path)]
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
    if entries:
        check_splits(scan, {entry.split for entry in entries.values()})
    return scan


def check_splits(scan: Scan, present: Collection[str]) -> None:
    """Add a warning and the condition if there is nothing to train on, or nothing else."""
    if "train" not in present:
        scan.conditions.append("for evaluation only")
        detail = f"no entry belongs to train, only to {' and '.join(sorted(present))}"
        fix = "nothing, if you only evaluate; else give the split train to the entries to learn from"
        scan.findings.append(DataFinding("splits", "warning", detail, fix))
    elif len(present) == 1:
        scan.conditions.append("with eval.selection_split=train")
        fix = "give the split val or test to persons that are not trained on; results on train say little"
        scan.findings.append(DataFinding("splits", "warning", "no entry belongs to val or test", fix))


def _below(folder: str, files: Collection[str]) -> frozenset[str]:
    return frozenset(path[len(folder) + 1 :] for path in files if path.startswith(f"{folder}/"))


def _read(layout: TriPedesLayout, folder: Path, findings: list[DataFinding]) -> dict[str, CaptionEntry]:
    """Return the valid entries by photo, the first of each."""
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
    fix = "use the caption file of the download: a person must be in one split only"
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
            yield DataFinding("photos", "problem", "no photos found", f"unpack them to {place}", str(place))
        elif named:
            unnamed = len(photos) - len(named)
            extra = f"; {unnamed:,} more are not used: no entry names them" if unnamed else ""
            yield DataFinding("photos", "ok", f"all {len(named):,} exist{extra}", where=str(place))
        return
    detail = f"{len(missing):,} of {len(named):,} are missing, by sub-folder: {count_by_folder(missing, named)}"
    yield finding("photos", "problem", detail, place, missing, _photo_fix(folder, files, named, missing, photos))


def _photo_fix(
    folder: Path, files: Collection[str], named: Sequence[str], missing: Sequence[str], photos: Collection[str]
) -> str:
    close = tri_pedes.misnamed(missing, photos)
    others = set(missing).difference(*close.values())
    hints = [
        _move(folder / prefix, found, folder / PHOTOS)
        for prefix, found in elsewhere(others, files).items()
        if "sketch" not in prefix.lower() and prefix != f"{PHOTOS}/"
    ][:1]
    hints += [f"{len(names):,} {words}" for words, names in close.items()]
    counts, lost = Counter(map(first_folder, named)), Counter(map(first_folder, missing))
    whole = [name for name in lost if lost[name] == counts[name]]
    if whole and not hints:
        hints.append(f"part of the download is missing: get the folders {listed(whole)} from the data set's authors")
    return (
        "; ".join(hints)
        or "the download is incomplete: unpack it again, or get the missing files from the data set's authors"
    )


def _move(place: Path, found: Sequence[str], to: Path) -> str:
    names = listed(sorted(set(map(_first_part, found))))
    return f"{len(found):,} of them are in {place}: move {names} from there into {to}"


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
    used = set(sketches.values())
    # A sketch drawn by another hand has the name of the first one, in a folder of its own.
    alone = sorted(name for name in present if re.sub(r"^variations/\d+/", "", name) not in used)
    yield from count_defects(
        "sketches", place, ("warning", alone, "files without a photo", "remove them, or leave them")
    )


def _folders(named: Sequence[str], photos: Collection[str], sketches: Collection[str]) -> list[FolderRow]:
    expected, there, drawn = (Counter(map(first_folder, names)) for names in (named, photos, sketches))
    names = sorted({*expected, *there, *drawn})
    return [FolderRow(name, expected[name] if named else None, there[name], drawn[name]) for name in names]


def _scan_pku_sketch(folder: Path, captions: Path | None) -> Scan:
    found, findings = pku_sketch.examine(folder, allow_partial=True)
    scan = Scan(list(findings), pictures=_list_pictures(found, ""))
    scan.counts = {
        (ALL, "identities"): len(found.persons),
        (ALL, "photos"): len(found.photos),
        (ALL, "sketches"): len(found.sketches),
        **{(ALL, f"style {letter}"): n for letter, n in _count_styles(found, pku_sketch.STYLE_NAMES).items()},
    }
    scan.folders = [
        FolderRow(pku_sketch.PHOTOS, None, len(found.photos), 0),
        FolderRow(pku_sketch.SKETCHES, None, 0, len(found.sketches)),
    ]
    _check_person_captions(scan, captions, found.persons)
    _check_part(scan, folder, found)
    return _conclude(scan)


def _check_part(scan: Scan, folder: Path, found: SketchSet) -> None:
    """Add a problem if no trials can be drawn, and the condition if what there is is read as a part only."""
    if any(finding.state == "problem" for finding in scan.findings):
        return
    try:
        trials(found)
    except DataError as error:
        scan.findings.append(from_error("trials", error))
    if any(finding.state == "problem" for finding in pku_sketch.examine(folder, allow_partial=False)[1]):
        scan.conditions.append("with data.allow_partial=true")


def _scan_market_sketch(folder: Path, captions: Path | None) -> Scan:
    scan = Scan()
    drawn: dict[str, set[int]] = {}
    for split, (own, _) in market_sketch.SPLIT_FOLDERS.items():
        found, findings = market_sketch.examine(folder, split)
        scan.findings += findings
        scan.pictures += _list_pictures(found, split)
        drawn[split] = set(found.persons)
        styles = _count_styles(found, market_sketch.ARTISTS)
        scan.counts |= {(split, "identities"): len(found.persons), (split, "sketches"): len(found.sketches)}
        scan.counts |= {(split, f"style {artist}"): n for artist, n in styles.items()}
        scan.folders.append(FolderRow(f"photo/{own}", None, len(found.photos), 0))
        scan.folders += [FolderRow(f"sketch/{artist}/{own}", None, 0, n) for artist, n in styles.items()]
    both = sorted(set.intersection(*drawn.values()))
    fix = "use the sketches of the download: a person must be in one split only"
    scan.findings += count_defects("identities", folder, ("problem", both, "identities drawn in both splits", fix))
    everybody = set.union(*drawn.values())
    scan.counts[ALL, "identities"] = len(everybody)
    scan.counts[ALL, "sketches"] = sum(scan.counts[split, "sketches"] for split in drawn)
    _check_person_captions(scan, captions, tuple(sorted(everybody)))
    return _conclude(scan)


def _list_pictures(found: SketchSet, split: str) -> list[ListedPicture]:
    photos = [ListedPicture(photo.path, "photo", photo.person_id, split) for photo in found.photos]
    return photos + [ListedPicture(sketch.path, "sketch", sketch.person_id, split) for sketch in found.sketches]


def _count_styles(found: SketchSet, letters: str) -> dict[str, int]:
    counts = Counter(sketch.style for sketch in found.sketches)
    return {letter: counts[letter] for letter in letters}


def _check_person_captions(scan: Scan, file: Path | None, persons: tuple[int, ...]) -> None:
    if file is None:
        return
    try:
        captions = read_person_captions(file, persons)
    except DataError as error:
        scan.findings.append(from_error("captions", error))
        return
    scan.captions = [(person, text) for person, texts in captions.items() for text in texts]


def _conclude(scan: Scan) -> Scan:
    if scan.pictures and not any(finding.state == "problem" for finding in scan.findings):
        detail = "all file names are valid, and every person with a sketch has photos"
        scan.findings.append(DataFinding("files", "ok", detail))
    return scan
