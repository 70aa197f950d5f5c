"""Writes a synthetic Tri data set (photos, captions, sketches) in the CUHK-PEDES layout.

The project runs on it without any download. Captions give the colours of drawn pedestrians, sketches their shapes and
patterns, photos both. Nothing in it comes from a real data set. By option there are further pictures of each person:
colour-pencil drawings with shapes and an artist's colours, and infrared pictures with shapes and materials.
"""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ms_unireid.apps.synthetic.captions import caption_tokens, write_caption
from ms_unireid.apps.synthetic.drawing import (
    SKETCH_STYLES,
    draw_colour_pencil,
    draw_from_photo,
    draw_infrared,
    draw_photo,
    draw_sketch,
    draw_view,
)
from ms_unireid.apps.synthetic.figure import Figure
from ms_unireid.apps.synthetic.person import Person, draw_infrared_greys, draw_people
from ms_unireid.data.folders import read_entries
from ms_unireid.errors import DataError

_DATASET_FOLDER = "CUHK-PEDES"
_MANIFEST = "synthetic.json"
_VERSION = 2  # raise when the same seed gives other pictures or captions
_SUBFOLDER = "synthetic"
_SCENE, _CAPTIONS = 0, 1  # independent random streams of one photo; those of its other pictures follow
_PICTURES = {"sketch": ("imgs-sketch2", 2), "pencil": ("imgs-pencil", 3), "infrared": ("imgs-infrared", 4)}
_FABRICS = 5  # the random stream of what a person wears is made of
MODALITIES = tuple(_PICTURES)
_PAIRS = "pairs.csv"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SyntheticConfig:
    """How much to make. The same values give the same bytes.

    Attributes:
        train_identities: People in the train split.
        val_identities: People in the val split.
        test_identities: People in the test split.
        photos_per_identity: Photos of each person, each with one sketch.
        captions_per_photo: Captions of each photo.
        seed: Seed of all random draws; not negative.
        train_photos: Photos of each person in the train split; None means `photos_per_identity`.
        sketch_style: `pencil` or `lines` draw each sketch from its photo, with the figure's true mask; None draws it
            from the figure, without the photo.
        modalities: Some of `MODALITIES`, drawn beside each photo and listed in pairs.csv; None draws sketches alone,
            without that file.
    """

    train_identities: int = 600
    val_identities: int = 40
    test_identities: int = 100
    photos_per_identity: int = 4
    captions_per_photo: int = 2
    seed: int = 1
    train_photos: int | None = None
    sketch_style: str | None = None
    modalities: tuple[str, ...] | None = None

    def __post_init__(self):
        """Raise DataError for counts out of range, or a style or modality that is unknown."""
        if self.sketch_style not in (None, *SKETCH_STYLES):
            raise DataError(f"synthetic data: sketch_style must be one of {', '.join(SKETCH_STYLES)}, or none")
        if self.modalities is not None and (not self.modalities or not {*self.modalities} <= {*MODALITIES}):
            raise DataError(f"synthetic data: modalities must be some of {', '.join(MODALITIES)}")
        if self.sketch_style and "sketch" not in self.drawn:
            raise DataError(f"synthetic data: sketch_style={self.sketch_style} needs sketch among the modalities")
        for name, value in asdict(self).items():
            if name in ("sketch_style", "modalities"):
                continue
            least = 1 if name.endswith(("_identity", "_photo", "_photos")) else 0
            if value is not None and value < least:
                raise DataError(f"synthetic data: {name} must be at least {least}, not {value}")
        if self.identities == 0:
            raise DataError("synthetic data: expected at least one identity in all splits together")

    @property
    def identities(self) -> int:
        """Return the number of people over all splits."""
        return self.train_identities + self.val_identities + self.test_identities

    def people(self) -> list[tuple[str, int, Person]]:
        """Draw everybody as (split, number within the split from 1, person): train first, then val, then test.

        Every split has its own random stream, so that its people and their pictures do not depend on the number of
        others. Test people are chosen first, so that no training split has one of them, whatever its size.
        """
        drawn: dict[str, list[Person]] = {}
        for split in reversed(_SPLITS):
            others = [person for people in drawn.values() for person in people]
            count = getattr(self, f"{split}_identities")
            drawn[split] = draw_people(count, self.seed, _SPLITS.index(split), others)
        return [(split, number, person) for split in _SPLITS for number, person in enumerate(drawn[split], 1)]

    def photos(self, split: str) -> int:
        """Return the number of photos of each person of a split."""
        return (self.train_photos if split == "train" else None) or self.photos_per_identity

    @property
    def drawn(self) -> dict[str, tuple[str, int]]:
        """Return the modalities to draw, in the order of `MODALITIES`, with their folders and random streams."""
        return {name: at for name, at in _PICTURES.items() if name in (self.modalities or ("sketch",))}

    def counts(self) -> dict[str, int]:
        """Return the numbers of identities, photos, sketches and captions, and of further pictures."""
        photos = sum(getattr(self, f"{split}_identities") * self.photos(split) for split in _SPLITS)
        return {
            "identities": self.identities,
            "photos": photos,
            "sketches": photos * ("sketch" in self.drawn),
            "captions": photos * self.captions_per_photo,
            **{name: photos for name in self.drawn if name != "sketch"},
        }


def generate_tri_dataset(
    root: Path,
    config: SyntheticConfig,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    force: bool = False,
) -> Path:
    """Write ``root/CUHK-PEDES`` (reid_raw.json, imgs/, imgs-sketch2/, synthetic.json) unless it is already there.

    `config.modalities` adds pairs.csv, imgs-pencil/ and imgs-infrared/; the other files stay the same. No file depends
    on ``workers``. They are written into a hidden folder that is renamed at the end, so that a killed run leaves no
    half data set.

    Args:
        root: Folder to write ``CUHK-PEDES`` into; made if absent.
        config: How much to make.
        workers: Number of processes; two or more are spawned, so a script needs an ``if __name__ == "__main__"``.
        progress: Called with (identities done, identities in all).
        force: Replace an existing synthetic data set. Any other folder is never replaced.

    Returns:
        The folder ``root/CUHK-PEDES``.

    Raises:
        DataError: If that folder is not this data set, or cannot be written.
    """
    if workers < 1:
        raise DataError(f"synthetic data: workers must be at least 1, not {workers}")
    target = Path(root) / _DATASET_FOLDER
    try:
        if _is_reusable(target, config, force):
            return target
        people = config.people()
        with _replacing(target, force) as folder:
            for name in _folders(config):
                (folder / name / _SUBFOLDER).mkdir(parents=True)
            records = _write_people(folder, people, config, workers, progress)
            _write_json(folder / "reid_raw.json", records)
            if config.modalities:
                _write_pairs(folder / _PAIRS, records, config)
            _write_json(folder / _MANIFEST, _manifest(config))
    except OSError as error:
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        if taken and _is_reusable(target, config, force=False):  # another process has made the same data set
            return target
        raise DataError(f"{target}: cannot write the synthetic data set ({error}); choose another folder") from error
    return target


def _folders(config: SyntheticConfig) -> list[str]:
    return ["imgs", *(folder for folder, _ in config.drawn.values())]


def _manifest(config: SyntheticConfig) -> dict:
    values = {**asdict(config), "modalities": config.modalities and list(config.drawn)}
    return {
        "generator": "ms_unireid.data.synthetic",
        "version": _VERSION,
        # Values of None are left out, so that data sets made before they existed are still recognised.
        "config": {name: value for name, value in values.items() if value is not None},
        **config.counts(),
    }


def _is_reusable(target: Path, config: SyntheticConfig, force: bool) -> bool:
    """Return whether the target is complete; raise DataError if it is something else and must not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    found = _read_manifest(target / _MANIFEST)
    if found is None:
        raise DataError(f"{target}: exists and is not a synthetic data set; choose another folder or move it away")
    if found != _manifest(config):
        problem = "is a synthetic data set of another configuration or version"
    elif not _is_complete(target, config):
        problem = "is this synthetic data set, but files are missing"
    else:
        return not force
    if not force:
        raise DataError(f"{target}: {problem}; choose another folder or replace it with --force (force=True)")
    return False


def _read_manifest(path: Path) -> dict | None:
    """Return the manifest of a synthetic data set, or None."""
    try:
        found = read_entries(path, dict, "the description of a synthetic data set", "")
    except DataError:
        return None
    return found if found.get("generator") == "ms_unireid.data.synthetic" else None


def _is_complete(target: Path, config: SyntheticConfig) -> bool:
    photos = config.counts()["photos"]
    folders = (target / name / _SUBFOLDER for name in _folders(config))
    files = ("reid_raw.json", *([_PAIRS] if config.modalities else []))
    return all((target / f).is_file() for f in files) and all(len(list(f.glob("*.png"))) == photos for f in folders)


@contextmanager
def _replacing(target: Path, force: bool) -> Iterator[Path]:
    """Yield a new hidden folder beside the target; it replaces the target if the block raises nothing."""
    fresh, old = (target.parent / f".{target.name}.{os.getpid()}.{word}" for word in ("partial", "old"))
    try:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        if force and target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_pairs(path: Path, records: list[dict], config: SyntheticConfig) -> None:
    """Write the records as `data.name: pairs` reads them, with the path of each modality's picture."""
    captions = [f"caption_{number}" for number in range(1, config.captions_per_photo + 1)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["split", "id", "file_path", *captions, *config.drawn])
        for record in records:
            pictures = [f"{folder}/{record['file_path']}" for folder in _folders(config)]
            rows.writerow([record["split"], record["id"], pictures[0], *record["captions"], *pictures[1:]])


def _write_people(folder: Path, people: list, config: SyntheticConfig, workers: int, progress) -> list[dict]:
    """Write all pictures and return the records of reid_raw.json in the order of identities."""
    jobs, write, records = list(enumerate(people, 1)), partial(_write_person, folder, config), []

    def gather(results) -> list[dict]:
        for done, result in enumerate(results, 1):
            records.extend(result)
            if progress is not None:
                progress(done, len(jobs))
        return records

    if workers == 1:
        return gather(map(write, jobs))
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        return gather(pool.imap(write, jobs, chunksize=4))


def _write_person(folder: Path, config: SyntheticConfig, job: tuple[int, tuple]) -> list[dict]:
    """Write one identity's pictures and return its records."""
    identity, (split, number, person) = job
    records, of_person = [], (config.seed, _SPLITS.index(split), number)
    greys = draw_infrared_greys(np.random.default_rng((*of_person, 0, _FABRICS)))
    for photo in range(1, config.photos(split) + 1):
        scene, words = (np.random.default_rng((*of_person, photo, stream)) for stream in (_SCENE, _CAPTIONS))
        name = f"{_SUBFOLDER}/{identity:04d}{photo:03d}.png"
        view = draw_view(scene, person)
        parts = Figure(person, view.pose).parts()
        picture = draw_photo(scene, parts, view)
        picture.save(folder / "imgs" / name, compress_level=1)
        figure, style = {"parts": parts, "view": view}, config.sketch_style
        draw = {
            "sketch": partial(draw_from_photo, photo=picture, style=style, **figure)
            if style
            else partial(draw_sketch, **figure),
            "pencil": partial(draw_colour_pencil, person=person),
            "infrared": partial(draw_infrared, person=person, greys=greys),
        }
        for modality, (place, stream) in config.drawn.items():
            drawing = draw[modality](np.random.default_rng((*of_person, photo, stream)))
            drawing.save(folder / place / name, compress_level=1)
        captions = [write_caption(words, person) for _ in range(config.captions_per_photo)]
        records.append(
            {
                "split": split,
                "captions": captions,
                "file_path": name,
                "processed_tokens": [caption_tokens(caption) for caption in captions],
                "id": identity,
            }
        )
    return records
