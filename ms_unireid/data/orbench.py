"""Reader of ORBench: 1,000 persons in photos, infrared, colour pencil, sketches and text, and its 32 retrieval tasks.

`vis/`, `nir/`, `cp/` and `sk/` hold a folder of pictures for each person. `train_annos.json` lists photos to train on,
each with a caption; the other pictures belong to the person, all of whose folders have the same name.
`test_gallery_and_queries.json` gives the gallery and the queries of each task, rows of a person and one picture or
caption of each modality, in the order of the task's name: NIR+TEXT and TEXT+NIR ask with different pairs.

Source: Zuo et al., "ReID5o: Achieving Omni Multi-modal Person Re-identification in a Single Model", NeurIPS 2025; the
forms of the files as in the loader of github.com/Zplusdragon/ReID5o_ORBench.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ms_unireid.data.annotations import Annotation, check_captions, parse_identity, parse_path
from ms_unireid.data.findings import DataFinding, count_defects, raise_problem
from ms_unireid.data.folders import count_by_folder, find_folder, is_system_file, read_entries, renamed
from ms_unireid.data.pictures import check_pictures, list_files
from ms_unireid.errors import DataError, escaped, shown
from ms_unireid.modalities import TEXT, modalities_of, written_parts, written_task

NAME, FOLDER = "orbench", "ORBench"
TRAIN_FILE, TEST_FILE = "train_annos.json", "test_gallery_and_queries.json"
GALLERY = "RGB_GALLERY"
PHOTOS = "vis"
PICTURE_FOLDERS: Mapping[str, str] = MappingProxyType({"infrared": "nir", "pencil": "cp", "sketch": "sk"})
_CODES = {"NIR": "infrared", "CP": "pencil", "SK": "sketch", "TEXT": TEXT}
_COPY = "copy the file again from the data set's download"
_UNPACK = "the download is incomplete; unpack it again"


def _tasks() -> dict[str, str]:
    """Return the name of each task by its key: a first modality, and any of the others in a fixed order."""
    keys = [
        (first, *others)
        for size in range(len(_CODES))
        for first in _CODES
        for others in combinations([code for code in _CODES if code != first], size)
    ]
    return {"+".join(key): written_task(_CODES[code] for code in key) for key in keys}


TASKS: Mapping[str, str] = MappingProxyType(_tasks())


class TrainEntry(NamedTuple):
    """A photo to train on, relative to the data set's folder."""

    person_id: int
    photo: str
    caption: str

    @property
    def person_folder(self) -> str:
        """The name of the person's folders."""
        return self.photo.split("/")[1]


@dataclass(frozen=True)
class QueryRows:
    """The gallery, (person, photo), and each task's queries, (person, item, ...); pictures relative to the folder."""

    gallery: tuple[tuple[int, str], ...]
    queries: Mapping[str, tuple[tuple, ...]]

    def items(self) -> dict[str, dict[tuple[int, str], int]]:
        """Number the distinct (person, item) of each modality, in the order of the tasks."""
        found: dict[str, dict[tuple[int, str], int]] = defaultdict(dict)
        for task, rows in self.queries.items():
            for place, name in enumerate(written_parts(task), 1):
                for row in rows:
                    found[name].setdefault((row[0], row[place]), len(found[name]))
        return found


@dataclass(frozen=True)
class OrBench:
    """The data set's folder, and the modalities whose pictures are read."""

    folder: Path
    modalities: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "test")

    def training_persons(self) -> list[int]:
        """Return the person of each training pair, in file order; DataError if the file is wrong."""
        entries, findings = examine_training(self.folder)
        raise_problem(findings, NAME, self.folder)
        return [entry.person_id for entry in entries]

    def checked_annotations(
        self, splits: Sequence[str], allow_identity_gaps: bool = False
    ) -> dict[str, tuple[Annotation, ...]]:
        """Return the annotations of train, each with all its person's pictures; those of test are the gallery.

        Anything wrong with the files, or missing, raises a DataError.
        """
        loaded: dict[str, tuple[Annotation, ...]] = {}
        if "test" in splits:
            gallery = self.query_rows().gallery
            loaded["test"] = tuple(Annotation(person, self.folder / photo, {}, ()) for person, photo in gallery)
        if "train" in splits:
            entries, findings = examine_training(self.folder, allow_identity_gaps)
            raise_problem(findings, NAME, self.folder)
            pictures, findings = find_pictures(self.folder, entries, self.modalities)
            raise_problem(findings, NAME, self.folder)
            loaded["train"] = tuple(
                Annotation(person, self.folder / photo, pictures[entry.person_folder], (caption,))
                for entry in entries
                for person, photo, caption in [entry]
            )
            check_pictures(a.photo for a in loaded["train"])
            check_pictures(path for of in pictures.values() for paths in of.values() for path in paths)
        return loaded

    def query_rows(self) -> QueryRows:
        """Return gallery and queries of the tasks that need no other modalities; DataError as for training."""
        rows, findings = examine_test(self.folder, self.modalities)
        raise_problem(findings, NAME, self.folder)
        return rows


def find_root(root: Path) -> Path:
    """Find the folder of ORBench: `root`, or `ORBench` in it; see `find_folder`."""
    return find_folder(NAME, root, FOLDER, (TRAIN_FILE, TEST_FILE))


def read_orbench(root: Path, modalities: Sequence[str]) -> OrBench:
    """Find the data set; a folder that is not there, or a modality that it has not, raises a DataError."""
    if strange := [name for name in modalities if name not in PICTURE_FOLDERS]:
        raise DataError(
            f"data.modalities: {NAME} has no pictures of {escaped(strange[0])}. "
            f"Fix: name some of {', '.join(PICTURE_FOLDERS)}."
        )
    return OrBench(find_root(root), tuple(modalities))


def examine_training(folder: Path, allow_identity_gaps: bool = False) -> tuple[list[TrainEntry], list[DataFinding]]:
    """Read the valid training entries; return them with findings. DataError if the file is missing or no JSON list."""
    file = folder / TRAIN_FILE
    entries, malformed = [], []
    for index, raw in enumerate(read_entries(file, list, "a JSON list with one object per photo", f"Fix: {_COPY}.")):
        try:
            entries.append(_parse_entry(raw))
        except ValueError as error:
            malformed.append(f"entry {index}: {error}")
    folders: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        folders[entry.person_folder].add(entry.person_id)
    shared = [f"{name} of {sorted(persons)}" for name, persons in folders.items() if len(persons) > 1]
    persons = {entry.person_id for entry in entries}
    gaps = [] if allow_identity_gaps else sorted(set(range(1, len(persons) + 1)) - persons)
    own = "use the file of the download, or set data.allow_identity_gaps=true"
    findings = count_defects(
        "training file",
        file,
        ("problem", malformed, "malformed entries", _COPY),
        ("problem", shared, "folders of several persons", _COPY),
        ("problem", gaps, f"missing identities of the numbers 1 to {len(persons)}", own),
    )
    return entries, [*findings]


def _parse_entry(raw: object) -> TrainEntry:
    if not isinstance(raw, dict):
        raise ValueError(f"expected an object, found {type(raw).__name__}")
    for key in ("id", "file_path", "caption"):
        if key not in raw:
            raise ValueError(f"the key {key!r} is missing; found {shown(list(raw))}")
    return TrainEntry(parse_identity(raw["id"]), _parse_item(raw["file_path"], PHOTOS), _parse_caption(raw["caption"]))


def _parse_caption(value: object) -> str:
    return check_captions([value])[0]


def _parse_item(value: object, place: str) -> str:
    """Return the path of a picture, `place`/PERSON/NAME; anything else raises a ValueError."""
    path = parse_path(value, "picture")
    if not path.startswith(f"{place}/") or path.count("/") != 2:
        raise ValueError(f"the path of a picture must be {place}/PERSON/NAME, found {shown(value)}")
    return path


def find_pictures(
    folder: Path, entries: Sequence[TrainEntry], modalities: Sequence[str]
) -> tuple[dict[str, dict[str, tuple[Path, ...]]], list[DataFinding]]:
    """Find the pictures of each person's folder, by folder and modality, and what is missing, photos included."""
    present = list_files(folder)
    findings = [*_missing(folder, [entry.photo for entry in entries], present)]
    persons = list(dict.fromkeys(entry.person_folder for entry in entries))
    below: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(name for name in present if name.count("/") == 2 and not is_system_file(name)):
        below[path.rpartition("/")[0]].append(folder / path)
    found: dict[str, dict[str, tuple[Path, ...]]] = {person: {} for person in persons}
    for name in modalities:
        place = PICTURE_FOLDERS[name]
        for person in persons:
            found[person][name] = tuple(below.get(f"{place}/{person}", ()))
        empty = [f"{place}/{person}" for person in persons if not found[person][name]]
        words = f"folders of training persons without {name} pictures"
        findings += count_defects("pictures", folder, ("problem", empty, words, _UNPACK))
    return found, findings


def _missing(folder: Path, named: Sequence[str], present: Collection[str]) -> list[DataFinding]:
    missing = [path for path in dict.fromkeys(named) if path not in present]
    words = f"missing pictures, by folder {count_by_folder(missing, list(dict.fromkeys(named)))}"
    return [*count_defects("pictures", folder, ("problem", missing, words, renamed(missing, present, _UNPACK)))]


def examine_test(folder: Path, modalities: Sequence[str]) -> tuple[QueryRows, list[DataFinding]]:
    """Read the valid rows of the gallery and of the tasks of some modalities; return them with findings.

    DataError if the file is missing, or no JSON object.
    """
    file = folder / TEST_FILE
    raw = read_entries(file, dict, "a JSON object with the gallery and the queries of each task", f"Fix: {_COPY}.")
    malformed: list[str] = []
    gallery = _parse_rows(GALLERY, [PHOTOS], raw.get(GALLERY, []), malformed)
    chosen = {key: task for key, task in TASKS.items() if {*modalities_of(task)} <= {TEXT, *modalities}}
    queries = {
        task: _parse_rows(key, [PICTURE_FOLDERS.get(part) for part in written_parts(task)], raw[key], malformed)
        for key, task in chosen.items()
        if key in raw
    }
    empty = [key for key in (GALLERY, *chosen) if raw.get(key) == []]
    persons = {row[0] for row in gallery}
    alone = sorted({row[0] for rows in queries.values() for row in rows} - persons) if gallery else []
    findings = count_defects(
        "test file",
        file,
        ("problem", [shown(key) for key in raw if key not in (GALLERY, *TASKS)], "unknown tasks", _COPY),
        ("problem", [key for key in (GALLERY, *TASKS) if key not in raw], "missing lists of rows", _COPY),
        ("problem", empty, "empty lists of rows", _COPY),
        ("problem", malformed, "malformed rows", _COPY),
        ("warning", alone, "persons with queries and no photo in the gallery", "nothing; they count as no match"),
    )
    rows = QueryRows(gallery, queries)
    named = [photo for _, photo in gallery]
    named += [item for name, items in rows.items().items() if name != TEXT for _, item in items]
    return rows, [*findings, *_missing(folder, named, list_files(folder))]


def _parse_rows(key: str, places: Sequence[str | None], rows: object, malformed: list[str]) -> tuple[tuple, ...]:
    """Return the valid rows of a list; `places` are the folders of its items' pictures, None for a caption."""
    if not isinstance(rows, list):
        malformed.append(f"{key}: expected a list of rows, found {type(rows).__name__}")
        return ()
    found = []
    for index, row in enumerate(rows):
        try:
            if not isinstance(row, list) or len(row) != 1 + len(places):
                raise ValueError(f"expected a list of a person and {len(places)} of {key}, found {shown(row)}")
            items = (_parse_item(v, p) if p else _parse_caption(v) for v, p in zip(row[1:], places, strict=True))
            found.append((parse_identity(row[0]), *items))
        except ValueError as error:
            malformed.append(f"{key}, row {index}: {error}")
    return tuple(found)
