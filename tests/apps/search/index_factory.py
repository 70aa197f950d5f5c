"""Small indexes: photos of one colour each, and an encoder whose feature is the mean colour."""

import functools
import sqlite3
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ms_unireid.apps.search.encoding import encode_together
from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.apps.search.indexing import IndexReport, describe_model, photo_source, update_index
from ms_unireid.apps.search.manifest import MANIFEST, Manifest
from ms_unireid.apps.search.shards import ALL
from ms_unireid.config import config_from_dict
from ms_unireid.data.transforms import load_pixels, normalize
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.runtime import ALONE

CONFIG = config_from_dict(
    {
        "model": {"architecture": "tiny", "image_size": [16, 8]},
        "eval": {"batch_size": 4},
        "runtime": {"device": "CPU"},
    },
    "test",
)
DIM = 32


class MeanColour:
    """Replaces the model's encoder; counts the pictures."""

    config, processes = CONFIG, ALONE

    def __init__(self):
        self.encoded = 0

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """Return the mean colours, normalised as pictures are, a one and zeros, (B, DIM)."""
        self.encoded += len(images)
        feats = np.zeros((len(images), DIM), np.float32)
        feats[:, :3], feats[:, 3] = normalize(images).mean(axis=(2, 3)), 1
        return feats


def put_photo(path: Path, colour: tuple[int, int, int]) -> Path:
    """Write a photo of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 20), colour).save(path)
    return path


def colour_of(number: int) -> tuple[int, int, int]:
    """Return a different colour for each number up to 500."""
    return 40 + number % 8 * 25, 40 + number // 8 % 8 * 25, 40 + number // 64 * 25


def put_photos(folder: Path, numbers) -> list[Path]:
    """Write one photo per number, named by it."""
    return [put_photo(folder / f"{number:03d}.png", colour_of(number)) for number in numbers]


def checkpoint(folder: Path, content: bytes = b"weights") -> Path:
    """Write a file in place of a checkpoint."""
    path = folder / "model.ckpt"
    path.write_bytes(content)
    return path


def update(index: Path, *folders: Path, dtype: str = "float16", content: bytes = b"weights", **options) -> IndexReport:
    """Bring an index up to date."""
    about = describe_model(checkpoint(index.parent, content), CONFIG, dtype, options.pop("shard", ALL))
    encode = functools.partial(encode_together, options.pop("using", MeanColour()), index)
    return update_index(index, about, encode, [photo_source(f) for f in folders], **options)


def make_earlier(index: Path, version: int) -> Path:
    """Make an index one of an earlier format, with the checksums and the content of `about` that it had."""
    found, old = PhotoIndex(index), {1: ("id", "left", "digest", "facts"), 2: ("facts",)}[version]
    with sqlite3.connect(index / MANIFEST) as database:
        for row, source, name, person in database.execute("SELECT row, source, name, person FROM photos").fetchall():
            crc = zlib.crc32(f"{row}/{source}/{person}/{name}".encode(), zlib.crc32(found.features[row]))
            database.execute("UPDATE photos SET checksum = ? WHERE row = ?", (crc, row))
        for column in ("taken", "camera", "checksum")[: 4 - version]:
            database.execute(f"ALTER TABLE photos DROP COLUMN {column}")
        database.executemany("DELETE FROM about WHERE key = ?", [(key,) for key in old])
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    manifest = Manifest(index)
    with manifest.transaction():
        pass  # the digest
    manifest.close()
    return index


def expected(path: Path) -> np.ndarray:
    """Return the normalised feature of a photo."""
    pixels = load_pixels(path, CONFIG.model.image_size).transpose(2, 0, 1)
    return normalize_rows(MeanColour().pixels(pixels[None]))[0]


def check(index: Path, photos) -> PhotoIndex:
    """Check that an index holds these photos, each with its own feature, and nothing else."""
    found = PhotoIndex(index)
    assert sorted(found.photos) == sorted(photos)
    for row, path in enumerate(found.photos):
        np.testing.assert_allclose(found.features[row], expected(path), atol=1e-3)
    return found
