"""One photo after the other through a recipe: read, mask, cut out, draw."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ms_unireid.apps.sketch.background import Masker
from ms_unireid.apps.sketch.pictures import LEAST_COVER, cut_out, read_photo, resize
from ms_unireid.apps.sketch.recipe import Recipe

KEPT_WHOLE = "the mask showed nobody; the whole photo was kept"


@dataclass(frozen=True)
class CutOut:
    """A person on white, at the size of the sketch.

    Attributes:
        picture: uint8 (H, W, 3).
        mask: Opacity, float32 (H, W), 0-1.
        note: What went otherwise than usual, or nothing.
    """

    picture: np.ndarray
    mask: np.ndarray
    note: str = ""


class Artist:
    """Makes sketches by a recipe; networks are loaded at the first photo, in the process that uses them.

    Args:
        recipe: What to do.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    @cached_property
    def _masker(self) -> Masker:
        return self.recipe.masking.load()

    @cached_property
    def _pen(self):
        return self.recipe.drawing.load()

    def prepare(self) -> None:
        """Load networks and check parameters now.

        Raises:
            UserError: If a package or a file is missing, or a parameter makes no sense.
        """
        _ = self._masker, self._pen

    def cut_out(self, photo: Path, name: str) -> CutOut:
        """Read a photo and take its background away; where the mask finds nobody, all of it is kept.

        Raises:
            DataError: If the photo or its mask cannot be read.
        """
        pixels = read_photo(photo)
        mask, note = self._masker(pixels, name), ""
        if mask.mean() < LEAST_COVER:
            mask, note = np.ones_like(mask), KEPT_WHOLE
        mask = resize(mask, self.recipe.size).clip(0, 1)
        return CutOut(cut_out(resize(pixels, self.recipe.size), mask), mask, note)

    def draw(self, cut: CutOut, name: str, variation: int = 1) -> np.ndarray:
        """Draw a cut-out: uint8 (H, W).

        Args:
            cut: What to draw.
            name: The photo's relative name; with seed and variation it decides the random draws.
            variation: 1 is the style as given, each further one another hand.

        Raises:
            DataError: If a program that draws fails.
        """
        digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
        rng = np.random.default_rng((self.recipe.seed, variation, int.from_bytes(digits, "big")))
        pen = self._pen if variation == 1 else self._varied(rng)
        return pen(cut.picture, cut.mask, rng)

    def _varied(self, rng: np.random.Generator):
        style = self.recipe.drawing.varied(rng)
        return self._pen if style == self.recipe.drawing else style.load()
