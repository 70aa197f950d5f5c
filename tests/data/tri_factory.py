"""Tiny data sets in the layout of the published ones, for the tests of this folder."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_unireid.data.tri_pedes import DATASETS
from ms_unireid.errors import is_unicode


def real_data() -> Path:
    """Return the folder of the real slice, or skip the test that uses it."""
    named = os.environ.get("UNIREID_REAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "CUHK-PEDES" / "reid_raw.json").is_file():
        pytest.skip(f"no real data in {folder}; name its folder in UNIREID_REAL_DATA")
    return folder


def entry(name: str, split: str, person: object, photo: str, captions: object = ("A man in red.",)) -> dict:
    """Return one entry of a caption file."""
    captions = list(captions) if isinstance(captions, tuple) else captions
    return {"split": split, "captions": captions, DATASETS[name].path_key: photo, "processed_tokens": [], "id": person}


def usual_entries(name: str) -> list[dict]:
    """Return four training photos of two people, and one photo of one more person for each other split."""
    first = DATASETS[name].first_train_identity
    entries = [entry(name, "train", first + i // 2, f"cam/{i}.jpg", (f"man {i}", f"boy {i}")) for i in range(4)]
    others = DATASETS[name].splits[1:]
    return entries + [entry(name, split, first + 2 + i, f"{split}/x.jpg") for i, split in enumerate(others)]


def put_picture(path: Path, size: tuple[int, int] = (4, 8), format: str = "JPEG") -> Path:
    """Write a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 40)).save(path, format=format)
    return path


def put_distinct(path: Path) -> Path:
    """Write a picture whose colours follow from its path: no two have the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = hashlib.sha256(str(path).encode()).digest() * 3
    Image.frombytes("RGB", (4, 8), colours).save(path, format="PNG")
    return path


def noise_bytes(format: str, **options: object) -> bytes:
    """Return a picture of noise: no part of the file is without meaning."""
    pixels = np.random.default_rng(0).integers(0, 256, (160, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=format, **options)
    return file.getvalue()


def touch(path: Path) -> None:
    """Write a file that the parser only looks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def build(
    root: Path,
    name: str,
    entries: list | None = None,
    sketch_prefix: str = "",
    put: Callable[[Path], object] = touch,
) -> Path:
    """Write a data set below ``root`` and return its folder."""
    layout = DATASETS[name]
    folder = root / layout.folder
    entries = usual_entries(name) if entries is None else entries
    for item in entries:
        photo = item.get(layout.path_key) if isinstance(item, dict) else None
        if (
            isinstance(photo, str)
            and photo.strip(" ./")
            and ".." not in photo
            and is_unicode(photo)
            and photo[0] != "/"
        ):
            put(folder / "imgs" / photo)
            put(folder / layout.sketch_folder / sketch_prefix / photo)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.annotation_files[0]).write_text(json.dumps(entries), encoding="utf-8")
    return folder
