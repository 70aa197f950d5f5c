"""The drawing styles by name, and what each of them offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ms_unireid.apps.sketch.external import Command, OnnxDrawing
from ms_unireid.apps.sketch.lines import Lines
from ms_unireid.apps.sketch.pencil import Pencil

# Cut-out uint8 (H, W, 3), opacity float32 (H, W) and random numbers to a sketch, uint8 (H, W), black on white.
Pen = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


class Style(Protocol):
    """A way to draw: a frozen dataclass of its parameters."""

    def versions(self) -> dict[str, str]:
        """Return what a drawing depends on beside the parameters: package versions and file fingerprints."""

    def varied(self, rng: np.random.Generator) -> Style:
        """Return the style of another plausible hand."""

    def load(self) -> Pen:
        """Get ready to draw in this process.

        Raises:
            UserError: If a package or a file is missing, or a parameter makes no sense.
        """


STYLES: dict[str, Style] = {"pencil": Pencil(), "lines": Lines(), "onnx": OnnxDrawing(), "command": Command()}
