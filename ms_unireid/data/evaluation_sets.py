"""The photos, sketches and captions that a checkpoint is evaluated on, for every data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ms_unireid.config import Config, DataConfig, config_from_dict, to_dict
from ms_unireid.data import market_sketch, orbench, pku_sketch
from ms_unireid.data.annotations import Annotation
from ms_unireid.data.pairs import CAPTIONED, read_captioned
from ms_unireid.data.pictures import check_pictures
from ms_unireid.data.pku_trials import trials
from ms_unireid.data.sketch_sets import SketchSet
from ms_unireid.errors import ConfigError, DataError
from ms_unireid.modalities import TEXT, written_parts

# Data sets whose photo names hold the camera; both took photos and names from MSMT17.
_CAMERAS: Mapping[str, re.Pattern] = MappingProxyType(
    {
        "icfg_pedes": re.compile(r"\d+_\d+_(\d+)_\d{4}(?:morning|noon|afternoon)"),
        "rstp_reid": re.compile(r"\d+_c(\d+)_\d+"),
    }
)


class Pictures(NamedTuple):
    """Pictures of a further modality as queries."""

    paths: tuple[Path, ...]
    persons: np.ndarray  # (S,)
    photos: np.ndarray | None = None  # (S,) index of the photo that each belongs to; None if they belong to persons


@dataclass(frozen=True, kw_only=True)
class Owners:
    """Whose the N photos, S sketches and C captions of a split are, and the queries that its data set gives.

    Captions and sketches belong to photos, as in the Tri data sets, where sketch i is that of photo i if nothing else
    is said; or to persons, and then `caption_photos` is None.
    """

    person_ids: np.ndarray  # (N,) of the photos
    caption_photos: np.ndarray | None = None  # (C,)
    sketch_photos: np.ndarray | None = None  # (S,)
    caption_persons: np.ndarray | None = None  # (C,), computed if `caption_photos` is given
    sketch_persons: np.ndarray | None = None  # (S,), computed if `caption_photos` is given
    cameras: np.ndarray | None = None  # (N,) of the photos, None if not known
    trials: tuple[np.ndarray, ...] = ()  # the persons tested in each
    # Where the data set gives its queries: by task, the indices (Q, M) of their parts, in the order of its name.
    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        if self.caption_photos is not None:
            object.__setattr__(self, "caption_persons", self.person_ids[self.caption_photos])
            if self.sketch_photos is None:
                object.__setattr__(self, "sketch_photos", np.arange(len(self.person_ids)))
            object.__setattr__(self, "sketch_persons", self.person_ids[self.sketch_photos])


@dataclass(frozen=True, kw_only=True)
class EvaluationSet(Owners):
    """A gallery of photos, and sketches and raw captions as queries."""

    photos: tuple[Path, ...]
    sketches: tuple[Path, ...]
    captions: tuple[str, ...]
    styles: tuple[str, ...]  # style, artist or sub-folder of each sketch
    others: Mapping[str, Pictures] = field(default_factory=dict)  # by modality


def load_evaluation_set(config: DataConfig, split: str) -> EvaluationSet:
    """Load a split for evaluation and check every photo and sketch; what is wrong or missing raises a DataError.

    PKU-Sketch has no splits: test means the whole data set with its ten trials.
    """
    if config.name == orbench.NAME:
        return _load_orbench(config, split)
    if config.name in CAPTIONED:
        found = read_captioned(config).checked_annotations([split], config.allow_identity_gaps)[split]
        return from_annotations(found, config.name, config.modalities)
    captions = None if config.captions is None else Path(config.captions)
    if config.name == pku_sketch.NAME:
        return _load_pku_sketch(config, split, captions)
    return _from_sketch_set(market_sketch.load_market_sketch(Path(config.root), split, captions=captions))


def parse_targets(texts: Sequence[str], config: Config) -> list[DataConfig]:
    """Turn NAME=FOLDER texts into data sections, with all other values of the config.

    A text of another form raises a ConfigError, a missing folder a DataError.
    """
    found = []
    for text in texts:
        name, _, folder = text.partition("=")
        if not folder:
            raise ConfigError(f"target {text}: expected NAME=FOLDER, for example icfg_pedes=data")
        values = to_dict(config)
        values["data"] |= {"name": name, "root": folder}
        found.append(config_from_dict(values, f"target {text}").data)
        if not Path(folder).is_dir():
            raise DataError(f"target {text}: no such folder; give the data set's folder, or the one above it")
    return found


def from_annotations(
    annotations: Sequence[Annotation], name: str = "", modalities: Sequence[str] = ("sketch",)
) -> EvaluationSet:
    """Make the evaluation set of one split, with pictures of these modalities; `name` says how cameras are named."""
    captions = [(caption, photo) for photo, a in enumerate(annotations) for caption in a.captions]
    persons = np.array([a.person_id for a in annotations])
    drawn = {}
    for kind in modalities:
        pairs = [(path, photo) for photo, a in enumerate(annotations) for path in a.pictures.get(kind, ())]
        photos = np.array([photo for _, photo in pairs], int)
        drawn[kind] = Pictures(tuple(path for path, _ in pairs), persons[photos], photos)
    sketches = drawn.pop("sketch", Pictures((), persons[:0], np.zeros(0, int)))
    return EvaluationSet(
        photos=tuple(a.photo for a in annotations),
        sketches=sketches.paths,
        captions=tuple(caption for caption, _ in captions),
        person_ids=persons,
        styles=tuple(sketch.parent.name for sketch in sketches.paths),
        caption_photos=np.array([photo for _, photo in captions], int),
        cameras=_cameras([a.photo for a in annotations], name),
        sketch_photos=sketches.photos,
        others=drawn,
    )


def _load_orbench(config: DataConfig, split: str) -> EvaluationSet:
    if split != "test":
        raise DataError(f"{config.name} has no queries of split {split!r}. Fix: evaluate and select on test.")
    data = orbench.read_orbench(Path(config.root), config.modalities)
    rows = data.query_rows()
    items = rows.items()
    parts = {
        name: Pictures(tuple(data.folder / path for _, path in items[name]), np.array([p for p, _ in items[name]], int))
        for name in config.modalities
    }
    photos = tuple(data.folder / photo for _, photo in rows.gallery)
    check_pictures([*photos, *(path for part in parts.values() for path in part.paths)])
    sketches = parts.pop("sketch", Pictures((), np.zeros(0, int)))
    return EvaluationSet(
        photos=photos,
        sketches=sketches.paths,
        captions=tuple(caption for _, caption in items[TEXT]),
        person_ids=np.array([person for person, _ in rows.gallery]),
        styles=("",) * len(sketches.paths),
        caption_persons=np.array([person for person, _ in items[TEXT]], int),
        sketch_persons=sketches.persons,
        others=parts,
        given={
            task: np.array(
                [[items[name][row[0], item] for name, item in zip(names, row[1:], strict=True)] for row in found]
            )
            for task, found in rows.queries.items()
            for names in [written_parts(task)]
        },
    )


def _load_pku_sketch(config: DataConfig, split: str, captions: Path | None) -> EvaluationSet:
    if split != "test":
        raise DataError(f"{config.name} has no split {split!r}. Fix: use test, the whole data set with its ten trials.")
    sketch_set = pku_sketch.load_pku_sketch(Path(config.root), captions, config.allow_partial)
    drawn = trials(sketch_set, file=None if config.trials is None else Path(config.trials))
    return _from_sketch_set(sketch_set, tuple(np.array(trial.test) for trial in drawn))


def _from_sketch_set(sketch_set: SketchSet, tested: tuple[np.ndarray, ...] = ()) -> EvaluationSet:
    check_pictures(record.path for record in (*sketch_set.photos, *sketch_set.sketches))
    captions = [(text, person) for person, texts in sketch_set.captions.items() for text in texts]
    cameras = [photo.camera for photo in sketch_set.photos]
    return EvaluationSet(
        photos=tuple(photo.path for photo in sketch_set.photos),
        sketches=tuple(sketch.path for sketch in sketch_set.sketches),
        captions=tuple(text for text, _ in captions),
        person_ids=np.array([photo.person_id for photo in sketch_set.photos]),
        styles=tuple(sketch.style or "" for sketch in sketch_set.sketches),
        caption_persons=np.array([person for _, person in captions], int),
        sketch_persons=np.array([sketch.person_id for sketch in sketch_set.sketches]),
        cameras=None if None in cameras else np.array(cameras),
        trials=tested,
    )


def _cameras(photos: Sequence[Path], name: str) -> np.ndarray | None:
    pattern = _CAMERAS.get(name)
    if pattern is None:
        return None
    found = [pattern.match(photo.name) for photo in photos]
    # All or none: a protocol that needs cameras then refuses the data set.
    return np.array([int(match[1]) for match in found]) if all(found) else None
