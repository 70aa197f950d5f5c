"""Records and person captions of PKU-Sketch and Market-Sketch-1K, whose sketches belong to persons, not to photos.

A sketch is a query for every photo of its person, and no photo is left out of the gallery.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ms_unireid.data.annotations import check_captions, parse_identity
from ms_unireid.data.findings import listed
from ms_unireid.data.folders import read_entries, read_text
from ms_unireid.errors import DataError, shown


@dataclass(frozen=True)
class PersonPhoto:
    """One photo of a person; `camera` is None if not known."""

    person_id: int
    path: Path
    camera: int | None


@dataclass(frozen=True)
class PersonSketch:
    """One sketch of a person; `style`, the drawing style or artist, is None if not known."""

    person_id: int
    path: Path
    style: str | None


@dataclass(frozen=True)
class SketchSet:
    """A gallery of photos, sketches as queries (each of a person with a photo), and raw captions by person."""

    photos: tuple[PersonPhoto, ...]
    sketches: tuple[PersonSketch, ...]
    captions: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def persons(self) -> tuple[int, ...]:
        """Return the persons that have a sketch, ascending."""
        return tuple(sorted({sketch.person_id for sketch in self.sketches}))


_FORM = 'JSON such as {"1": ["A man in a red coat."]}, or TriReID.txt'


def read_person_captions(
    file: Path, wanted: Collection[int], known: Collection[int] | None = None
) -> dict[int, tuple[str, ...]]:
    """Read the captions of persons; return those of the wanted persons, raw, ascending by identity.

    The file is JSON, or has lines as in `TriReID.txt` if its name ends in `.txt`. A person who is not `known` (None
    means `wanted`), or a wanted person without a caption, raises a DataError.
    """
    captions = _from_lines(file) if file.suffix.lower() == ".txt" else _from_json(file)
    if unknown := sorted(captions.keys() - set(wanted if known is None else known)):
        raise DataError(
            f"{file}: captions of {len(unknown)} identities that the data set does not have: {listed(unknown)}. "
            "Fix: remove them, or complete the data set."
        )
    if missing := sorted(set(wanted) - captions.keys()):
        raise DataError(
            f"{file}: {len(missing)} of {len(set(wanted))} identities have no caption: {listed(missing)}. "
            "Fix: add at least one for each."
        )
    return {person: captions[person] for person in sorted(wanted)}


def _from_json(file: Path) -> dict[int, tuple[str, ...]]:
    raw = read_entries(file, dict, _FORM, "Fix: write it again; map each identity to a list of captions.")
    captions: dict[int, tuple[str, ...]] = {}
    for key, value in raw.items():
        try:
            person, texts = parse_identity(key), check_captions(value)
        except ValueError as error:
            raise DataError(f"{file}, {shown(key)}: {error}; expected {_FORM}. Fix: correct this entry.") from error
        if person in captions:
            raise DataError(f"{file}: identity {person} occurs twice. Fix: put all its captions into one list.")
        captions[person] = texts
    return captions


def _from_lines(file: Path) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for number, line in enumerate(read_text(file, f"Fix: write it again; expected {_FORM}.").split("\n"), 1):
        if not line.strip():
            continue
        place, _, caption = line.rpartition("@")
        try:
            person = parse_identity(place.split("/")[0].strip())
            found.setdefault(person, []).extend(check_captions([caption]))
        except ValueError as error:
            raise DataError(
                f"{file}, line {number}: expected IDENTITY/PHOTO@CAPTION, found {shown(line)}. Fix: correct this line."
            ) from error
    return {person: tuple(texts) for person, texts in found.items()}
