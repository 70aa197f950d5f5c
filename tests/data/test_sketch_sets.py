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


def test_a_subset_holds_what_belongs_to_its_persons_and_keeps_the_order():
    whole = example()
    part = whole.subset([9])
    assert part.photos == whole.photos[4:]
    assert part.sketches == (whole.sketches[0], whole.sketches[2])
    assert part.captions == {9: ("A woman.", "A girl.")}
    assert whole.subset({0, 4, 9}) == whole
    assert whole.subset([7]) == SketchSet((), ())
