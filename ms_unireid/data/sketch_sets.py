"""Records of data sets whose photos and sketches belong to persons rather than to each other.

In PKU-Sketch and Market-Sketch-1K an artist drew a person, not a photo: a sketch is a query for every photo of its
person, and no photo is left out of the gallery. Where files lie is the parsers' business.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PersonPhoto:
    """One photo of a person.

    Attributes:
        person_id: Identity, as in the data set.
        path: Path of the photo.
        camera: Number of the camera, as in the data set; None if it is not known.
    """

    person_id: int
    path: Path
    camera: int | None


@dataclass(frozen=True)
class PersonSketch:
    """One sketch of a person.

    Attributes:
        person_id: Identity, as in the data set.
        path: Path of the sketch.
        style: Drawing style or artist; None if it is not known.
    """

    person_id: int
    path: Path
    style: str | None


@dataclass(frozen=True)
class SketchSet:
    """Photos, sketches and captions of some persons.

    Attributes:
        photos: The gallery; a person in it need not have a sketch.
        sketches: The queries; every person in them has a photo.
        captions: Captions of each person, raw; empty if there are none.
    """

    photos: tuple[PersonPhoto, ...]
    sketches: tuple[PersonSketch, ...]
    captions: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def persons(self) -> tuple[int, ...]:
        """Return the identities that have a sketch, ascending."""
        return tuple(sorted({sketch.person_id for sketch in self.sketches}))

    def subset(self, persons: Collection[int]) -> "SketchSet":
        """Return what belongs to some persons, in the same order; what belongs to others is left out everywhere."""
        wanted = frozenset(persons)
        return SketchSet(
            tuple(photo for photo in self.photos if photo.person_id in wanted),
            tuple(sketch for sketch in self.sketches if sketch.person_id in wanted),
            {person: texts for person, texts in self.captions.items() if person in wanted},
        )
