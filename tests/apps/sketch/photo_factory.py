"""Photos for the sketch tests: a drawn pedestrian of any size, its mask, and a folder of both."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def person(size: tuple[int, int] = (60, 160)) -> Image.Image:
    """Return a dark-trousered figure in front of a grey wall on a bright pavement, RGB; size is width, height."""
    big = Image.new("RGB", (120, 320), (150, 150, 145))
    draw = ImageDraw.Draw(big)
    draw.rectangle((0, 250, 120, 320), (190, 188, 180))
    draw.ellipse((46, 18, 74, 54), (205, 160, 130))
    draw.rectangle((34, 56, 86, 160), (170, 40, 50))
    draw.rectangle((22, 60, 33, 150), (170, 40, 50))
    draw.rectangle((87, 60, 98, 150), (170, 40, 50))
    draw.rectangle((38, 161, 57, 292), (25, 28, 35))
    draw.rectangle((63, 161, 82, 292), (25, 28, 35))
    return big.resize(size, Image.Resampling.BICUBIC)


def person_mask(size: tuple[int, int] = (60, 160)) -> Image.Image:
    """Return the true mask of `person`, L."""
    pixels = np.asarray(person((120, 320)), int)
    empty = [(150, 150, 145), (190, 188, 180)]
    inside = ~np.any([(np.abs(pixels - np.array(colour)).max(axis=2) < 8) for colour in empty], axis=0)
    return Image.fromarray((inside * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def photo_folder(root: Path, count: int = 6) -> Path:
    """Write slightly different photos `cam/0.png`... and their masks below `root`; return the photo folder."""
    for i in range(count):
        for kind, picture in (("photos", person((60 + i, 160))), ("masks", person_mask((60 + i, 160)))):
            (root / kind / "cam").mkdir(parents=True, exist_ok=True)
            picture.save(root / kind / "cam" / f"{i}.png")
    return root / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
