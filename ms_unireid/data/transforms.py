"""Pictures to arrays: evaluation pixels equal to PIL's, and the authors' training augmentation (numpy and PIL).

Not MindCV's: its erasing draws from a state of its own, so that a resumed run would erase elsewhere.
"""

import math

import numpy as np
from PIL import Image

from ms_unireid.config import AugmentConfig

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
ERASE_AREA = (0.02, 0.4)
ERASE_ASPECT = (0.3, 3.3)
ERASE_TRIES = 10


def resize(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Resize an RGB picture to exactly (H, W) with PIL's antialiased bilinear filter; uint8 (H, W, 3)."""
    height, width = image_size
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Scale uint8 (H, W, 3) to 0-1, normalise with CLIP's statistics and return float32 (3, H, W)."""
    scaled = (pixels.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def evaluation_transform(picture: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
    """Turn a photo or sketch into the network's input without any randomness; float32 (3, H, W)."""
    return normalize(resize(picture, image_size))


class TrainTransform:
    """Flip, pad and crop, normalise, erase: photo and sketch of a pair, chosen by the generator given.

    Args:
        image_size: Height and width in pixels.
        augment: Probabilities, padding, and whether the pair shares flip and crop.
    """

    def __init__(self, image_size: tuple[int, int], augment: AugmentConfig):
        self.image_size, self.augment = image_size, augment

    def __call__(
        self, photo: Image.Image, sketch: Image.Image, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the augmented photo and sketch, each float32 (3, H, W)."""
        geometry = self._draw_geometry(rng)
        photo_pixels = self._apply(photo, geometry)
        if not self.augment.share_geometry:
            geometry = self._draw_geometry(rng)
        sketch_pixels = self._apply(sketch, geometry)
        return self._erase(photo_pixels, rng), self._erase(sketch_pixels, rng)

    def _draw_geometry(self, rng: np.random.Generator) -> tuple[bool, int, int]:
        flip = rng.random() < self.augment.flip
        top, left = rng.integers(0, 2 * self.augment.pad + 1, 2)
        return flip, int(top), int(left)

    def _apply(self, picture: Image.Image, geometry: tuple[bool, int, int]) -> np.ndarray:
        flip, top, left = geometry
        pixels = resize(picture, self.image_size)
        if flip:
            pixels = pixels[:, ::-1]
        pad = self.augment.pad
        if pad:
            height, width = self.image_size
            padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))
            pixels = padded[top : top + height, left : left + width]
        return normalize(pixels)

    def _erase(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.augment.erase:
            erase_rectangle(pixels, rng)
        return pixels


def erase_rectangle(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrite a random rectangle of normalised pixels (3, H, W) in place.

    Area 2-40 %, aspect log-uniform in 0.3-3.3, at most ten tries. The fill is the CLIP mean vector although the
    pixels are normalised already: so do the authors, and it is a light grey rather than the mean colour.
    """
    _, height, width = pixels.shape
    for _ in range(ERASE_TRIES):
        area = rng.uniform(*ERASE_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            pixels[:, top : top + h, left : left + w] = MEAN[:, None, None]
            return
