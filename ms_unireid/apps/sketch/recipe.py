"""How sketches are made: background removal, style, size and seed, as `sketches.json` records them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ms_unireid.apps.optional import versions
from ms_unireid.apps.sketch.background import BACKGROUNDS, Background
from ms_unireid.apps.sketch.external import CommandStyle, OnnxStyle
from ms_unireid.apps.sketch.lines import Lines
from ms_unireid.apps.sketch.pencil import Pencil
from ms_unireid.apps.sketch.style import Style
from ms_unireid.config import overridden
from ms_unireid.errors import ConfigError

STYLES: dict[str, Style] = {"pencil": Pencil(), "lines": Lines(), "onnx": OnnxStyle(), "command": CommandStyle()}
DEFAULT_SIZE = (384, 128)  # height and width that the paper's model reads
_DRAWING_VERSION = 1  # raise when the same recipe gives other pixels
_SMALLEST, _LARGEST = 16, 4096


@dataclass(frozen=True)
class Recipe:
    """Everything that a sketch depends on besides its photo.

    Attributes:
        background: A name in ``BACKGROUNDS``.
        style: A name in ``STYLES``.
        masking: That background with its options.
        drawing: That style with its options.
        size: Height and width of the sketches in pixels; photos are stretched to it, as in training.
        variations: Sketches of each photo; the first is the style as given.
        seed: Seed of all random draws; not negative.
    """

    background: str
    style: str
    masking: Background
    drawing: Style
    size: tuple[int, int] = DEFAULT_SIZE
    variations: int = 1
    seed: int = 1

    def __post_init__(self):
        """Raise ConfigError for values out of range."""
        if not all(_SMALLEST <= side <= _LARGEST for side in self.size):
            raise ConfigError(f"sketch size {list(self.size)}: expected height and width of {_SMALLEST} to {_LARGEST}")
        if self.variations < 1 or self.seed < 0:
            raise ConfigError("sketches: variations must be at least 1 and the seed not negative")

    def to_json(self) -> dict[str, Any]:
        """Return the recipe with the versions of all that its sketches depend on."""
        return {
            "background": {"name": self.background, **asdict(self.masking)},
            "style": {"name": self.style, **asdict(self.drawing)},
            "size": list(self.size),
            "variations": self.variations,
            "seed": self.seed,
            "versions": {
                "drawing": _DRAWING_VERSION,
                **versions(("numpy", "pillow", "scipy")),
                **self.masking.versions(),
                **self.drawing.versions(),
            },
        }

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of `to_json` without the number of variations."""
        decisive = {key: value for key, value in self.to_json().items() if key != "variations"}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def make_recipe(
    background: str = "mediapipe",
    style: str = "pencil",
    background_options: Sequence[str] = (),
    style_options: Sequence[str] = (),
    **others: Any,
) -> Recipe:
    """Make a recipe from names, options in the form `key=value`, and `size`, `variations` and `seed`.

    ConfigError for an unknown name or key, or a wrong value.
    """
    masking, drawing = _named(background, BACKGROUNDS, "background"), _named(style, STYLES, "style")
    return Recipe(
        background,
        style,
        overridden(masking, {}, f"the background {background}", background_options),
        overridden(drawing, {}, f"the style {style}", style_options),
        **others,
    )


def _named(name: str, known: dict[str, Any], what: str) -> Any:
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}; expected one of {', '.join(known)}")
    return known[name]
