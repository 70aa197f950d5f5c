"""Features of a split, and the queries that each task makes from them for the same gallery of photos."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ms_unireid.config import TASKS
from ms_unireid.data.evaluation_sets import Owners
from ms_unireid.evaluation.metrics import Gallery, Queries
from ms_unireid.modalities import TEXT, canonical, modalities_of, task_of, written_parts

NO_INDEX = -1


class Part(NamedTuple):
    """The features of one modality of a split, each picture or caption once."""

    feats: np.ndarray  # (S, D) un-normalised
    persons: np.ndarray  # (S,)
    photos: np.ndarray | None = None  # (S,) index of the photo that each belongs to; None if they belong to persons


@dataclass(frozen=True)
class SplitFeatures(Owners):
    """Un-normalised features of a split, each photo, sketch and caption once."""

    photo: np.ndarray  # (N, D)
    sketch: np.ndarray  # (S, D)
    text: np.ndarray  # (C, D)
    others: Mapping[str, Part] = field(default_factory=dict)  # further modalities

    def part(self, modality: str) -> Part:
        """Return the features of a modality of queries; empty if the split has none."""
        parts = {
            TEXT: Part(self.text, self.caption_persons, self.caption_photos),
            "sketch": Part(self.sketch, self.sketch_persons, self.sketch_photos),
            **self.others,
        }
        return parts.get(modality) or Part(self.photo[:0], self.person_ids[:0])

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
            others={
                name: Part(*(rows[np.isin(part.persons, persons)] for rows in part[:2]))
                for name, part in self.others.items()
            },
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
    others: Mapping[str, np.ndarray] = field(default_factory=dict)  # indices of further modalities


def tasks_of(feats: SplitFeatures, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """List the tasks among those `asked` that a split has queries for, in the names of `task_of`.

    None asks for the paper's, and for each further modality alone and all together; `all` for every combination. Where
    queries are given, a task stands for all tasks of its modalities, whatever their order, and None for all.
    """
    if feats.given:
        sets = None if asked is None or "all" in asked else [{*modalities_of(task)} for task in asked]
        return tuple(task for task in feats.given if sets is None or {*modalities_of(task)} in sets)
    there = [name for name in (TEXT, "sketch", *feats.others) if len(feats.part(name).feats)]
    further = [name for name in there if name in feats.others]
    if asked is None:
        asked = (*TASKS, *further, *(["+".join(there)] if further else []))
    elif "all" in asked:
        asked = [task_of(chosen) for size in range(len(there)) for chosen in combinations(there, size + 1)]
    named = dict.fromkeys(map(canonical, asked))
    return tuple(task for task in named if {*modalities_of(task)} <= {*there})


def make_queries(task: str, feats: SplitFeatures) -> TaskQueries:
    """Make a task's queries: one for each caption or picture of its first modality, with each that it goes with.

    A caption goes with the first picture of its photo; where one of both belongs to persons, with each of its person.
    Given queries are made as they are given.
    """
    given = feats.given.get(task)
    names = modalities_of(task) if given is None else written_parts(task)
    parts = [feats.part(name) for name in names]
    rows = _joined(parts) if given is None else list(given.T)
    fused = parts[0].feats[rows[0]]
    for part, chosen in zip(parts[1:], rows[1:], strict=True):
        fused = fused + part.feats[chosen]
    none = np.full(len(rows[0]), NO_INDEX)
    sources = (part.photos[chosen] for part, chosen in zip(parts, rows, strict=True) if part.photos is not None)
    indices = dict(zip(names, rows, strict=True))
    captions, sketches = indices.pop(TEXT, none), indices.pop("sketch", none)
    return TaskQueries(fused, parts[0].persons[rows[0]], next(sources, none), captions, sketches, indices)


def _joined(parts: Sequence[Part]) -> list[np.ndarray]:
    """Return the rows of each part, all (Q,), that go together in a query."""
    rows = [np.arange(len(parts[0].feats))]
    for part in parts[1:]:
        kept, found = _matches(parts[0], rows[0], part)
        rows = [*(one[kept] for one in rows), found]
    return rows


def _matches(first: Part, rows: np.ndarray, other: Part) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the rows (Q,) of one modality have a match in another, and the matches."""
    if first.photos is None or other.photos is None:
        return np.nonzero(first.persons[rows][:, None] == other.persons[None])
    of_photo = np.full(1 + max(first.photos.max(initial=0), other.photos.max(initial=0)), NO_INDEX)
    of_photo[other.photos[::-1]] = np.arange(len(other.photos))[::-1]
    found = of_photo[first.photos[rows]]
    kept = np.flatnonzero(found != NO_INDEX)
    return kept, found[kept]


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
