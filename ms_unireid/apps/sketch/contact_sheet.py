"""A contact sheet: photo, cut-out and sketches of a few random photos, to check before a long run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ms_unireid.apps.sketch.artist import Artist
from ms_unireid.apps.sketch.pictures import read_photo, resize
from ms_unireid.apps.sketch.recipe import Recipe
from ms_unireid.data.pictures import save_figure
from ms_unireid.errors import DataError

_COUNT = 12
_HEIGHT, _GAP, _LABEL = 384, 6, 16


def draw_contact_sheet(photos: Path, names: Sequence[str], recipe: Recipe, path: Path) -> dict[str, str]:
    """Draw 12 photos that the recipe's seed picks, a column each, and write a PNG, JPEG or PDF.

    Returns:
        The reason of each photo that failed, by name; its column stays empty.

    Raises:
        UserError: If the recipe cannot be used, or the sheet cannot be written.
    """
    artist, failures = Artist(recipe), {}
    artist.prepare()
    rng = np.random.default_rng(recipe.seed)
    chosen = sorted(names[int(i)] for i in rng.choice(len(names), min(_COUNT, len(names)), replace=False))
    width = round(recipe.size[1] * _HEIGHT / recipe.size[0])
    rows = 2 + recipe.variations
    sheet = Image.new("RGB", (len(chosen) * (width + _GAP), rows * (_HEIGHT + _GAP) + _LABEL), "white")
    for column, name in enumerate(chosen):
        try:
            strip = _strip(artist, photos / name, name, (_HEIGHT, width))
        except DataError as error:
            failures[name] = str(error)
            continue
        left = column * (width + _GAP)
        for row, picture in enumerate(strip):
            sheet.paste(Image.fromarray(picture), (left, row * (_HEIGHT + _GAP)))
        ImageDraw.Draw(sheet).text((left, sheet.height - _LABEL), Path(name).name, "black", ImageFont.load_default(10))
    save_figure(sheet, path)
    return failures


def _strip(artist: Artist, photo: Path, name: str, size: tuple[int, int]) -> list[np.ndarray]:
    cut = artist.cut_out(photo, name)
    sketches = [artist.draw(cut, name, number) for number in range(1, artist.recipe.variations + 1)]
    return [resize(picture, size) for picture in (read_photo(photo), cut.picture, *sketches)]
