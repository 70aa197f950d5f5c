"""Tiny copies of PKU-Sketch and Market-Sketch-1K for the tests of readers and verifier."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data.tri_factory import touch

# Several persons in some styles, one in another, none in the others; in no order.
PKU_STYLES: Mapping[str, Sequence[int]] = {"a": (12, 3, 7), "b": (5,), "c": (1, 20)}
# identity: artists who drew it
MARKET_TRAIN: Mapping[int, str] = {2: "ABCDEF", 7: "ABF"}
MARKET_TEST: Mapping[int, str] = {1: "ABCDEF", 3: "B"}

Put = Callable[[Path], object]


def build_pku(
    root: Path,
    styles: Mapping[str, Sequence[int]] = PKU_STYLES,
    folder: str = "PKUSketchRE-ID_V1",
    put: Put = touch,
) -> Path:
    """Write a PKU-Sketch with correct counts in the names of its style files, and return its folder."""
    place = root / folder
    for letter in "abcde":
        persons = styles.get(letter, ())
        for person in persons:
            put(place / "photo" / f"{person}_03_{person * 11}.jpg")
            put(place / "photo" / f"{person}_05_{person * 7}.jpg")
            put(place / "sketch" / f"{person}.jpg")
        write_style(place, letter, persons)
    return place


def write_style(place: Path, letter: str, persons: Sequence[object], count: int | None = None) -> Path:
    """Write the file of one style; `count` is the number in its name."""
    file = place / "styleAnnotation" / f"{letter}_{len(persons) if count is None else count}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{person}\n" for person in persons), encoding="utf-8")
    return file


def build_market(root: Path, folder: str = "Market-Sketch-1K", put: Put = touch) -> Path:
    """Write a Market-Sketch-1K of four drawn persons, one more photo, a distractor and junk; return its folder."""
    place = root / folder
    for own, persons in (("train", MARKET_TRAIN), ("query", MARKET_TEST)):
        for person, artists in persons.items():
            for camera in (6, 1):
                put(place / "photo" / own / f"{person:04}_c{camera}s1_000{person}51_01.jpg")
            for artist in artists:
                put(place / "sketch" / artist / own / f"{person:04}_{artist}.jpg")
    for other in ("0009_c2s3_000100_00.jpg", "0000_c2s1_000200_02.jpg", "-1_c3s2_000300_03.jpg"):
        put(place / "photo" / "query" / other)
    return place
