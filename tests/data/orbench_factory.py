"""A miniature of ORBench with all its 32 tasks, for the tests of reader, training, evaluation and verifier."""

import json
from collections.abc import Callable
from pathlib import Path

from data.tri_factory import put_distinct

from ms_unireid.data.orbench import PICTURE_FOLDERS, TASKS

CODES = {"NIR": "nir", "CP": "cp", "SK": "sk"}
TRAIN_FOLDERS = {1: "0003", 2: "0001", 3: "0007", 4: "0010"}  # the ids are not the names of the folders
TEST_PERSONS = (2, 5, 8)


def photos(folder: str) -> list[str]:
    return [f"vis/{folder}/{n}.png" for n in range(3)]


def pictures(place: str, folder: str) -> list[str]:
    """List more infrared pictures than drawings, and not the same number for everybody."""
    return [f"{place}/{folder}/{n}.png" for n in range({"nir": 3, "cp": 2, "sk": 1 + int(folder) % 2}[place])]


def caption(person: int, n: int) -> str:
    return f"Person {person} seen from side {n}, in a red coat."


def training_entries() -> list[dict]:
    """List entries whose ids are numbers and strings."""
    return [
        {"id": person if n else str(person), "file_path": photo, "caption": caption(person, n)}
        for person, folder in TRAIN_FOLDERS.items()
        for n, photo in enumerate(photos(folder))
    ]


def query_rows() -> dict[str, list]:
    """List the gallery and each task's rows: one for each item of its first modality, with some of the others."""
    found = {"RGB_GALLERY": [[p, photo] for p in TEST_PERSONS for photo in photos(f"{p:04}")]}
    for number, key in enumerate(TASKS):
        first, *others = key.split("+")
        found[key] = [
            [p, item, *(_items(p, code)[(n + number) % len(_items(p, code))] for code in others)]
            for p in TEST_PERSONS
            for n, item in enumerate(_items(p, first))
        ]
    return found


def _items(person: int, code: str) -> list[str]:
    return [caption(person, n) for n in range(3)] if code == "TEXT" else pictures(CODES[code], f"{person:04}")


def build_orbench(root: Path, put: Callable[[Path], object] = put_distinct) -> Path:
    """Write the data set below `root` and return its folder."""
    folder = root / "ORBench"
    for name in (*TRAIN_FOLDERS.values(), *(f"{person:04}" for person in TEST_PERSONS)):
        for path in (*photos(name), *(path for place in PICTURE_FOLDERS.values() for path in pictures(place, name))):
            put(folder / path)
    write(folder, "train_annos.json", training_entries())
    write(folder, "test_gallery_and_queries.json", query_rows())
    return folder


def write(folder: Path, file: str, content: object) -> None:
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
