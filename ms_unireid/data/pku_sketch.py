"""Reader of PKU-Sketch (`PKUSketchRE-ID_V1`): 200 persons, each with one sketch and two photos.

The layout is that of the data set's ReadMe.txt: `photo/ID_CAMERA_FRAME.jpg`, `sketch/ID.jpg`, and for each of five
drawing styles `styleAnnotation/<letter>_<count>.txt` with one identity per line.

Source: Pang et al., "Cross-Domain Adversarial Feature Learning for Sketch Re-identification", ACM MM 2018.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ms_unireid.data.findings import DataFinding, State, count_defects, from_error, raise_problem
from ms_unireid.data.folders import EXTENSIONS, find_folder, matching_files, read_text
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch, SketchSet, read_person_captions
from ms_unireid.errors import DataError

NAME = "pku_sketch"
FOLDER = "PKUSketchRE-ID_V1"
OTHER_FOLDERS = ("PKU*",)
PHOTOS, SKETCHES, STYLES = "photo", "sketch", "styleAnnotation"
MARKS = (PHOTOS, SKETCHES, STYLES)
STYLE_NAMES = "abcde"
_PHOTOS_EACH = 2

_PHOTO = re.compile(rf"(\d{{1,6}})_(\d{{1,3}})_(\d+){EXTENSIONS}", re.IGNORECASE | re.ASCII)
_SKETCH = re.compile(rf"(\d{{1,6}}){EXTENSIONS}", re.IGNORECASE | re.ASCII)
_STYLE = re.compile(rf"([{STYLE_NAMES}])_(\d+)\.txt", re.ASCII)
_IDENTITY = re.compile(r"\d{1,6}", re.ASCII)
_STYLE_FIX = "copy the style files again from the data set's download"
_PART = "to read a part of the data set, set data.allow_partial=true"
_PART_FIX = f"{_STYLE_FIX}; {_PART}"


def find_root(root: Path) -> Path:
    """Find the folder of PKU-Sketch: `root`, or a folder in it that begins with PKU; see `find_folder`."""
    return find_folder(NAME, root, FOLDER, MARKS, OTHER_FOLDERS)


def load_pku_sketch(root: Path, captions: Path | None = None, allow_partial: bool = False) -> SketchSet:
    """Read PKU-Sketch, sorted by identity, and check that it is complete; a sketch's style is its letter, a to e.

    `root` is the data set's folder, or the one that contains it; `captions` is a file of `read_person_captions` for
    every person. `allow_partial` accepts a part of the data set: identities of the style files may be missing, and
    persons may have one photo. DataError if it is not complete, has misnamed or surplus files, or the captions do not
    fit.
    """
    folder = find_root(root)
    sketch_set, findings = examine(folder, allow_partial)
    raise_problem(findings, NAME, folder)
    if captions is None:
        return sketch_set
    return SketchSet(sketch_set.photos, sketch_set.sketches, read_person_captions(captions, sketch_set.persons))


def examine(folder: Path, allow_partial: bool) -> tuple[SketchSet, list[DataFinding]]:
    """Read what is readable, without captions; return it with all findings. With `allow_partial` gaps are warnings."""
    photo_names, findings = matching_files(folder / PHOTOS, _PHOTO, "ID_CAMERA_FRAME.jpg")
    sketch_names, sketch_findings = matching_files(folder / SKETCHES, _SKETCH, "ID.jpg")
    styles, style_findings = _read_styles(folder / STYLES)
    letters = {person: stem[0] for stem, persons in styles.items() for person in persons}
    photos = [PersonPhoto(int(name[1]), folder / PHOTOS / name[0], int(name[2])) for name in photo_names]
    drawn = ((int(name[1]), folder / SKETCHES / name[0]) for name in sketch_names)
    sketches = [PersonSketch(person, path, letters.get(person)) for person, path in drawn]
    photos.sort(key=lambda photo: (photo.person_id, photo.camera, photo.path.name))
    sketches.sort(key=lambda sketch: (sketch.person_id, sketch.path.name))
    findings += [*sketch_findings, *style_findings]
    if photos and sketches:
        findings += _check_persons(folder, photos, sketches, "warning" if allow_partial else "problem")
    if sketches and styles:
        persons = {sketch.person_id for sketch in sketches}
        findings += _check_styles(folder / STYLES, persons, styles, "warning" if allow_partial else "problem")
    return SketchSet(tuple(photos), tuple(sketches)), findings


def _read_styles(folder: Path) -> tuple[dict[str, list[int]], list[DataFinding]]:
    files, findings = matching_files(folder, _STYLE, "<a to e>_<count>.txt")
    styles: dict[str, list[int]] = {}
    for match in files:
        try:
            text = read_text(folder / match[0], f"Fix: {_STYLE_FIX}.")
        except DataError as error:
            findings.append(from_error("styles", error))
            continue
        lines = [line.strip() for line in text.split("\n")]
        wrong = [line for line in lines if line and not _IDENTITY.fullmatch(line)]
        check = ("problem", wrong, "lines that are not an identity", _STYLE_FIX)
        findings += count_defects("styles", folder / match[0], check)
        styles[Path(match[0]).stem] = [int(line) for line in lines if _IDENTITY.fullmatch(line)]
    return styles, findings


def _check_persons(
    folder: Path, photos: Sequence[PersonPhoto], sketches: Sequence[PersonSketch], part: State
) -> Iterator[DataFinding]:
    photographed = Counter(photo.person_id for photo in photos)
    drawn = Counter(sketch.person_id for sketch in sketches)
    several = sorted(person for person, count in drawn.items() if count > 1)
    few = sorted(person for person, count in photographed.items() if count != _PHOTOS_EACH)
    fix = "copy the missing files from the data set's download, or remove the others"
    yield from count_defects(
        "identities",
        folder,
        ("problem", sorted(drawn.keys() - photographed), "identities with a sketch and no photo", fix),
        ("problem", sorted(photographed.keys() - drawn), "identities with photos and no sketch", fix),
        ("problem", several, "identities with more than one sketch", fix),
        (part, few, f"identities that do not have {_PHOTOS_EACH} photos", f"{fix}; {_PART}"),
    )


def _check_styles(folder: Path, drawn: set[int], styles: dict[str, list[int]], part: State) -> Iterator[DataFinding]:
    named = Counter(person for persons in styles.values() for person in persons)
    letters = Counter(stem[0] for stem in styles)
    several = sorted(person for person, count in named.items() if count > 1)
    wrong_counts = [f"{stem}.txt names {len(ids)}" for stem, ids in styles.items() if len(ids) != int(stem[2:])]
    yield from count_defects(
        "styles",
        folder,
        ("problem", [letter for letter, count in letters.items() if count > 1], "styles with two files", _STYLE_FIX),
        ("problem", several, "identities in two styles, or twice in one", _STYLE_FIX),
        ("problem", sorted(drawn - named.keys()), "identities with a sketch and no style", _STYLE_FIX),
        (part, sorted(named.keys() - drawn), "identities in the style files without a sketch", _PART_FIX),
        (part, [letter for letter in STYLE_NAMES if letter not in letters], "styles without a file", _PART_FIX),
        (part, wrong_counts, "style files with another number of identities than their names say", _PART_FIX),
    )
