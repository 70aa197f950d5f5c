"""The style `pencil`: dodge-and-burn lines, and hatching on dark clothes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ms_unireid.apps.sketch.style import (
    NOMINAL_HEIGHT,
    Style,
    blur,
    lightness,
    reveal_edges,
    shift_lines,
    smooth_noise,
    to_uint8,
)
from ms_unireid.errors import ConfigError

_FLOOR = 0.06  # keeps the noise of black clothes from becoming lines
_FAINT, _PAPER = 0.25, 0.97  # ratios of lightness that become black and white


@dataclass(frozen=True)
class Pencil(Style):
    """Divides each pixel by its blurred surroundings: darker pixels become lines. Dark areas are hatched.

    Attributes:
        thickness: Thickness of the lines, in pixels of a drawing 384 high.
        darkness: Darkness of the lines; 1 is the plain ratio.
        detail: Exponent of the lightness; below 1 it lifts the details of dark clothes.
        outline: How much darker than paper the person must at least be, 0-1, so that white clothes get an outline.
        tone: Strength of the hatching, 0-1.
        tone_below: Lightness below which hatching starts, 0-1.
        hatch_distance: Distance between two hatching strokes, in pixels of a drawing 384 high.
        hatch_angle: Angle of the hatching strokes, in degrees.
        wander: How far lines are shifted at random, in pixels of a drawing 384 high.
    """

    thickness: float = 2.6
    darkness: float = 2.0
    detail: float = 0.6
    outline: float = 0.35
    tone: float = 0.7
    tone_below: float = 0.62
    hatch_distance: float = 5.0
    hatch_angle: float = 62.0
    wander: float = 0.0

    def varied(self, rng: np.random.Generator) -> Pencil:
        """Return the style with other lines and hatching, and a less steady hand."""
        return replace(
            self,
            thickness=self.thickness * float(rng.uniform(0.75, 1.4)),
            darkness=self.darkness * float(rng.uniform(0.75, 1.35)),
            tone=min(1.0, self.tone * float(rng.uniform(0.6, 1.25))),
            tone_below=min(1.0, self.tone_below * float(rng.uniform(0.85, 1.1))),
            hatch_distance=self.hatch_distance * float(rng.uniform(0.85, 1.3)),
            hatch_angle=self.hatch_angle + float(rng.uniform(-30, 60)),
            wander=self.wander + float(rng.uniform(0.5, 1.6)),
        )

    def load(self) -> Pencil:
        """Check the options; ConfigError if an option is out of range."""
        if min(self.thickness, self.darkness, self.detail, self.hatch_distance) <= 0 or not 0 <= self.tone <= 1:
            raise ConfigError(
                "the style pencil: thickness, darkness, detail and hatch_distance must be above 0, tone from 0 to 1"
            )
        return self

    def __call__(self, cutout: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a cut-out: uint8 (H, W, 3) and float32 (H, W) to uint8 (H, W)."""
        unit = cutout.shape[0] / NOMINAL_HEIGHT
        light = lightness(cutout)
        lines = self._lines(reveal_edges(light, mask, self.detail, self.outline), unit)
        lines = 1 - (1 - lines) * np.minimum(2 * mask, 1)  # no specks where the photo fades
        drawing = lines * (1 - self.tone * self._hatching(light, mask, unit, rng))
        if self.wander:
            drawing = shift_lines(drawing, self.wander * unit, rng)
        return to_uint8(drawing)

    def _lines(self, light: np.ndarray, unit: float) -> np.ndarray:
        ratio = (light + _FLOOR) / (blur(light, self.thickness * unit) + _FLOOR)
        return np.clip((ratio - _FAINT) / (_PAPER - _FAINT), 0, 1) ** self.darkness

    def _hatching(self, light: np.ndarray, mask: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
        """Return the ink of the hatching, float32 (H, W), 0-1: wider and firmer strokes where the photo is darker."""
        dark = np.clip((self.tone_below - blur(light, unit)) / max(self.tone_below, 0.1), 0, 1) * mask
        angle = np.deg2rad(self.hatch_angle)
        y, x = np.indices(light.shape, np.float32)
        along = x * np.float32(np.sin(angle)) + y * np.float32(np.cos(angle))
        along = along / (self.hatch_distance * unit) + 0.25 * smooth_noise(light.shape, 32 * unit, rng)
        from_stroke = np.abs(along % 1 * 2 - 1)
        pressed = dark * (1.0 + 0.15 * smooth_noise(light.shape, 6 * unit, rng)) - from_stroke
        return np.clip(pressed / 0.35, 0, 1) * (0.25 + 0.75 * dark)
