"""Reader of people's own collections: a JSON, JSONL or CSV file with a row for each photo, and the photos' folder.

It reads the form that CUHK-PEDES, UFine6926 and SYNTH-PEDES share as well; docs/datasets.md describes the columns.
"""

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms_unireid.config import Config, DataConfig
from ms_unireid.data import orbench
from ms_unireid.data.annotations import SPLITS, Annotation, Pair, parse_identity
from ms_unireid.data.findings import DataFinding, count_defects, listed, raise_problem
from ms_unireid.data.folders import count_by_folder, renamed
from ms_unireid.data.pair_rows import PHOTO, Row, find_file, meaning, parse_row, read_rows
from ms_unireid.data.pictures import check_pictures, list_files
from ms_unireid.data.tri_pedes import DATASETS, PHOTOS, TriPedes, check_splits, read_tri_pedes
from ms_unireid.errors import DataError, escaped
from ms_unireid.modalities import TEXT, modalities_of

NAME = "pairs"
CAPTIONED = (*DATASETS, orbench.NAME, NAME)  # the data sets that can be trained on


@dataclass(frozen=True)
class Pairs:
    """A collection: its folder, its file with the valid rows, each photo once, and the columns that are not read."""

    folder: Path
    file: Path
    rows: tuple[Row, ...]
    unread: tuple[str, ...]
    drawn: bool  # whether the splits are drawn, not the file's

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a row, in the order train, val, test."""
        found = {row.split for row in self.rows}
        return tuple(split for split in SPLITS if split in found)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each person: the id, or its place in the file if one of them is no number."""
        names = dict.fromkeys(row.person for row in self.rows)
        numbered = all(map(_is_number, names))
        return {name: int(name) if numbered else place for place, name in enumerate(names)}

    def places(self, splits: Collection[str] = SPLITS) -> tuple[dict[str, str], list[DataFinding]]:
        """Find the files of some splits: the prefix of each column's paths, and findings about those missing.

        DataError if the folder cannot be listed.
        """
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for row in self.rows:
            for column, paths in row.files.items() if row.split in splits else ():
                found[column].update(dict.fromkeys(paths))
        present, prefixes, findings = list_files(self.folder), {}, []
        for column, names in ((column, list(names)) for column, names in found.items()):
            prefix = max(("", f"{PHOTOS}/"), key=lambda start: sum(start + name in present for name in names))
            missing = [name for name in names if prefix + name not in present]
            words = f"files of the column {column} that do not exist, {count_by_folder(missing, names)}"
            fix = f"put them there; the paths are relative to data.root, or to {PHOTOS}/ in it"
            check = ("problem", missing, words, renamed(missing, present, fix))
            findings += count_defects("files", self.folder, check)
            prefixes[column] = prefix
        return prefixes, findings

    def checked_annotations(
        self, splits: Sequence[str], allow_identity_gaps: bool = False
    ) -> dict[str, tuple[Annotation, ...]]:
        """Return the annotations of some splits in file order; captions and pictures may be missing from some.

        A split without rows, a missing file and one that is not a whole picture raise a DataError. Identities need not
        be numbered without gaps.
        """
        check_splits(self.file, splits, self.splits)
        prefixes, findings = self.places(splits)
        raise_problem(findings, NAME, self.folder)
        loaded: dict[str, list[Annotation]] = {split: [] for split in splits}
        for row in self.rows:
            if row.split in loaded:
                pictures = {
                    name: tuple(self.folder / (prefixes[name] + path) for path in paths)
                    for name, paths in row.files.items()
                }
                (photo,), person = pictures.pop(PHOTO), self.numbers[row.person]
                loaded[row.split].append(Annotation(person, photo, pictures, row.captions))
        every = (a for rows in loaded.values() for a in rows)
        check_pictures(path for a in every for paths in ((a.photo,), *a.pictures.values()) for path in paths)
        return {split: tuple(rows) for split, rows in loaded.items()}

    def notes(self) -> list[str]:
        """Name the columns that are not read, and count the persons of drawn splits, one line each."""
        found = []
        if self.unread:
            names = listed([*map(escaped, self.unread)])
            found.append(f"{self.file}: not read are the columns {names}; data.modalities names pictures")
        if self.drawn:
            splits = {row.person: row.split for row in self.rows}.values()
            counts = ", ".join(f"{split} {Counter(splits)[split]:,}" for split in SPLITS)
            found.append(
                f"{self.file}: has no splits; persons drawn by data.split_shares and data.split_seed: {counts}"
            )
        return found


def read_captioned(data: DataConfig) -> TriPedes | orbench.OrBench | Pairs:
    """Read the caption file of one of `CAPTIONED`; a DataError tells what is wrong. Pictures are not looked at."""
    if data.name == orbench.NAME:
        return orbench.read_orbench(Path(data.root), data.modalities)
    if data.name != NAME:
        return read_tri_pedes(data.name, Path(data.root))
    pairs, findings = examine(data)
    raise_problem(findings, NAME, pairs.folder)
    return pairs


def examine(data: DataConfig) -> tuple[Pairs, list[DataFinding]]:
    """Read what is readable of the rows; return it with the findings that are not ok.

    Splits are drawn where no row has one. DataError if there is no file, or it is not of its format.
    """
    folder = Path(data.root)
    file = find_file(folder, data.annotations)
    rows: dict[str, Row] = {}
    malformed, twice, unread = [], [], {}
    for where, raw in read_rows(file):
        try:
            row = parse_row(where, raw, data.modalities)
        except ValueError as error:
            malformed.append(f"{where}: {error}")
            continue
        unread |= dict.fromkeys(key for key in raw if key and meaning(key, data.modalities) is None)
        if rows.setdefault(row.photo, row) is not row:
            twice.append(f"{where}: {escaped(row.photo)} is already in {rows[row.photo].where}")
    findings = count_defects(
        "rows",
        file,
        ("problem", malformed, "malformed rows", "correct them"),
        (
            "problem",
            twice,
            "photos in several rows",
            "put the captions of a photo into one row: caption, caption_2, ...",
        ),
        *_split_defects(rows.values()),
    )
    drawn = not any(row.split for row in rows.values())
    if drawn:
        splits = _draw_splits({row.person for row in rows.values()}, data.split_shares, data.split_seed)
        rows = {photo: replace(row, split=splits[row.person]) for photo, row in rows.items()}
    return Pairs(folder, file, tuple(rows.values()), tuple(unread), drawn), [*findings]


def present(pairs: Sequence[Pair], config: Config) -> np.ndarray:
    """Return which training pairs have all that each of the objective's tasks asks with, (pairs, tasks) bool.

    DataError if a task has no pair, or, where a task asks with text, a person has no caption at all.
    """
    names, tasks = (TEXT, *config.data.modalities), config.objective.tasks
    has = np.array([(pair.caption != "", *map(bool, pair.pictures)) for pair in pairs])
    columns = [[names.index(part) for part in modalities_of(task)] for task in tasks]
    found = np.stack([has[:, places].all(axis=1) for places in columns], axis=1)
    for task, places, there in zip(tasks, columns, found.T, strict=True):
        if not there.any():
            words = ", ".join(f"{names[place]} {(~has[:, place]).sum():,}" for place in places)
            raise DataError(
                f"{config.data.root}: no training photo has all that the task {task} of objective.tasks asks with; of "
                f"{len(pairs):,} pairs there lack {words}. Fix: add the columns, or change objective.tasks."
            )
    persons = np.array([pair.person_id for pair in pairs])
    silent = np.setdiff1d(persons, persons[has[:, 0]])
    if len(silent) and any(0 in places for places in columns):
        first = pairs[int(np.flatnonzero(np.isin(persons, silent))[0])].photo
        raise DataError(
            f"{config.data.root}: {len(silent):,} training persons have no caption; the first one's photo is {first}. "
            "Fix: write at least one for each, or remove their rows."
        )
    return found


def _split_defects(rows: Collection[Row]) -> list[tuple[str, list[str], str, str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.split:
            splits[row.person].add(row.split)
    across = [f"{escaped(name)} in {' and '.join(sorted(found))}" for name, found in splits.items() if len(found) > 1]
    none = [row.where for row in rows if not row.split]
    some = none if len(none) < len(rows) else []
    return [
        ("problem", some, "rows without a split", "give one to every row, or to none: they are then drawn"),
        ("problem", across, "persons in several splits", "give all rows of a person the same split"),
    ]


def _draw_splits(persons: Iterable[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Draw the split of each person: those whose SHA-256 of seed and name comes first are val, then test, then train.

    A split whose share is not 0 has at least one person, as far as there are any.
    """
    order = sorted(persons, key=lambda person: hashlib.sha256(f"{NAME}/{seed}/{person}".encode()).digest())
    val, test = (max(round(len(order) * share), share > 0) for share in shares[1:])
    return {
        person: "val" if place < val else "test" if place < val + test else "train"
        for place, person in enumerate(order)
    }


def _is_number(name: str) -> bool:
    try:
        return str(parse_identity(name)) == name  # 007 and 7 are two names
    except ValueError:
        return False
