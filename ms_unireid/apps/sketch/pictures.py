"""Photos as RGB arrays, masks and sketches as grey ones: reading, resizing, padding, cutting out a person."""

from pathlib import Path

import numpy as np
import scipy
from PIL import Image

from ms_unireid.data.pictures import DECODE_ERRORS, FIX, describe, load_picture, opened, upright
from ms_unireid.errors import DataError

MAX_SIDE = 1024  # pixels; more does not improve masks or sketches
# A pedestrian photo shows a person: a mask that covers a smaller share of it is wrong.
MIN_MASK_COVERAGE = 0.03
_MIN_ISLAND = 0.002  # share of the picture
Size = tuple[int, int]  # height, width


def read_photo(path: Path) -> np.ndarray:
    """Read a photo with `load_picture` as uint8 (H, W, 3), at most ``MAX_SIDE`` pixels a side."""
    return np.asarray(load_picture(path, MAX_SIDE))


def read_sketch(path: Path) -> np.ndarray:
    """Read a sketch as `read_photo` does, as uint8 grey (H, W)."""
    return np.asarray(load_picture(path, MAX_SIDE).convert("L"))


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as uint8 (H, W), upright: its opacity if it has transparency, otherwise its grey.

    DataError as `load_picture`.
    """
    try:
        with opened(path) as picture:
            mask = upright(picture)
            mask = mask.convert("RGBA").getchannel("A") if mask.has_transparency_data else mask.convert("L")
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: {describe(error)}. {FIX}") from error
    mask.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(mask)


def resize(array: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 (H, W, 3) or (H, W), or float32 (H, W), with an antialiased cubic filter."""
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def pad_to(photo: np.ndarray, size: Size, fill: float = 1.0) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Scale uint8 (H, W, 3) to fit into a share `fill` of a size, and repeat its edges to fill the rest.

    Returns:
        uint8 (height, width, 3), and the photo's rows and columns in it.
    """
    height, width = photo.shape[:2]
    scale = min(size[0] / height, size[1] / width) * fill
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    margins = ((top, size[0] - inner[0] - top), (left, size[1] - inner[1] - left), (0, 0))
    place = slice(top, top + inner[0]), slice(left, left + inner[1])
    return np.pad(resize(photo, inner), margins, mode="edge"), place


def opacity(probability: np.ndarray, unsure: float, sure: float) -> np.ndarray:
    """Turn the probability of person into opacity; an uncertain limb of a certain body is kept.

    It rises from 0 at `unsure` to 1 at `sure`. Connected areas that never reach `sure`, and tiny ones, are dropped.

    `probability` and the result are float32 (H, W), 0-1.
    """
    kept = np.clip((probability - unsure) / max(sure - unsure, 1e-6), 0, 1).astype(np.float32)
    islands, count = scipy.ndimage.label(kept > 0, np.ones((3, 3)))
    if count == 0:
        return kept
    area, peak = np.bincount(islands.ravel()), np.zeros(count + 1, np.float32)
    np.maximum.at(peak, islands.ravel(), kept.ravel())
    whole = (area >= _MIN_ISLAND * kept.size) & (peak >= 1)
    whole[0] = False
    return kept * whole[islands]


def put_on_white(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend a photo, uint8 (H, W, 3), with white by its mask, float32 (H, W), 0-1; return uint8 (H, W, 3)."""
    kept = mask[..., None].astype(np.float32)
    return np.rint(photo * kept + 255 * (1 - kept)).clip(0, 255).astype(np.uint8)
