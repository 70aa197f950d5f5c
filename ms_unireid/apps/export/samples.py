"""Sample inputs for the comparison of exported files: eight pictures and captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from ms_unireid.apps.synthetic.captions import write_caption
from ms_unireid.apps.synthetic.drawing import draw_photo, draw_sketch, draw_view
from ms_unireid.apps.synthetic.figure import Figure
from ms_unireid.apps.synthetic.person import draw_people
from ms_unireid.config import Config
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import DataError

COUNT = 8
_SPLIT, _SEED = "test", 1


@dataclass(frozen=True)
class Samples:
    """Inputs of both encoders: images (8, 3, H, W) float32, token_ids (8, L) int32, and where they are from."""

    source: str
    images: np.ndarray
    token_ids: np.ndarray


def find_samples(config: Config, pictures: Sequence[Path] = ()) -> Samples:
    """Take photos, sketches and captions from the config's data set, or draw persons if it cannot be read.

    The first eight of `pictures`, repeated if there are fewer, replace the photos and sketches.

    Raises:
        DataError: If one of `pictures` cannot be read.
    """
    try:
        source, samples, captions = _of_data_set(config)
    except DataError:
        source, samples, captions = _drawn()
    if pictures:
        source, samples = f"pictures given, captions of {source}", [load_picture(path) for path in pictures[:COUNT]]
    images = [evaluation_transform(picture, config.model.image_size) for picture in islice(cycle(samples), COUNT)]
    texts = list(islice(cycle(captions), COUNT))
    return Samples(source, np.stack(images), Tokenizer.of(config.model)(texts))


def _of_data_set(config: Config) -> tuple[str, list[Image.Image], list[str]]:
    data = load_evaluation_set(config.data, _SPLIT)
    if not data.captions:
        raise DataError(f"{config.data.name} has no captions")
    pictures = [load_picture(path) for path in (*_spread(data.photos), *_spread(data.sketches))]
    return f"the {_SPLIT} split of {config.data.name}", pictures, list(data.captions[:COUNT])


def _spread(paths: Sequence[Path]) -> list[Path]:
    """Take `COUNT / 2` files at equal distances."""
    return [paths[i * len(paths) // (COUNT // 2)] for i in range(COUNT // 2)]


def _drawn() -> tuple[str, list[Image.Image], list[str]]:
    photos, sketches, captions = zip(*_draw(), strict=True)
    return "drawn persons", [*photos[::2], *sketches[1::2]], list(captions)


def _draw() -> Iterator[tuple[Image.Image, Image.Image, str]]:
    for number, person in enumerate(draw_people(COUNT, _SEED)):
        rng = np.random.default_rng((_SEED, number))
        view = draw_view(rng, person)
        parts = Figure(person, view.pose).parts()
        yield draw_photo(rng, parts, view), draw_sketch(rng, parts, view).convert("RGB"), write_caption(rng, person)
