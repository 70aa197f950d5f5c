"""What the verifier looks at in PKU-Sketch and Market-Sketch-1K, the pixels aside."""

from collections import Counter
from pathlib import Path

from ms_unireid.apps.checks.dataset_report import FolderRow, ListedPicture, Scan
from ms_unireid.data import market_sketch, pku_sketch
from ms_unireid.data.findings import DataFinding, count_defects, from_error
from ms_unireid.data.published import ALL
from ms_unireid.data.sketch_sets import SketchSet, read_person_captions
from ms_unireid.errors import DataError


def scan_pku_sketch(folder: Path, captions: Path | None) -> Scan:
    """List the files of PKU-Sketch; what is only incomplete is a warning.

    Args:
        folder: The data set's folder.
        captions: Captions to check against it.

    Raises:
        DataError: If a folder cannot be listed.
    """
    found, findings = pku_sketch.examine(folder, allow_partial=True)
    scan = Scan(list(findings), pictures=_pictures(found, ""))
    scan.counts = {
        (ALL, "identities"): len(found.persons),
        (ALL, "photos"): len(found.photos),
        (ALL, "sketches"): len(found.sketches),
        **{(ALL, f"style {letter}"): n for letter, n in _styles(found, pku_sketch.STYLE_NAMES).items()},
    }
    scan.folders = [
        FolderRow(pku_sketch.PHOTOS, None, len(found.photos), 0),
        FolderRow(pku_sketch.SKETCHES, None, 0, len(found.sketches)),
    ]
    _check_captions(scan, captions, found.persons)
    return _concluded(scan)


def scan_market_sketch(folder: Path, captions: Path | None) -> Scan:
    """List the files of both splits of Market-Sketch-1K.

    Args:
        folder: The data set's folder.
        captions: Captions to check against it.

    Raises:
        DataError: If a folder cannot be listed.
    """
    scan = Scan()
    drawn: dict[str, set[int]] = {}
    for split, (own, _) in market_sketch.SPLIT_FOLDERS.items():
        found, findings = market_sketch.examine(folder, split)
        scan.findings += findings
        scan.pictures += _pictures(found, split)
        drawn[split] = set(found.persons)
        styles = _styles(found, market_sketch.ARTISTS)
        scan.counts |= {(split, "identities"): len(found.persons), (split, "sketches"): len(found.sketches)}
        scan.counts |= {(split, f"style {artist}"): n for artist, n in styles.items()}
        scan.folders.append(FolderRow(f"photo/{own}", None, len(found.photos), 0))
        scan.folders += [FolderRow(f"sketch/{artist}/{own}", None, 0, n) for artist, n in styles.items()]
    both = sorted(set.intersection(*drawn.values()))
    fix = "take the sketches of the download: a person must be in one split only"
    scan.findings += count_defects("identities", folder, ("problem", both, "identities drawn in both splits", fix))
    everybody = set.union(*drawn.values())
    scan.counts[ALL, "identities"] = len(everybody)
    scan.counts[ALL, "sketches"] = sum(scan.counts[split, "sketches"] for split in drawn)
    _check_captions(scan, captions, tuple(sorted(everybody)))
    return _concluded(scan)


def _pictures(found: SketchSet, split: str) -> list[ListedPicture]:
    photos = [ListedPicture(photo.path, "photo", photo.person_id, split) for photo in found.photos]
    return photos + [ListedPicture(sketch.path, "sketch", sketch.person_id, split) for sketch in found.sketches]


def _styles(found: SketchSet, letters: str) -> dict[str, int]:
    counts = Counter(sketch.style for sketch in found.sketches)
    return {letter: counts[letter] for letter in letters}


def _check_captions(scan: Scan, file: Path | None, persons: tuple[int, ...]) -> None:
    if file is None:
        return
    try:
        captions = read_person_captions(file, persons)
    except DataError as error:
        scan.findings.append(from_error("captions", error))
        return
    scan.captions = [(person, text) for person, texts in captions.items() for text in texts]


def _concluded(scan: Scan) -> Scan:
    """Say that names and persons fit, if nothing is wrong with them."""
    if scan.pictures and not any(finding.state == "problem" for finding in scan.findings):
        detail = "every file has a known name, every person with a sketch has photos"
        scan.findings.append(DataFinding("files", "ok", detail))
    return scan
