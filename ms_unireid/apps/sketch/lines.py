"""The style `lines`: edges of a difference of Gaussians, drawn as thin strokes without shading."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy

from ms_unireid.apps.sketch.pictures import resize
from ms_unireid.apps.sketch.style import NOMINAL_HEIGHT, Style, blur, lightness, reveal_edges, shift_lines, to_uint8
from ms_unireid.errors import ConfigError

_DOG_RATIO = 1.6  # of the deviations of the two Gaussians: Marr and Hildreth's approximation of the Laplacian
_SUPERSAMPLING = 2
_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True)
class Lines(Style):
    """Draws the zero crossings of a difference of Gaussians where the edge is strong at both of two scales.

    Attributes:
        scale: Deviation of the finer Gaussian, in pixels of a drawing 384 high; the coarser scale is twice as large.
        faint: Least edge strength of every pixel of a stroke.
        strong: Least edge strength of a stroke's strongest pixel.
        shortest: Least length of a stroke, in pixels of a drawing 384 high.
        width: Width of the strokes, in pixels of a drawing 384 high.
        detail: Exponent of the lightness; below 1 it lifts the details of dark clothes.
        outline: How much darker than paper the person must at least be, 0-1, so that white clothes get an outline.
        wander: How far lines are shifted at random, in pixels of a drawing 384 high.
    """

    scale: float = 1.6
    faint: float = 0.016
    strong: float = 0.045
    shortest: float = 16.0
    width: float = 1.6
    detail: float = 0.7
    outline: float = 0.3
    wander: float = 0.0

    def varied(self, rng: np.random.Generator) -> Lines:
        """Return the style with wider or finer strokes, more or fewer of them, and a less steady hand."""
        amount = float(rng.uniform(0.7, 1.5))
        return replace(
            self,
            scale=self.scale * float(rng.uniform(0.85, 1.3)),
            faint=self.faint * amount,
            strong=self.strong * amount,
            width=self.width * float(rng.uniform(0.8, 1.6)),
            wander=self.wander + float(rng.uniform(0.5, 1.6)),
        )

    def load(self) -> Lines:
        """Check the options; ConfigError if an option is out of range."""
        if min(self.scale, self.width, self.detail, self.faint) <= 0 or self.strong < self.faint:
            raise ConfigError("the style lines: scale, width, detail and faint must be above 0, strong at least faint")
        return self

    def __call__(self, cutout: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a cut-out: uint8 (H, W, 3) and float32 (H, W) to uint8 (H, W)."""
        size = cutout.shape[:2]
        unit = size[0] * _SUPERSAMPLING / NOMINAL_HEIGHT
        light = reveal_edges(lightness(cutout), mask, self.detail, self.outline)
        light = resize(light, (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
        edges, strength = self._edges(light, unit)
        if not edges.any():
            return np.full(size, 255, np.uint8)
        ink = self._strokes(edges, strength, unit)
        drawing = 1 - ink.reshape(size[0], _SUPERSAMPLING, size[1], _SUPERSAMPLING).mean(axis=(1, 3))
        return to_uint8(shift_lines(drawing, self.wander * unit / _SUPERSAMPLING, rng) if self.wander else drawing)

    def _edges(self, light: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of edges, bool (H, W), and the edge strength of every pixel, float32 (H, W)."""
        fine, coarse = (blur(light, self.scale * factor * unit) for factor in (1, 2))
        crossing = _zero_crossings(fine - blur(light, self.scale * _DOG_RATIO * unit))
        strength = np.minimum(_contrast(fine, self.scale * unit), 2 * _contrast(coarse, 2 * self.scale * unit))
        faint = crossing & (strength > self.faint)
        strokes, count = scipy.ndimage.label(faint, _NEIGHBOURS)
        if count == 0:
            return faint, strength
        length, peak = np.bincount(strokes.ravel()), np.zeros(count + 1, np.float32)
        np.maximum.at(peak, strokes[faint], strength[faint])
        kept = (length >= self.shortest * unit) & (peak > self.strong)
        kept[0] = False
        return kept[strokes], strength

    def _strokes(self, edges: np.ndarray, strength: np.ndarray, unit: float) -> np.ndarray:
        """Return the ink along edges, float32 (H, W), 0-1: firmer strokes where the edge is stronger."""
        distance, nearest = scipy.ndimage.distance_transform_edt(~edges, return_indices=True)
        firm = np.clip(0.45 + strength[tuple(nearest)] * 5, 0, 1)
        return np.clip(self.width * unit / 2 - distance + 0.5, 0, 1) * firm


def _zero_crossings(values: np.ndarray) -> np.ndarray:
    positive, crossing = values > 0, np.zeros(values.shape, bool)
    crossing[:, :-1] |= positive[:, :-1] != positive[:, 1:]
    crossing[:-1] |= positive[:-1] != positive[1:]
    return crossing


def _contrast(light: np.ndarray, sigma: float) -> np.ndarray:
    """Return the change of lightness over `sigma` pixels."""
    return np.hypot(scipy.ndimage.sobel(light, 0), scipy.ndimage.sobel(light, 1)) * np.float32(sigma / 8)
