"""Eight "persons", each with a colour, a shape and words for both, and a tiny model that finds them.

The towers are random. Least squares solves for the two projections, which takes milliseconds: photos, sketches and
captions of one person get the same direction.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw

from ms_unireid.apps.web.drawing import Drawing, Point, Stroke

IMAGE_SIZE = (96, 32)
PHOTOS = 2  # of each person in the gallery
_TRAINING = range(10, 16)  # numbers of the photos that the model is made from
_SHIFTS = ((0, 0), (2, -3), (-2, 3), (3, 3), (-3, -3))  # so that no two drawings are equal
# Colour, words, and strokes on a sheet of 128 x 384.
PEOPLE: dict[str, tuple[tuple[int, int, int], str, tuple[tuple[Point, ...], ...]]] = {
    "red": ((200, 40, 40), "a tall hat", (((64, 20), (64, 360)),)),
    "green": ((40, 160, 60), "a wide belt", (((8, 192), (120, 192)),)),
    "blue": ((40, 70, 200), "two long scarfs", (((20, 20), (20, 360)), ((108, 20), (108, 360)))),
    "yellow": ((220, 200, 60), "a sash", (((10, 20), (118, 364)),)),
    "purple": ((130, 50, 160), "crossed straps", (((10, 20), (118, 364)), ((118, 20), (10, 364)))),
    "orange": ((230, 130, 40), "a square bag", (((20, 90), (108, 90), (108, 290), (20, 290), (20, 90)),)),
    "brown": ((120, 80, 50), "striped socks", (((10, 330), (118, 330)), ((10, 365), (118, 365)))),
    "grey": ((120, 120, 125), "a pointed hood", (((10, 190), (64, 20), (118, 190)),)),
}


def caption(colour: str, kind: int = 0) -> str:
    """Describe a person in one of two ways."""
    thing = PEOPLE[colour][1]
    return (f"A person in {colour} clothes with {thing}.", f"Somebody with {thing} who wears {colour} clothes.")[kind]


def photo(colour: str, number: int) -> Image.Image:
    """Make a person's photo: the colour with noise, the shape in white."""
    rng = np.random.default_rng([number, *colour.encode()])
    noisy = np.clip(np.array(PEOPLE[colour][0]) + rng.normal(0, 12, (192, 64, 3)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(noisy)
    pen = ImageDraw.Draw(picture)
    for stroke in PEOPLE[colour][2]:
        pen.line([(x / 2, y / 2) for x, y in stroke], fill="white", width=7)
    return picture


def drawing(colour: str, right: float = 0, down: float = 0) -> Image.Image:
    """Draw a person, with the strokes shifted."""
    moved = tuple(Stroke(tuple((x + right, y + down) for x, y in stroke)) for stroke in PEOPLE[colour][2])
    return Drawing(IMAGE_SIZE, moved).render()


def put_gallery(folder: Path) -> Path:
    """Write each person's photos as `COLOUR_NUMBER.png`: number 0 by camera A on 1 May 2024, 1 by B on 2 May."""
    folder.mkdir(parents=True)
    for colour in PEOPLE:
        for number in range(PHOTOS):
            exif = Image.Exif()
            exif[ExifTags.Base.Model] = f"Camera {'AB'[number]}"
            exif[ExifTags.Base.DateTime] = f"2024:05:{number + 1:02} 12:00:00"
            photo(colour, number).save(folder / f"{colour}_{number}.png", exif=exif)
    return folder


def make_checkpoint(path: Path) -> Path:
    """Make the model from photos outside the gallery, and save it."""
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict
    from ms_unireid.data.transforms import evaluation_transform
    from ms_unireid.evaluation.encoder import Encoder
    from ms_unireid.models.unireid import build_model
    from ms_unireid.runtime import prepare

    sizes = ["model.architecture=tiny", f"model.image_size={list(IMAGE_SIZE)}", "model.context_length=24"]
    config = load_config(None, [*sizes, "runtime.device=CPU", "runtime.graph_mode=false"])
    prepare(config.runtime)
    model = build_model(config.model)
    encoder = Encoder(model, config)
    pictures = [[*(drawing(c, *shift) for shift in _SHIFTS), *(photo(c, i) for i in _TRAINING)] for c in PEOPLE]
    pixels = np.stack([evaluation_transform(picture, IMAGE_SIZE) for group in pictures for picture in group])
    captions = [caption(c, kind) for c in PEOPLE for kind in (0, 1)]
    _solve(model.base_model.visual.proj, lambda: encoder.pixels(pixels))
    _solve(model.base_model.text_projection, lambda: encoder.captions(captions))
    save_checkpoint(path, model.get_parameters(), {"config": to_dict(config)})
    return path


def _solve(projection, encode: Callable[[], np.ndarray]) -> None:
    """Solve for a projection (W, D) that gives all examples of a person, which are consecutive, the same direction."""
    from mindspore import Tensor

    width, dim = projection.shape
    windows = []
    for start in range(0, width, dim):  # with this projection the encoder returns a window of its input
        projection.set_data(Tensor(np.eye(width, dim, -start, dtype=np.float32)))
        windows.append(encode())
    inputs = np.concatenate(windows, axis=1)[:, :width]
    wanted = np.repeat(np.eye(len(PEOPLE), dim), len(inputs) // len(PEOPLE), axis=0)
    ridge = 1e-2 * np.eye(width)
    solved = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted)
    projection.set_data(Tensor(solved.astype(np.float32)))
