"""Draws docs/pictures/datasets.png: of each data set a row of drawn people, with the names that its files have.

python docs/pictures/datasets.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout; not needed after `pip install .`

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ms_unireid.apps.synthetic import drawing
from ms_unireid.apps.synthetic.figure import Figure
from ms_unireid.apps.synthetic.person import draw_infrared_greys, draw_people

LEFT, COLUMN, PICTURE, TITLE, ROW = 8, 131, (76, 156), 42, 256  # pixels
AFTERNOON = "test/0627/\n0627_010_05_0303\nafternoon_1591_0.jpg"
# Of each data set what is particular, and its pictures: person, pose, kind, name, and the size where it differs.
ROWS = {
    "CUHK-PEDES: photos from 13 x 34 to 374 x 800 pixels, .jpg, .png and .bmp. A sketch has the path of its photo.": (
        (0, 0, "photo", "imgs/\nCUHK01/0363004.png", (60, 160)),
        (0, 0, "sketch", "imgs-sketch2/\nCUHK01/0363004.png"),
        (1, 0, "photo", "imgs/*/*\nthe smallest, 13 x 34", (13, 34)),
        (2, 0, "photo", "imgs/*/*\nthe largest, 374 x 800", (374, 800)),
        (3, 0, "photo", "imgs/*/*.jpg.jpg\nsome are called so"),
    ),
    "ICFG-PEDES: the folder is not the split: the photo in test/ is one of train. One caption a photo, no val split.": (
        (4, 0, "photo", f"imgs/{AFTERNOON}"),
        (4, 0, "sketch", f"imgs-sketch/{AFTERNOON}"),
        (4, 1, "photo", "imgs/*/*/\n*morning*.jpg"),
        (4, 2, "photo", "imgs/*/*/\n*noon*.jpg"),
    ),
    "RSTPReid: five photos a person; c14 is the camera. Some captions have CJK characters or fragments of code.": (
        (5, 0, "photo", "imgs/\n0000_c14_0029.jpg"),
        (5, 0, "sketch", "imgs-sketch/\n0000_c14_0029.jpg"),
        *((5, pose, "photo", "imgs/0000_c*.jpg") for pose in (1, 2, 3, 4)),
    ),
    "PKU-Sketch: one sketch and two photos a person, of two cameras; five styles of drawing. No captions.": (
        (6, 0, "sketch", "sketch/1.jpg"),
        (6, 1, "photo", "photo/1_05_356.jpg"),
        (6, 2, "photo", "photo/\n1_CAMERA_FRAME.jpg"),
        (7, 0, "pencil", "sketch/ID.jpg"),
        (7, 1, "photo", "photo/\nID_CAMERA_FRAME.jpg"),
        (7, 2, "photo", "photo/\nID_CAMERA_FRAME.jpg"),
    ),
    "Market-Sketch-1K: sketches by six artists, A to F; not every one drew every person: F 497 of 498 of train.": (
        (8, 0, "photo", "photo/train/\n0002_c1s1_000451\n_03.jpg"),
        *(
            (8, pose, ("pencil", "sketch", "lines")[pose % 3], f"sketch/{artist}/train/\n0002*")
            for pose, artist in enumerate("ABCDEF", 1)
        ),
    ),
    "ORBench: infrared, colour pencil and sketches belong to a person, not to a photo. Every photo has a caption.": (
        (9, 0, "photo", "vis/0001/*.jpg"),
        (9, 1, "photo", "vis/0001/*.jpg"),
        (9, 2, "infrared", "nir/0001/*"),
        (9, 3, "infrared", "nir/0001/*"),
        (9, 4, "colours", "cp/0001/*"),
        (9, 5, "sketch", "sk/0001/*"),
    ),
}
PEOPLE = draw_people(10, seed=5)


def draw(number: int, pose: int, kind: str) -> Image.Image:
    """Draw a person; the same pose has the same photo and the sketches of it."""
    person, rng = PEOPLE[number], np.random.default_rng((number, pose))
    view = drawing.draw_view(rng, person)
    parts = Figure(person, view.pose).parts()
    photo = drawing.draw_photo(rng, parts, view)
    match kind:
        case "photo":
            return photo
        case "sketch":
            return drawing.draw_sketch(rng, parts, view)
        case "colours":
            return drawing.draw_colour_pencil(rng, person)
        case "infrared":
            return drawing.draw_infrared(rng, person, draw_infrared_greys(np.random.default_rng(number)))
    return drawing.draw_from_photo(rng, photo, parts, view, kind)


def main() -> None:
    """Draw the rows one below the other, in 128 colours."""
    sheet = Image.new("RGB", (LEFT + 7 * COLUMN, ROW * len(ROWS)), "white")
    pen, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(11.5)
    for row, (title, pictures) in enumerate(ROWS.items()):
        pen.text((LEFT, row * ROW + 14), title, "black", large)
        for column, (number, pose, kind, name, *size) in enumerate(pictures):
            place = (LEFT + column * COLUMN, row * ROW + TITLE)
            picture = draw(number, pose, kind).resize(*size or [drawing.SIZE])
            sheet.paste(ImageOps.contain(picture, PICTURE, Image.Resampling.BOX), place)
            pen.text((place[0], place[1] + PICTURE[1] + 4), name, "black", small)
    sheet.quantize(128, dither=Image.Dither.NONE).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
