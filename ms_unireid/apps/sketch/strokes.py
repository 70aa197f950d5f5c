"""What the drawing styles share: lightness, smoothing, a hand that wanders and a pencil that presses unevenly."""

import numpy as np
from scipy import ndimage

from ms_unireid.apps.sketch.pictures import resize

# Lengths in the styles' parameters are pixels of a drawing of this height, the paper's; others are scaled.
NOMINAL_HEIGHT = 384
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255


def lightness(cutout: np.ndarray) -> np.ndarray:
    """Return the luma of uint8 (H, W, 3) as float32 (H, W), 0-1."""
    return cutout.astype(np.float32) @ _LUMA


def readable(light: np.ndarray, mask: np.ndarray, detail: float, outline: float) -> np.ndarray:
    """Make a photo's lightness fit to find lines in.

    Args:
        light: float32 (H, W), 0-1.
        mask: Opacity of the person, float32 (H, W), 0-1.
        detail: Exponent; below 1 it lifts what dark clothes hide.
        outline: How much darker than paper the person is at least, 0-1: white clothes get an outline as well.
    """
    return light**detail * (1 - outline * mask)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Blur float32 (H, W) with a Gaussian of `sigma` pixels, the border repeated."""
    return ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)


def unevenness(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation 1, float32 of `shape`, that changes over `sigma` pixels."""
    coarse = tuple(max(4, round(side / sigma)) for side in shape)
    noise = resize(rng.standard_normal(coarse, np.float32), shape)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def wander(drawing: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Shift the lines of float32 (H, W) by about `distance` pixels, here one way and there another."""
    reach = 12 * drawing.shape[0] / NOMINAL_HEIGHT
    shifts = [distance * unevenness(drawing.shape, max(reach, 1), rng) for _ in range(2)]
    places = [axis + shift for axis, shift in zip(np.indices(drawing.shape, np.float32), shifts, strict=True)]
    return ndimage.map_coordinates(drawing, places, order=1, mode="nearest")


def to_grey(drawing: np.ndarray) -> np.ndarray:
    """Turn float32 (H, W), 0 black to 1 white, into uint8."""
    return np.rint(drawing * 255).clip(0, 255).astype(np.uint8)
