"""Tri-CUHK-PEDES, Tri-ICFG-PEDES and Tri-RSTPReid: caption files, photos and the authors' sketches.

One parser for the three; ``DATASETS`` says where they differ. Everything a download can have wrong is found here,
before training, and reported as one error; `tools/verify_dataset.py` reports all of them. Pixels are not read: see
``pictures.check_pictures``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from ms_unireid.config import DataConfig
from ms_unireid.data.annotations import SPLITS, Annotation, CaptionEntry, read_captions
from ms_unireid.data.folders import by_folder, contents, find_folder
from ms_unireid.data.pictures import check_pictures, list_files
from ms_unireid.errors import DataError
from ms_unireid.findings import listed

PHOTOS = "imgs"
RAW_DOWNLOAD = "caption_all.json"


@dataclass(frozen=True)
class TriPedesLayout:
    """Where one data set keeps its files.

    Attributes:
        folder: Name of the data set's folder.
        annotation_files: Accepted names of the caption file, the usual one first.
        path_key: Key of the photo's path in an entry.
        sketch_folder: Folder of the sketches beside ``imgs/``.
        first_train_identity: Number of the first training identity.
        splits: Splits of the published file.
    """

    folder: str
    annotation_files: tuple[str, ...]
    path_key: str
    sketch_folder: str
    first_train_identity: int
    splits: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        """Return what tells the data set's folder from others."""
        return (*self.annotation_files, RAW_DOWNLOAD, PHOTOS)

    @property
    def sketch_prefixes(self) -> tuple[str, ...]:
        """Return where the photos' relative paths may start below the sketch folder: archives differ in this."""
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


def find_root(name: str, root: Path) -> Path:
    """Find the folder of a data set.

    Args:
        name: A key of ``DATASETS``.
        root: That folder, or the one that contains it.

    Returns:
        The folder that holds the caption file.

    Raises:
        DataError: If the data set is unknown or its folder is not there.
    """
    layout = layout_of(name)
    return find_folder(name, root, layout.folder, layout.marks)


def available_splits(name: str, root: Path) -> tuple[str, ...]:
    """Return the splits of a data set that have at least one annotation.

    Args:
        name: A key of ``DATASETS``.
        root: The data set's folder, or the one that contains it.

    Returns:
        Some of train, val and test, in this order.

    Raises:
        DataError: If the caption file is missing, damaged or malformed.
    """
    return present_splits(read_entries(name, root)[1])


def training_persons(name: str, root: Path) -> list[int]:
    """Return the person of each training pair, in file order; no picture is looked at.

    Args:
        name: A key of ``DATASETS``.
        root: The data set's folder, or the one that contains it.

    Raises:
        DataError: If the caption file is missing, damaged or malformed.
    """
    return [entry.person_id for entry in read_entries(name, root)[1] if entry.split == "train" for _ in entry.captions]


def read_entries(name: str, root: Path) -> tuple[Path, list[CaptionEntry]]:
    """Read a data set's caption file alone; its photos and sketches are not looked at.

    Args:
        name: A key of ``DATASETS``.
        root: The data set's folder, or the one that contains it.

    Returns:
        The data set's folder, and its entries in file order.

    Raises:
        DataError: If the folder or the caption file is missing, damaged or malformed.
    """
    layout, folder = layout_of(name), find_root(name, root)
    return folder, read_captions(caption_file(layout, folder), layout.path_key)


def load_tri_pedes(
    name: str, root: Path, splits: Sequence[str], allow_identity_gaps: bool = False
) -> dict[str, tuple[Annotation, ...]]:
    """Read the annotations of some splits and check that all their files are there.

    Args:
        name: A key of ``DATASETS``.
        root: The data set's folder, or the one that contains it.
        splits: Any of train, val and test; only the photos and sketches of these need to be present.
        allow_identity_gaps: Accept training identities that are not numbered without gaps.

    Returns:
        For each split its annotations in file order. Sketches are found in each layout in use: the photos' relative
        paths directly under the sketch folder, or below ``imgs/``, the data set's name, or both.

    Raises:
        DataError: If a file is missing, damaged or malformed, or the identities of the splits are inconsistent.
    """
    layout, folder = layout_of(name), find_root(name, root)
    file = caption_file(layout, folder)
    entries = read_captions(file, layout.path_key)
    _check_splits(file, splits, present_splits(entries))
    if "train" in splits and not allow_identity_gaps:
        check_contiguous(file, layout, {entry.person_id for entry in entries if entry.split == "train"})
    wanted = [entry for entry in entries if entry.split in splits]
    photo_root, sketch_root = folder / PHOTOS, folder / layout.sketch_folder
    _check_photos(name, file, photo_root, wanted)
    sketches = _find_sketches(name, folder, wanted, {entry.photo for entry in entries})
    annotations: dict[str, list[Annotation]] = {split: [] for split in splits}
    for entry in wanted:
        rows = annotations[entry.split]
        photo, sketch = photo_root / entry.photo, sketch_root / sketches[entry.photo]
        rows.append(Annotation(entry.person_id, len(rows), photo, sketch, entry.captions))
    return {split: tuple(rows) for split, rows in annotations.items()}


def layout_of(name: str) -> TriPedesLayout:
    """Return the layout of a data set.

    Raises:
        DataError: If it is not one of ``DATASETS``.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}. Fix: use one of {', '.join(DATASETS)}.")
    return DATASETS[name]


def caption_file(layout: TriPedesLayout, folder: Path) -> Path:
    """Return the caption file in a data set's folder.

    Raises:
        DataError: If it is missing; the raw download is recognised.
    """
    for file_name in layout.annotation_files:
        if (folder / file_name).is_file():
            return folder / file_name
    expected = " or ".join(layout.annotation_files)
    if (folder / RAW_DOWNLOAD).is_file():
        raise DataError(
            f"{folder}: holds {RAW_DOWNLOAD}, expected {expected}. {RAW_DOWNLOAD} is the raw download: it has "
            f"no split and numbers the identities differently, so the published splits cannot be made from it. "
            f"Fix: ask the data set's authors for {expected} and put it here."
        )
    raise DataError(
        f"{folder}: the caption file {expected} is missing; the folder holds {contents(folder)}. "
        f"Fix: copy {expected} from the data set's download into this folder."
    )


def present_splits(entries: Iterable[CaptionEntry]) -> tuple[str, ...]:
    """Return the splits that have an entry, in the order train, val, test."""
    found = {entry.split for entry in entries}
    return tuple(split for split in SPLITS if split in found)


def _check_splits(file: Path, splits: Sequence[str], present: Sequence[str]) -> None:
    absent = [split for split in splits if split not in present]
    if isinstance(splits, str) or absent:
        raise DataError(
            f"{file}: no annotation belongs to split {splits if isinstance(splits, str) else absent[0]!r}. "
            f"Fix: use splits that exist here: {', '.join(present)}."
        )


def check_contiguous(file: Path, layout: TriPedesLayout, identities: set[int]) -> None:
    """Check that training identities are numbered without gaps.

    Raises:
        DataError: If they are not; the message names the first gap.
    """
    start = layout.first_train_identity
    if identities == set(range(start, start + len(identities))):
        return
    below = min(identities)
    gap = next(person for person in range(start, start + len(identities) + 1) if person not in identities)
    problem = f"identity {below} is below the first, {start}" if below < start else f"the first gap is at {gap}"
    raise DataError(
        f"{file}: {len(identities)} training identities, expected them numbered {start} to "
        f"{start + len(identities) - 1} without gaps; {problem}. "
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
        raise DataError(
            f"{photos}: {len(missing)} of {len(entries)} photos named by {file.name} are missing. By sub-folder: "
            f"{by_folder(missing, [entry.photo for entry in entries])}. First: {listed(missing)}. Fix: the download "
            "is incomplete, get these sub-folders from the data set's authors (letter case of names counts). "
            f"{advice(name, photos.parent)}"
        )


def _find_sketches(name: str, folder: Path, entries: Sequence[CaptionEntry], photos: set[str]) -> dict[str, str]:
    layout = layout_of(name)
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
            f"{by_folder(missing, named)}. First: {listed(missing)}. {fix}. {advice(name, folder)}"
        )
    return found


def match_sketches(
    layout: TriPedesLayout, wanted: Sequence[str], present: frozenset[str], photos: Collection[str]
) -> dict[str, str]:
    """Find the sketch of each photo in the layout that fits most of them.

    Args:
        layout: The data set's.
        wanted: Photos whose sketches are wanted, below the photo folder.
        present: Files below the sketch folder.
        photos: All photos of the data set, below the photo folder.

    Returns:
        For each photo that has one, the path of its sketch below the sketch folder.
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
    """Say where missing sketches come from: `Fix: ...` without a full stop."""
    return (
        f"Fix: unpack the authors' sketches (links in the UNIReID repository) into {root}, or draw some with "
        f"python tools/build_sketches.py --photos {folder / PHOTOS} --output {root}"
    )


def advice(name: str, folder: Path) -> str:
    """Name the command that finds everything that is wrong with a data set."""
    return f"All that is wrong: python tools/verify_dataset.py --dataset {name} --root {folder}"


def _sketch_name(prefix: str, photo: str, present: frozenset[str], photos: Collection[str]) -> str | None:
    if prefix + photo in present:
        return prefix + photo
    stem = photo.removesuffix(PurePosixPath(photo).suffix)
    for other in (f"{stem}.png", f"{stem}.jpg"):
        # A name that is itself a photo's belongs to that photo's sketch.
        if other not in photos and prefix + other in present:
            return prefix + other
    return None


def load_splits(config: DataConfig, splits: Sequence[str]) -> dict[str, tuple[Annotation, ...]]:
    """Load the annotations of some splits and check every photo and sketch they name.

    Raises:
        DataError: For anything wrong with the annotation file or the pictures.
    """
    loaded = load_tri_pedes(config.name, Path(config.root), splits, config.allow_identity_gaps)
    check_pictures(path for split in splits for a in loaded[split] for path in (a.photo, a.sketch))
    return loaded
