"""Records of persons with photos and sketches."""

from pathlib import Path

from ms_unireid.data.sketch_sets import PersonPhoto, PersonSketch, SketchSet


def example() -> SketchSet:
    photos = tuple(
        PersonPhoto(person, Path(f"{person}_{camera}.jpg"), camera) for person in (0, 4, 9) for camera in (1, 2)
    )
    sketches = tuple(PersonSketch(person, Path(f"{person}.jpg"), "a") for person in (9, 4, 9))
    return SketchSet(photos, sketches, {4: ("A man.",), 9: ("A woman.", "A girl.")})


def test_persons_are_those_with_a_sketch():
    assert example().persons == (4, 9)
    assert SketchSet((), ()).persons == () and SketchSet((), ()).captions == {}
