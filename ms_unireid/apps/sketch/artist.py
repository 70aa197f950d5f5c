"""From one photo to its sketches: read it, find the person, put the person on white, draw."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ms_unireid.apps.sketch.background import MaskFunction
from ms_unireid.apps.sketch.pictures import MIN_MASK_COVERAGE, put_on_white, read_photo, resize
from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.apps.sketch.style import DrawFunction

KEPT_WHOLE = "the mask showed nobody; the whole photo was kept"  # stored in sketches: never change the words


@dataclass(frozen=True)
class CutOut:
    """A person on white, at the size of the sketch.

    Attributes:
        picture: uint8 (H, W, 3).
        mask: Opacity of the person, float32 (H, W), 0-1.
        note: A note if the photo is unusual, or "".
    """

    picture: np.ndarray
    mask: np.ndarray
    note: str = ""


class Artist:
    """Makes sketches by a recipe. Networks are loaded at the first photo, in the process that uses them."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    @cached_property
    def _find_person(self) -> MaskFunction:
        return self.recipe.masking.load()

    @cached_property
    def _draw_plain(self) -> DrawFunction:
        return self.recipe.drawing.load()

    def prepare(self) -> None:
        """Check the options and load networks now.

        UserError if a package or a file is missing, or an option is out of range.
        """
        _ = self._find_person, self._draw_plain

    def cut_out(self, photo: Path, name: str) -> CutOut:
        """Read a photo and remove its background; keep the whole photo where the mask finds nobody.

        DataError if the photo or its mask cannot be read.
        """
        pixels = read_photo(photo)
        mask, note = self._find_person(pixels, name), ""
        if mask.mean() < MIN_MASK_COVERAGE:
            mask, note = np.ones_like(mask), KEPT_WHOLE
        mask = resize(mask, self.recipe.size).clip(0, 1)
        return CutOut(put_on_white(resize(pixels, self.recipe.size), mask), mask, note)

    def draw(self, cut: CutOut, name: str, variation: int = 1) -> np.ndarray:
        """Draw a cut-out as uint8 (H, W); variations above 1 change the options of the style at random.

        Seed, photo name and variation decide all random draws.

        Raises:
            DataError: If an external program fails.
        """
        digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
        rng = np.random.default_rng((self.recipe.seed, variation, int.from_bytes(digits, "big")))
        draw = self._draw_plain if variation == 1 else self._draw_varied(rng)
        return draw(cut.picture, cut.mask, rng)

    def _draw_varied(self, rng: np.random.Generator) -> DrawFunction:
        style = self.recipe.drawing.varied(rng)
        return self._draw_plain if style == self.recipe.drawing else style.load()
