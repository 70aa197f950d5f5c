"""Reader of Market-Sketch-1K (MaSk1K): six artists' sketches of 996 persons of Market-1501.

`photo/train/` and `photo/query/` hold photos named as in Market-1501; `sketch/<A to F>/train/` and `.../query/` hold
sketches whose names begin with the four digits of the identity. The query part is the test split, and its photos are
the gallery. Photos of identity -1, bad detections, are left out as in Market-1501. Identity 0000, distractors, stays in
the gallery as person 0.

Source: Lin et al., "Beyond Domain Gap: Exploiting Subjectivity in Sketch-Based Person Retrieval", ACM MM 2023, CC
BY-NC-SA 4.0; layout as in the loader of github.com/Lin-Kayla/subjectivity-sketch-reid.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ms_unireid.data.findings import DataFinding, count_defects, raise_problem
from ms_unireid.data.folders import EXTENSIONS, find_folder, matching_files
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch, SketchSet, read_person_captions
from ms_unireid.errors import DataError

NAME = "market_sketch"
FOLDER = "Market-Sketch-1K"
OTHER_FOLDERS = ("[Mm]arket*", "[Mm]a[Ss]k*")
ARTISTS = "ABCDEF"
MARKS = tuple(f"sketch/{artist}" for artist in ARTISTS)
# split -> (folder here, folder in Market-1501)
SPLIT_FOLDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"train": ("train", "bounding_box_train"), "test": ("query", "bounding_box_test")}
)

_PHOTO = re.compile(rf"(-1|\d{{4}})_c(\d)(?!\d).*{EXTENSIONS}", re.IGNORECASE | re.ASCII)
_SKETCH = re.compile(rf"(\d{{4}})(?!\d).*{EXTENSIONS}", re.IGNORECASE | re.ASCII)
_FIX = "copy the missing files from the data set's download, or remove the others"


def find_root(root: Path) -> Path:
    """Find the folder of Market-Sketch-1K: `root`, or one in it that begins with market or mask; see `find_folder`."""
    return find_folder(NAME, root, FOLDER, MARKS, OTHER_FOLDERS)


def load_market_sketch(
    root: Path, split: str, artists: str = ARTISTS, captions: Path | None = None, market1501: Path | None = None
) -> SketchSet:
    """Read one split, train or test: photos sorted by identity and camera, sketches by identity and artist.

    `root` is the data set's folder, or the one that contains it. `artists` are some of the letters A to F, the styles
    of the sketches. `captions` is a file of `read_person_captions` for every person that has a sketch; it may cover
    both splits. `market1501` is the folder of Market-1501, to use all its photos; the download has only some of them.

    DataError if an argument is unknown, files are missing or misnamed, or the captions do not fit.
    """
    if split not in SPLIT_FOLDERS:
        raise DataError(f"{NAME} has no split {split!r}. Fix: use one of {', '.join(SPLIT_FOLDERS)}.")
    if not artists or set(artists) - set(ARTISTS):
        raise DataError(f"{NAME} has no artists {artists!r}. Fix: use some of the letters {ARTISTS}.")
    folder = find_root(root)
    sketch_set, findings = examine(folder, split, artists, market1501)
    raise_problem(findings, NAME, folder)
    if captions is None:
        return sketch_set
    drawn = {sketch.person_id for part in SPLIT_FOLDERS for sketch in examine(folder, part)[0].sketches}
    texts = read_person_captions(captions, sketch_set.persons, drawn)
    return SketchSet(sketch_set.photos, sketch_set.sketches, texts)


def examine(
    folder: Path, split: str, artists: str = ARTISTS, market1501: Path | None = None
) -> tuple[SketchSet, list[DataFinding]]:
    """Read what is readable of one split, without captions; return it with the findings that are not ok."""
    own, whole = SPLIT_FOLDERS[split]
    photo_folder = folder / "photo" / own if market1501 is None else market1501 / whole
    photos, findings = _read_photos(photo_folder)
    sketches: list[PersonSketch] = []
    for artist in sorted(set(artists)):
        drawn, more = _read_sketches(folder / "sketch" / artist / own, artist)
        sketches += drawn
        findings += more
    sketches.sort(key=lambda sketch: (sketch.person_id, sketch.style, sketch.path.name))
    if photos and sketches:
        missing = sorted({sketch.person_id for sketch in sketches} - {photo.person_id for photo in photos})
        check = ("problem", missing, "identities with a sketch and no photo", _FIX)
        findings += count_defects(f"{split} identities", photo_folder, check)
    return SketchSet(tuple(photos), tuple(sketches)), findings


def _read_photos(folder: Path) -> tuple[list[PersonPhoto], list[DataFinding]]:
    names, findings = matching_files(folder, _PHOTO, "Market-1501's, such as 0002_c1s1_000451_03.jpg")
    photos = [PersonPhoto(int(name[1]), folder / name[0], int(name[2])) for name in names if name[1] != "-1"]
    photos.sort(key=lambda photo: (photo.person_id, photo.camera, photo.path.name))
    return photos, findings


def _read_sketches(folder: Path, artist: str) -> tuple[list[PersonSketch], list[DataFinding]]:
    names, findings = matching_files(folder, _SKETCH, "with the identity's four digits first")
    return [PersonSketch(int(name[1]), folder / name[0], artist) for name in names], findings
