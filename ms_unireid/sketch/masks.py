"""What to do with a soft person mask: keep rather than cut, drop specks, lay the person on white."""

import numpy as np
from scipy import ndimage

# A pedestrian photo shows a person: a mask of less than this share of it has missed them.
LEAST_COVER = 0.03
_SPECK = 0.002  # of the picture


def opacity(probability: np.ndarray, unsure: float, sure: float) -> np.ndarray:
    """Turn the probability of person into opacity, in favour of the person.

    Below `unsure` is background, above `sure` is person, and between them the photo fades. Islands that are nowhere
    sure, and specks, are dropped: a limb hangs on a body.

    Args:
        probability: float32 (H, W), 0-1.
        unsure: Probability up to which a pixel is background.
        sure: Probability from which on it is kept in full.

    Returns:
        float32 (H, W), 0-1.
    """
    kept = np.clip((probability - unsure) / max(sure - unsure, 1e-6), 0, 1).astype(np.float32)
    islands, count = ndimage.label(kept > 0, np.ones((3, 3)))
    if count == 0:
        return kept
    area, peak = np.bincount(islands.ravel()), np.zeros(count + 1, np.float32)
    np.maximum.at(peak, islands.ravel(), kept.ravel())
    whole = (area >= _SPECK * kept.size) & (peak >= 1)
    whole[0] = False
    return kept * whole[islands]


def cut_out(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay the person on white.

    Args:
        photo: uint8 (H, W, 3).
        mask: float32 (H, W), 0-1.

    Returns:
        uint8 (H, W, 3).
    """
    kept = mask[..., None].astype(np.float32)
    return np.rint(photo * kept + 255 * (1 - kept)).clip(0, 255).astype(np.uint8)
