"""Pictures to arrays: evaluation pixels equal to PIL's, and the authors' training augmentation; clauses of captions.

Batches hold planes of uint8, a quarter to a third of the normalised pictures; the model normalises them by
`NormalizedPixels`, to the same bits as `normalize`. A plane behind the colours marks what is erased.

MindCV's transforms are not used: its erasing keeps a private random state, which a resumed run cannot restore.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from PIL import Image

from ms_unireid.config import AugmentConfig
from ms_unireid.data.pictures import load_picture

# Returns a picture file's pixels at the network's size, uint8 (H, W, 3): `load_pixels` or a `DecodedCache`.
PixelLoader = Callable[[Path], np.ndarray]

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_ERASE_AREA = (0.02, 0.4)
_ERASE_ASPECT = (0.3, 3.3)
_ERASE_TRIES = 10
# "a red and white shirt" is no place to cut.
BETWEEN_CLAUSES = re.compile(r"(?<=[,.;])\s+|\s+(?=and\s+(?:an?|the|he|she|is|has|wears|carries)\s)")


def resize(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Resize an RGB picture to (H, W) with PIL's antialiased bilinear filter; uint8 (H, W, 3)."""
    height, width = image_size
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def load_pixels(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Decode a picture file as `load_picture` and resize it to (H, W); uint8 (H, W, 3)."""
    return resize(load_picture(path), image_size)


def normalize(planes: np.ndarray) -> np.ndarray:
    """Scale uint8 (..., 3, H, W) to 0-1 and normalise with CLIP's statistics: float32 of the same shape.

    Where a fourth plane is not 0, CLIP's mean vector is filled in. The authors' code does not normalise this fill: it
    is a light grey.
    """
    pixels = planes[..., :3, :, :].astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= MEAN[:, None, None]
    pixels /= STD[:, None, None]
    if planes.shape[-3] == 4:
        np.copyto(pixels, MEAN[:, None, None], where=planes[..., 3:, :, :] != 0)
    return pixels


def evaluation_transform(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Turn a photo or sketch into the network's input, float32 (3, H, W)."""
    return normalize(resize(picture, image_size).transpose(2, 0, 1))


def drop_clauses(caption: str, probability: float, rng: np.random.Generator) -> str:
    """Leave out clauses of a caption, each with this probability but one drawn at random, which stays.

    A clause ends at a comma, full stop or semicolon before a blank, or before an "and" that an article, "he", "she" or
    a common verb follows. The others keep their order; an "and" that comes first goes as well. A caption of one clause
    stays as it is.
    """
    clauses = [clause for clause in BETWEEN_CLAUSES.split(caption.strip()) if re.search(r"\w", clause)]
    if len(clauses) < 2:
        return caption
    kept = rng.random(len(clauses)) >= probability
    kept[rng.integers(len(clauses))] = True
    return " ".join(compress(clauses, kept)).removeprefix("and ")


class TrainTransform:
    """Flip, pad, crop and erase a photo and the pictures that go with it at random."""

    def __init__(self, image_size: tuple[int, int], augment: AugmentConfig):
        self.image_size, self.augment = image_size, augment

    def __call__(
        self,
        pictures: Sequence[np.ndarray],
        rng: np.random.Generator,
        out: Sequence[np.ndarray],
    ) -> None:
        """Fill `out`, places of zeros for the photo and the others, uint8 (4, H, W): see `normalize`.

        `pictures` are pixels at the training size, uint8 (H, W, 3), the photo first; `rng` decides everything.
        """
        geometry = None
        for pixels, planes in zip(pictures, out, strict=True):
            if geometry is None or not self.augment.share_geometry:
                geometry = self._draw_geometry(rng)
            self._place(pixels, geometry, planes)
        for planes in out:
            if rng.random() < self.augment.erase:
                erase_rectangle(planes[3], rng)

    def _draw_geometry(self, rng: np.random.Generator) -> tuple[bool, int, int]:
        flip = rng.random() < self.augment.flip
        # One by one: the same numbers as two at once, in half the time, which holds Python's lock.
        top, left = (int(rng.integers(0, 2 * self.augment.pad + 1)) for _ in range(2))
        return flip, top, left

    def _place(self, pixels: np.ndarray, geometry: tuple[bool, int, int], out: np.ndarray) -> None:
        """Copy what the crop at (top, left) of the padded picture shows; the rest of `out` stays black."""
        flip, top, left = geometry
        if flip:
            pixels = pixels[:, ::-1]
        (height, width), down, right = self.image_size, top - self.augment.pad, left - self.augment.pad
        seen = pixels[_overlap(height, down), _overlap(width, right)]
        out[:3, _overlap(height, -down), _overlap(width, -right)] = seen.transpose(2, 0, 1)


def _overlap(size: int, move: int) -> slice:
    """Return what a window of the same size, moved by so much, shows of a line of pixels."""
    return slice(max(0, move), max(0, min(size, size + move)))


def erase_rectangle(erased: np.ndarray, rng: np.random.Generator) -> None:
    """Set a random rectangle of a plane (H, W) to 1: area 2-40 %, aspect log-uniform in 0.3-3.3, at most ten tries."""
    height, width = erased.shape
    for _ in range(_ERASE_TRIES):
        area = rng.uniform(*_ERASE_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(_ERASE_ASPECT[0]), math.log(_ERASE_ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            erased[top : top + h, left : left + w] = 1
            return
