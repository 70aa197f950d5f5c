"""Features of a split, and the queries that each task asks with them.

Every task ranks the same gallery of photos. What a query is made of is told beside it, for the analysis of errors.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ms_unireid.evaluation.metrics import Gallery, Queries

TASK_SYMBOLS = {"text": "T->R", "sketch": "S->R", "fusion": "T+S->R"}
NO_INDEX = -1


@dataclass(frozen=True)
class SplitFeatures:
    """Un-normalised features of a split, each photo, sketch and caption once.

    In the Tri data sets captions and sketches belong to photos: sketch i was drawn from photo i. In PKU-Sketch and
    Market-Sketch-1K they belong to persons: `caption_photos` is None, and `caption_persons` and `sketch_persons` say
    whose they are.

    Attributes:
        photo: (N, D) gallery features; photo i has image id i.
        sketch: (S, D) features of the sketches.
        text: (C, D) features of each caption.
        person_ids: (N,) person of each photo.
        caption_photos: (C,) the photo a caption belongs to, or None.
        caption_persons: (C,) the person a caption belongs to; follows from `caption_photos` if that is given.
        sketch_persons: (S,) the person a sketch belongs to; likewise.
        cameras: (N,) camera of each photo, or None if the data set does not tell.
        trials: The persons who are tested in each trial of a protocol that has trials.
    """

    photo: np.ndarray
    sketch: np.ndarray
    text: np.ndarray
    person_ids: np.ndarray
    caption_photos: np.ndarray | None = None
    caption_persons: np.ndarray | None = None
    sketch_persons: np.ndarray | None = None
    cameras: np.ndarray | None = None
    trials: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        if self.caption_photos is not None:
            object.__setattr__(self, "caption_persons", self.person_ids[self.caption_photos])
            object.__setattr__(self, "sketch_persons", self.person_ids)

    def of_persons(self, persons: np.ndarray) -> "SplitFeatures":
        """Return what belongs to some persons; only where captions and sketches belong to persons."""
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

    Attributes:
        feats: (Q, D) un-normalised.
        person_ids: (Q,) who is asked for.
        photos: (Q,) the photo behind each query; -1 where there is none.
        captions: (Q,) row of the caption in it; -1 where there is none.
        sketches: (Q,) row of the sketch in it; -1 where there is none.
    """

    feats: np.ndarray
    person_ids: np.ndarray
    photos: np.ndarray
    captions: np.ndarray
    sketches: np.ndarray


def make_queries(task: str, feats: SplitFeatures) -> TaskQueries:
    """Make a task's queries.

    Text asks once per caption, sketch once per sketch. Fusion asks once per caption, with the sketch of the caption's
    photo; where both belong to persons, once per caption and sketch of a person.
    """
    if task == "text":
        rows = np.arange(len(feats.text))
        none = np.full(len(rows), NO_INDEX)
        return TaskQueries(feats.text, feats.caption_persons, _photos_of(rows, feats), rows, none)
    if task == "sketch":
        rows = np.arange(len(feats.sketch))
        none = np.full(len(rows), NO_INDEX)
        photos = none if feats.caption_photos is None else rows
        return TaskQueries(feats.sketch, feats.sketch_persons, photos, none, rows)
    captions, sketches = _pairs(feats)
    return TaskQueries(
        feats.text[captions] + feats.sketch[sketches],
        feats.caption_persons[captions],
        _photos_of(captions, feats),
        captions,
        sketches,
    )


def queries_and_gallery(task_queries: TaskQueries, feats: SplitFeatures, protocol: str) -> tuple[Queries, Gallery]:
    """Return queries and gallery under a rule of what is left out of the gallery.

    Args:
        task_queries: From `make_queries`.
        feats: Features of the split.
        protocol: `full_gallery`; `exclude_source_photo`: the photo behind the query; `camera_aware`: the person's
            photos by the camera of that photo.
    """
    source = task_queries.photos if protocol == "exclude_source_photo" else None
    if protocol != "camera_aware":
        return Queries(task_queries.feats, task_queries.person_ids, source), Gallery(feats.photo, feats.person_ids)
    cameras = np.where(task_queries.photos == NO_INDEX, NO_INDEX, feats.cameras[task_queries.photos])
    return (
        Queries(task_queries.feats, task_queries.person_ids, cameras=cameras),
        Gallery(feats.photo, feats.person_ids, feats.cameras),
    )


def _photos_of(captions: np.ndarray, feats: SplitFeatures) -> np.ndarray:
    return np.full(len(captions), NO_INDEX) if feats.caption_photos is None else feats.caption_photos[captions]


def _pairs(feats: SplitFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Return which caption goes with which sketch in the fusion queries."""
    if feats.caption_photos is not None:
        return np.arange(len(feats.text)), feats.caption_photos
    return np.nonzero(feats.caption_persons[:, None] == feats.sketch_persons[None])
