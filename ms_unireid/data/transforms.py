"""Pictures to arrays: evaluation pixels equal to PIL's, and the authors' training augmentation.

MindCV's transforms are not used: its erasing keeps a private random state, which a resumed run cannot restore.
"""

import math
from collections.abc import Callable
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


def resize(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Resize an RGB picture to (H, W) with PIL's antialiased bilinear filter; uint8 (H, W, 3)."""
    height, width = image_size
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def load_pixels(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Decode a picture file as `load_picture` and resize it to (H, W); uint8 (H, W, 3)."""
    return resize(load_picture(path), image_size)


def normalize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Scale uint8 (H, W, 3) to 0-1 and normalise with CLIP's statistics: float32 (3, H, W), in `out` if given."""
    out = np.empty((3, *pixels.shape[:2]), np.float32) if out is None else out
    out[...] = pixels.transpose(2, 0, 1)
    out /= np.float32(255)
    out -= MEAN[:, None, None]
    out /= STD[:, None, None]
    return out


def evaluation_transform(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Turn a photo or sketch into the network's input, float32 (3, H, W)."""
    return normalize(resize(picture, image_size))


class TrainTransform:
    """Flip, pad and crop, normalise and erase a photo and its sketch at random."""

    def __init__(self, image_size: tuple[int, int], augment: AugmentConfig):
        self.image_size, self.augment = image_size, augment

    def __call__(
        self,
        photo: np.ndarray,
        sketch: np.ndarray,
        rng: np.random.Generator,
        out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the augmented photo and sketch, each float32 (3, H, W), in `out` if given.

        `photo` and `sketch` are pixels at the training size, uint8 (H, W, 3); `rng` decides everything.
        """
        geometry = self._draw_geometry(rng)
        photo_pixels = self._apply(photo, geometry, out[0])
        if not self.augment.share_geometry:
            geometry = self._draw_geometry(rng)
        sketch_pixels = self._apply(sketch, geometry, out[1])
        return self._erase(photo_pixels, rng), self._erase(sketch_pixels, rng)

    def _draw_geometry(self, rng: np.random.Generator) -> tuple[bool, int, int]:
        flip = rng.random() < self.augment.flip
        top, left = rng.integers(0, 2 * self.augment.pad + 1, 2)
        return flip, int(top), int(left)

    def _apply(self, pixels: np.ndarray, geometry: tuple[bool, int, int], out: np.ndarray | None) -> np.ndarray:
        flip, top, left = geometry
        if flip:
            pixels = pixels[:, ::-1]
        pad = self.augment.pad
        if pad:
            height, width = self.image_size
            padded = np.zeros((height + 2 * pad, width + 2 * pad, 3), np.uint8)
            padded[pad:-pad, pad:-pad] = pixels
            pixels = padded[top : top + height, left : left + width]
        return normalize(pixels, out)

    def _erase(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.augment.erase:
            erase_rectangle(pixels, rng)
        return pixels


def erase_rectangle(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrite a random rectangle of normalised pixels (3, H, W) in place, with CLIP's mean vector.

    Area 2-40 %, aspect log-uniform in 0.3-3.3, at most ten tries. The authors' code does not normalise the fill either:
    it is a light grey.
    """
    _, height, width = pixels.shape
    for _ in range(_ERASE_TRIES):
        area = rng.uniform(*_ERASE_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(_ERASE_ASPECT[0]), math.log(_ERASE_ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            pixels[:, top : top + h, left : left + w] = MEAN[:, None, None]
            return
