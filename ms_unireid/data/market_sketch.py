"""Market-Sketch-1K (MaSk1K): six artists' sketches of 996 persons of Market-1501, for queries with several sketches.

Layout, as the loaders in its authors' repository (Lin-Kayla/subjectivity-sketch-reid) and a later one read it:
``photo/train/`` and ``photo/query/`` with photos named as in Market-1501, ``sketch/<A to F>/train/`` and
``sketch/<A to F>/query/`` with sketches whose names begin with the four digits of the identity; what follows these
differs between copies and is not read. The query part is the test split: its photos are the gallery. The download has
a selected subset of the photos; with the whole of Market-1501, its ``bounding_box_train/`` and ``bounding_box_test/``
can stand in.

In the names of photos identity -1 is junk, a bad detection of somebody, which Market-1501 leaves out of every ranking:
it is left out here too. Identity 0000 is a distractor: nobody's photo, kept in the gallery as person 0.

Published by Lin et al., "Beyond Domain Gap: Exploiting Subjectivity in Sketch-Based Person Retrieval", ACM MM 2023,
under CC BY-NC-SA 4.0. Pixels are not read.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from ms_unireid.data.folders import EXTENSIONS, find_folder, named_files
from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch, SketchSet, read_person_captions
from ms_unireid.errors import DataError
from ms_unireid.findings import DataFinding, count_defects, raise_problem

NAME = "market_sketch"
FOLDER = "Market-Sketch-1K"
OTHER_FOLDERS = ("[Mm]arket*", "[Mm]a[Ss]k*")
ARTISTS = "ABCDEF"
MARKS = tuple(f"sketch/{artist}" for artist in ARTISTS)
# split -> its folder in the data set, its folder in Market-1501
SPLIT_FOLDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"train": ("train", "bounding_box_train"), "test": ("query", "bounding_box_test")}
)

_PHOTO = re.compile(rf"(-1|\d{{4}})_c(\d)(?!\d).*{EXTENSIONS}", re.IGNORECASE | re.ASCII)
_SKETCH = re.compile(rf"(\d{{4}})(?!\d).*{EXTENSIONS}", re.IGNORECASE | re.ASCII)
_FIX = "copy the missing files from the data set's download, or take out the others"


def find_root(root: Path) -> Path:
    """Find the folder of Market-Sketch-1K.

    Args:
        root: That folder, or the one that contains it as ``Market-Sketch-1K`` or under another name that begins with
            market or mask.

    Returns:
        The folder that holds ``sketch/A/`` and so on.

    Raises:
        DataError: If it is not there, or several could be meant.
    """
    return find_folder(NAME, root, FOLDER, MARKS, OTHER_FOLDERS)


def load_market_sketch(
    root: Path,
    split: str,
    artists: str = ARTISTS,
    captions: Path | None = None,
    market1501: Path | None = None,
) -> SketchSet:
    """Read one split of Market-Sketch-1K.

    Args:
        root: The data set's folder, or the one that contains it.
        split: train or test.
        artists: Whose sketches to read, some of the letters A to F.
        captions: A file with captions of every person that has a sketch, see ``person_captions``; it may cover both
            splits. Without it the set has none.
        market1501: Folder of Market-1501, to take all its photos instead of those that come with the data set.

    Returns:
        Photos in the order of identity, camera and name, sketches in that of identity and artist; the style of a
        sketch is the artist's letter. Persons without a sketch, and distractors as person 0, are in the gallery.

    Raises:
        DataError: If split or artists are unknown, a folder is missing, a file has an unknown name, an identity has a
            sketch and no photo, or the captions do not fit; the message names the first defect.
    """
    if split not in SPLIT_FOLDERS:
        raise DataError(f"{NAME} has no split {split!r}. Fix: use one of {', '.join(SPLIT_FOLDERS)}.")
    if not artists or set(artists) - set(ARTISTS):
        raise DataError(f"{NAME} has no artists {artists!r}. Fix: use some of the letters {ARTISTS}.")
    folder = find_root(root)
    sketch_set, findings = examine(folder, split, artists, market1501)
    raise_problem(findings, f"All that is wrong: python tools/verify_dataset.py --dataset {NAME} --root {folder}")
    if captions is None:
        return sketch_set
    texts = read_person_captions(captions, sketch_set.persons, _all_drawn(folder))
    return SketchSet(sketch_set.photos, sketch_set.sketches, texts)


def examine(
    folder: Path, split: str, artists: str = ARTISTS, market1501: Path | None = None
) -> tuple[SketchSet, list[DataFinding]]:
    """Read what can be read of one split, and find what is wrong with its files.

    Args:
        folder: The data set's folder.
        split: train or test.
        artists: Whose sketches to read.
        market1501: Folder of Market-1501, see `load_market_sketch`.

    Returns:
        Photos and sketches without captions, and the findings that are not ok.
    """
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
    names, findings = named_files(folder, _PHOTO, "Market-1501's, such as 0002_c1s1_000451_03.jpg")
    photos = [PersonPhoto(int(name[1]), folder / name[0], int(name[2])) for name in names if name[1] != "-1"]
    photos.sort(key=lambda photo: (photo.person_id, photo.camera, photo.path.name))
    return photos, findings


def _read_sketches(folder: Path, artist: str) -> tuple[list[PersonSketch], list[DataFinding]]:
    names, findings = named_files(folder, _SKETCH, "the identity's four digits and what follows")
    return [PersonSketch(int(name[1]), folder / name[0], artist) for name in names], findings


def _all_drawn(folder: Path) -> Collection[int]:
    return {
        sketch.person_id
        for artist in ARTISTS
        for own, _ in SPLIT_FOLDERS.values()
        for sketch in _read_sketches(folder / "sketch" / artist / own, artist)[0]
    }
