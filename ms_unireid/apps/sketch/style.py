"""The base class of the drawing styles, and the steps that several styles share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.ndimage at its first use, which keeps --help quick

from ms_unireid.apps.sketch.pictures import resize

# Lengths in the styles' options are pixels of a drawing of this height, the paper's; other sizes are scaled.
NOMINAL_HEIGHT = 384
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255

# Takes a cut-out uint8 (H, W, 3), its mask float32 (H, W) and random numbers; gives uint8 (H, W), black on white.
DrawFunction = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Style:
    """A way to draw. The fields of a subclass are the options of the style."""

    def versions(self) -> dict[str, str]:
        """Return the versions of packages and files that a drawing depends on."""
        return {}

    def varied(self, rng: np.random.Generator) -> Style:
        """Return the style with randomly changed options, as another person might draw."""
        return self

    def load(self) -> DrawFunction:
        """Check the options and return the function that draws.

        UserError if a package or a file is missing, or an option is out of range.
        """
        raise NotImplementedError


def lightness(cutout: np.ndarray) -> np.ndarray:
    """Return the luma of uint8 (H, W, 3) as float32 (H, W), 0-1."""
    return cutout.astype(np.float32) @ _LUMA


def reveal_edges(light: np.ndarray, mask: np.ndarray, detail: float, outline: float) -> np.ndarray:
    """Lift dark details by the exponent `detail`, and make the person darker than paper by `outline`, 0-1.

    `light`, `mask` and the result are float32 (H, W), 0-1.
    """
    return light**detail * (1 - outline * mask)


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Blur float32 (H, W) with a Gaussian of `sigma` pixels; the border is repeated."""
    return scipy.ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise of mean 0 and deviation 1, float32 of `shape`, that changes over `sigma` pixels."""
    coarse = tuple(max(4, round(side / sigma)) for side in shape)
    noise = resize(rng.standard_normal(coarse, np.float32), shape)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def shift_lines(drawing: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Shift the lines of float32 (H, W) by about `distance` pixels, in directions that change slowly."""
    reach = 12 * drawing.shape[0] / NOMINAL_HEIGHT
    shifts = [distance * smooth_noise(drawing.shape, max(reach, 1), rng) for _ in range(2)]
    places = [axis + shift for axis, shift in zip(np.indices(drawing.shape, np.float32), shifts, strict=True)]
    return scipy.ndimage.map_coordinates(drawing, places, order=1, mode="nearest")


def to_uint8(drawing: np.ndarray) -> np.ndarray:
    """Turn float32 (H, W), 0 black to 1 white, into uint8."""
    return np.rint(drawing * 255).clip(0, 255).astype(np.uint8)
