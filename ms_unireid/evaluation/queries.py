"""Features of a split, and the queries that each task makes from them for the same gallery of photos."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ms_unireid.evaluation.metrics import Gallery, Queries

TASK_SYMBOLS = {"text": "T->R", "sketch": "S->R", "fusion": "T+S->R"}
NO_INDEX = -1


@dataclass(frozen=True)
class SplitFeatures:
    """Un-normalised features of a split, each photo, sketch and caption once.

    In the Tri data sets captions and sketches belong to photos: sketch i is drawn from photo i. In PKU-Sketch and
    Market-Sketch-1K they belong to persons, and `caption_photos` is None.

    `caption_persons` and `sketch_persons` are computed where `caption_photos` is given.
    """

    photo: np.ndarray  # (N, D)
    sketch: np.ndarray  # (S, D)
    text: np.ndarray  # (C, D)
    person_ids: np.ndarray  # (N,) of the photos
    caption_photos: np.ndarray | None = None  # (C,) index of each caption's photo
    caption_persons: np.ndarray | None = None  # (C,)
    sketch_persons: np.ndarray | None = None  # (S,)
    cameras: np.ndarray | None = None  # (N,) of the photos, None if unknown
    trials: tuple[np.ndarray, ...] = ()  # tested persons of each trial

    def __post_init__(self):
        if self.caption_photos is not None:
            object.__setattr__(self, "caption_persons", self.person_ids[self.caption_photos])
            object.__setattr__(self, "sketch_persons", self.person_ids)

    def of_persons(self, persons: np.ndarray) -> "SplitFeatures":
        """Return the features of some persons; captions and sketches must belong to persons."""
        photos, captions, sketches = (
            np.isin(owners, persons) for owners in (self.person_ids, self.caption_persons, self.sketch_persons)
        )
        return dataclasses.replace(
            self,
            photo=self.photo[photos],
            sketch=self.sketch[sketches],
            text=self.text[captions],
            person_ids=self.person_ids[photos],
            caption_persons=self.caption_persons[captions],
            sketch_persons=self.sketch_persons[sketches],
            cameras=None if self.cameras is None else self.cameras[photos],
            trials=(),
        )


@dataclass(frozen=True)
class TaskQueries:
    """The queries of one task.

    `photos` (the source photos), `captions` and `sketches` are indices (Q,), -1 where a query has none.
    """

    feats: np.ndarray  # (Q, D) un-normalised
    person_ids: np.ndarray  # (Q,)
    photos: np.ndarray
    captions: np.ndarray
    sketches: np.ndarray


def make_queries(task: str, feats: SplitFeatures) -> TaskQueries:
    """Make a task's queries: one for each caption, or one for each sketch, or one for each pair of them.

    Fusion pairs a caption with the sketch of its photo; where both belong to persons, with each sketch of its person.
    """
    if task == "text":
        captions = np.arange(len(feats.text))
        none = np.full(len(captions), NO_INDEX)
        return TaskQueries(feats.text, feats.caption_persons, _source_photos(captions, feats), captions, none)
    if task == "sketch":
        sketches = np.arange(len(feats.sketch))
        none = np.full(len(sketches), NO_INDEX)
        photos = none if feats.caption_photos is None else sketches
        return TaskQueries(feats.sketch, feats.sketch_persons, photos, none, sketches)
    captions, sketches = _pairs(feats)
    return TaskQueries(
        feats.text[captions] + feats.sketch[sketches],
        feats.caption_persons[captions],
        _source_photos(captions, feats),
        captions,
        sketches,
    )


def queries_and_gallery(task_queries: TaskQueries, feats: SplitFeatures, rule: str) -> tuple[Queries, Gallery]:
    """Return queries and gallery under one of `GALLERY_RULES`.

    `full_gallery` removes nothing, `exclude_source_photo` a query's source photo, and `camera_aware` the person's
    photos by the camera of the source photo.
    """
    made = task_queries
    source = made.photos if rule == "exclude_source_photo" else None
    if rule != "camera_aware":
        return Queries(made.feats, made.person_ids, source), Gallery(feats.photo, feats.person_ids)
    cameras = np.where(made.photos == NO_INDEX, NO_INDEX, feats.cameras[made.photos])
    return (
        Queries(made.feats, made.person_ids, cameras=cameras),
        Gallery(feats.photo, feats.person_ids, feats.cameras),
    )


def _source_photos(captions: np.ndarray, feats: SplitFeatures) -> np.ndarray:
    return np.full(len(captions), NO_INDEX) if feats.caption_photos is None else feats.caption_photos[captions]


def _pairs(feats: SplitFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Return the captions and the sketches of the fusion queries."""
    if feats.caption_photos is not None:
        return np.arange(len(feats.text)), feats.caption_photos
    return np.nonzero(feats.caption_persons[:, None] == feats.sketch_persons[None])
