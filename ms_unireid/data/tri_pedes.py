"""Reader of Tri-CUHK-PEDES, Tri-ICFG-PEDES and Tri-RSTPReid: caption file, photos and the authors' sketches.

One reader for the three; `DATASETS` holds the differences. A wrong or incomplete download raises an error before
training starts; `tools/verify_dataset.py` lists all of its defects.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from ms_unireid.data.annotations import SPLITS, Annotation, CaptionEntry, read_captions
from ms_unireid.data.findings import advice, listed
from ms_unireid.data.folders import contents, count_by_folder, find_folder, nearly
from ms_unireid.data.pictures import check_pictures, list_files
from ms_unireid.errors import DataError
from ms_unireid.installation import job_command

PHOTOS = "imgs"
_RAW_DOWNLOAD = "caption_all.json"
_INCOMPLETE = "the download is incomplete; get these sub-folders from the data set's authors"


@dataclass(frozen=True)
class TriPedesLayout:
    """File names of one data set."""

    folder: str
    annotation_files: tuple[str, ...]  # accepted names of the caption file, the usual one first
    path_key: str  # of the photo's path in an entry
    sketch_folder: str  # beside `imgs/`
    first_train_identity: int
    splits: tuple[str, ...]  # of the published file

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the files and folders by which the data set's folder is recognised."""
        return (*self.annotation_files, _RAW_DOWNLOAD, PHOTOS)

    @property
    def sketch_prefixes(self) -> tuple[str, ...]:
        """Return where photos' relative paths may start below the sketch folder; the archives differ in this."""
        return ("", f"{PHOTOS}/", f"{self.folder}/", f"{self.folder}/{PHOTOS}/")


DATASETS: Mapping[str, TriPedesLayout] = MappingProxyType(
    {
        "cuhk_pedes": TriPedesLayout("CUHK-PEDES", ("reid_raw.json",), "file_path", "imgs-sketch2", 1, SPLITS),
        "icfg_pedes": TriPedesLayout(
            "ICFG-PEDES", ("ICFG-PEDES.json", "ICFG_PEDES.json"), "file_path", "imgs-sketch", 0, ("train", "test")
        ),
        "rstp_reid": TriPedesLayout("RSTPReid", ("data_captions.json",), "img_path", "imgs-sketch", 0, SPLITS),
    }
)


@dataclass(frozen=True)
class TriPedes:
    """A Tri data set: a key of `DATASETS`, its folder, and its caption file with the entries, read once."""

    name: str
    folder: Path
    file: Path
    entries: tuple[CaptionEntry, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that have an entry, in the order train, val, test."""
        found = {entry.split for entry in self.entries}
        return tuple(split for split in SPLITS if split in found)

    def training_persons(self) -> list[int]:
        """Return the person of each training pair, in file order."""
        return [entry.person_id for entry in self.entries if entry.split == "train" for _ in entry.captions]

    def annotations(
        self, splits: Sequence[str], allow_identity_gaps: bool = False
    ) -> dict[str, tuple[Annotation, ...]]:
        """Return the annotations of some splits in file order; their photos and sketches must exist.

        A split without entries, a missing file and gaps in the training identities raise a DataError.
        """
        layout = DATASETS[self.name]
        check_splits(self.file, splits, self.splits)
        if "train" in splits and not allow_identity_gaps:
            check_contiguous(self.file, layout, {entry.person_id for entry in self.entries if entry.split == "train"})
        wanted = [entry for entry in self.entries if entry.split in splits]
        photo_root, sketch_root = self.folder / PHOTOS, self.folder / layout.sketch_folder
        _check_photos(self.name, self.file, photo_root, wanted)
        sketches = _find_sketches(self.name, self.folder, wanted, {entry.photo for entry in self.entries})
        annotations: dict[str, list[Annotation]] = {split: [] for split in splits}
        for entry in wanted:
            photo, sketch = photo_root / entry.photo, sketch_root / sketches[entry.photo]
            annotations[entry.split].append(Annotation(entry.person_id, photo, {"sketch": (sketch,)}, entry.captions))
        return {split: tuple(rows) for split, rows in annotations.items()}

    def checked_annotations(
        self, splits: Sequence[str], allow_identity_gaps: bool = False
    ) -> dict[str, tuple[Annotation, ...]]:
        """Return `annotations`; a photo or sketch that is not a whole picture raises a DataError."""
        loaded = self.annotations(splits, allow_identity_gaps)
        check_pictures(path for split in splits for a in loaded[split] for path in (a.photo, *a.pictures["sketch"]))
        return loaded


def read_tri_pedes(name: str, root: Path) -> TriPedes:
    """Find a data set's folder (`root`, or in it) and read its caption file; a DataError tells what is wrong with them.

    Pictures are not looked at.
    """
    folder = find_root(name, root)
    file = caption_file(DATASETS[name], folder)
    return TriPedes(name, folder, file, read_captions(file, DATASETS[name].path_key))


def find_root(name: str, root: Path) -> Path:
    """Find the folder of a data set: `root`, or a folder in it; see `find_folder`."""
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}. Fix: use one of {', '.join(DATASETS)}.")
    return find_folder(name, root, DATASETS[name].folder, DATASETS[name].marks)


def caption_file(layout: TriPedesLayout, folder: Path) -> Path:
    """Return the caption file in a data set's folder; a missing one raises a DataError."""
    for file_name in layout.annotation_files:
        if (folder / file_name).is_file():
            return folder / file_name
    expected = " or ".join(layout.annotation_files)
    if (folder / _RAW_DOWNLOAD).is_file():
        raise DataError(
            f"{folder}: found {_RAW_DOWNLOAD}, expected {expected}. The raw download has no split and numbers the "
            f"identities differently. Fix: ask the data set's authors for {expected} and put it here."
        )
    raise DataError(
        f"{folder}: the caption file {expected} is missing; the folder holds {contents(folder)}. "
        f"Fix: copy {expected} from the data set's download into this folder."
    )


def check_splits(file: Path, splits: Sequence[str], present: Sequence[str]) -> None:
    """Raise a DataError if a wanted split is not present."""
    wanted = splits if isinstance(splits, str) else next((split for split in splits if split not in present), None)
    if wanted is not None:
        there = ", ".join(present)
        fix = f"use splits that exist here: {there}"
        if wanted == "train":
            fix = f"this data set is for evaluation only ({there}); train on another, or give entries the split train"
        raise DataError(f"{file}: no annotation belongs to split {wanted!r}. Fix: {fix}.")


def check_contiguous(file: Path, layout: TriPedesLayout, identities: set[int]) -> None:
    """Raise a DataError if training identities are not numbered without gaps."""
    start, count = layout.first_train_identity, len(identities)
    if gaps := set(range(start, start + count)) - identities:
        raise DataError(
            f"{file}: {count} training identities from {min(identities)} on, expected the numbers {start} to "
            f"{start + count - 1}; the first gap is at {min(gaps)}. "
            "Fix: complete the annotation file, or set data.allow_identity_gaps=true."
        )


def _check_photos(name: str, file: Path, photos: Path, entries: Sequence[CaptionEntry]) -> None:
    if not photos.is_dir():
        raise DataError(
            f"{photos}: the photo folder is missing; {photos.parent} holds {contents(photos.parent)}. "
            f"Fix: unpack the data set's photos into {photos}."
        )
    present = list_files(photos)
    missing = [entry.photo for entry in entries if entry.photo not in present]
    if missing:
        fix = "; ".join(f"{len(names):,} {words}" for words, names in misnamed(missing, present).items())
        raise DataError(
            f"{photos}: {len(missing)} of {len(entries)} photos named by {file.name} are missing. By sub-folder: "
            f"{count_by_folder(missing, [entry.photo for entry in entries])}. First: {listed(missing)}. Fix: "
            f"{fix or _INCOMPLETE}. {advice(name, photos.parent)}"
        )


def misnamed(missing: Sequence[str], present: Collection[str]) -> dict[str, list[str]]:
    """Find missing photos that exist under nearly the same name: what is wrong and what to do, and the names."""
    prefix = f"{PHOTOS}/"
    found = {
        f"begin with {prefix}, the photo folder itself: remove it from the paths of the caption file": [
            name for name in missing if name.startswith(prefix) and name.removeprefix(prefix) in present
        ],
        "differ only in extension, letter case or Unicode form: rename these files": nearly(missing, present),
    }
    return {words: names for words, names in found.items() if names}


def _find_sketches(name: str, folder: Path, entries: Sequence[CaptionEntry], photos: set[str]) -> dict[str, str]:
    layout = DATASETS[name]
    root = folder / layout.sketch_folder
    fix = sketch_fix(folder, root)
    if not root.is_dir():
        raise DataError(f"{root}: the sketch folder is missing; {folder} holds {contents(folder)}. {fix}.")
    named = [entry.photo for entry in entries]
    found = match_sketches(layout, named, list_files(root), photos)
    missing = [photo for photo in named if photo not in found]
    if missing:
        raise DataError(
            f"{root}: the sketches of {len(missing)} of {len(named)} photos are missing. By sub-folder: "
            f"{count_by_folder(missing, named)}. First: {listed(missing)}. {fix}. {advice(name, folder)}"
        )
    return found


def match_sketches(
    layout: TriPedesLayout, wanted: Sequence[str], present: frozenset[str], photos: Collection[str]
) -> dict[str, str]:
    """Map photos to their sketches, in the archive layout that fits most photos; photos without a sketch are left out.

    `wanted` and `photos` (all of the data set) are relative to the photo folder, `present` and the results to the
    sketch folder.
    """
    best: dict[str, str] = {}
    for prefix in layout.sketch_prefixes:
        names = ((photo, _sketch_name(prefix, photo, present, photos)) for photo in wanted)
        found = {photo: sketch for photo, sketch in names if sketch is not None}
        best = found if len(found) > len(best) else best
        if len(best) == len(wanted):
            break
    return best


def sketch_fix(folder: Path, root: Path) -> str:
    """Return where missing sketches come from: `Fix: ...` without a full stop."""
    return (
        f"Fix: unpack the authors' sketches (links in the UNIReID repository) into {root}, or draw some with "
        f"{job_command('sketches')} --photos {folder / PHOTOS} --output {root}"
    )


def _sketch_name(prefix: str, photo: str, present: frozenset[str], photos: Collection[str]) -> str | None:
    if prefix + photo in present:
        return prefix + photo
    stem = photo.removesuffix(PurePosixPath(photo).suffix)
    for other in (f"{stem}.png", f"{stem}.jpg"):
        # A name that is itself a photo's belongs to that photo's sketch.
        if other not in photos and prefix + other in present:
            return prefix + other
    return None
