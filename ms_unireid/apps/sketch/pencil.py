"""The style `pencil`: dodge-and-burn lines, and dark clothes shaded by hatching, as artists do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ms_unireid.apps.sketch.strokes import NOMINAL_HEIGHT, lightness, readable, smooth, to_grey, unevenness, wander
from ms_unireid.errors import ConfigError

_FLOOR = 0.06  # keeps the noise of black clothes from becoming lines
_FAINT, _PAPER = 0.25, 0.97  # lightness ratios that become black and white


@dataclass(frozen=True)
class Pencil:
    """Divides each pixel by its surroundings, so that what is darker than these becomes a line, and hatches the dark.

    Attributes:
        thickness: Of the lines, in pixels of a drawing 384 high.
        darkness: Of the lines; 1 is the plain ratio, more burns them darker.
        detail: Exponent of the lightness; below 1 it lifts what dark clothes hide.
        outline: How much darker than paper the person is at least, 0-1: it gives white clothes an outline.
        tone: Strength of the hatching, 0-1.
        tone_below: Lightness under which it begins, 0-1.
        hatch_distance: Between two strokes, in pixels of a drawing 384 high.
        hatch_angle: Of the strokes, in degrees.
        wander: How far the hand strays, in pixels of a drawing 384 high.
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

    def versions(self) -> dict[str, str]:
        """Return nothing beside what every drawing depends on."""
        return {}

    def varied(self, rng: np.random.Generator) -> Pencil:
        """Return another plausible hand: bolder or finer, darker or lighter, hatching another way, less steady."""
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
        """Check the parameters.

        Raises:
            ConfigError: For a value that draws nothing sensible.
        """
        if min(self.thickness, self.darkness, self.detail, self.hatch_distance) <= 0 or not 0 <= self.tone <= 1:
            raise ConfigError(
                "the style pencil: thickness, darkness, detail and hatch_distance must be above 0, tone within 0..1"
            )
        return self

    def __call__(self, cutout: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a cut-out: uint8 (H, W, 3) and float32 (H, W) to uint8 (H, W)."""
        unit = cutout.shape[0] / NOMINAL_HEIGHT
        light = lightness(cutout)
        lines = self._lines(readable(light, mask, self.detail, self.outline), unit)
        lines = 1 - (1 - lines) * np.minimum(2 * mask, 1)  # no specks where the photo fades
        drawing = lines * (1 - self.tone * self._hatching(light, mask, unit, rng))
        if self.wander:
            drawing = wander(drawing, self.wander * unit, rng)
        return to_grey(drawing)

    def _lines(self, light: np.ndarray, unit: float) -> np.ndarray:
        ratio = (light + _FLOOR) / (smooth(light, self.thickness * unit) + _FLOOR)
        return np.clip((ratio - _FAINT) / (_PAPER - _FAINT), 0, 1) ** self.darkness

    def _hatching(self, light: np.ndarray, mask: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
        """Return how much the strokes darken, float32 (H, W), 0-1: the darker, the wider and the firmer."""
        dark = np.clip((self.tone_below - smooth(light, unit)) / max(self.tone_below, 0.1), 0, 1) * mask
        angle = np.deg2rad(self.hatch_angle)
        y, x = np.indices(light.shape, np.float32)
        along = x * np.float32(np.sin(angle)) + y * np.float32(np.cos(angle))
        along = along / (self.hatch_distance * unit) + 0.25 * unevenness(light.shape, 32 * unit, rng)
        from_stroke = np.abs(along % 1 * 2 - 1)
        pressed = dark * (1.0 + 0.15 * unevenness(light.shape, 6 * unit, rng)) - from_stroke
        return np.clip(pressed / 0.35, 0, 1) * (0.25 + 0.75 * dark)
