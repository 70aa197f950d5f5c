"""A batch as a picture, to look at before a training: the pairs as they are and as the network sees them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import MEAN, STD, normalize
from ms_unireid.evaluation.figures import RankedList, Result, draw_lists
from ms_unireid.training.run_data import RunData


def draw_batch(data: RunData, path: Path, count: int) -> None:
    """Draw `count` pairs of the first batch of the first epoch into a PNG, JPEG or PDF, a row for each.

    A row has the caption as its tokens spell it, in lower case and cut or split as in the training, then the photo and
    each of its pictures, twice: the file, and what the network gets of it, resized, augmented and erased.
    A picture that cannot be read raises a DataError, a file that cannot be written a UserError.
    """
    config, source = data.config, data.source(1)
    batch, (*pictures, token_ids) = source.batches[0], source[0][: source.count + 1]
    tokenizer = Tokenizer.of(config.model, config.data.long_captions)
    names = ("photo", *config.data.modalities)
    rows = []
    for place, number in enumerate(batch[:count]):
        pair, (paths, _) = source.pairs[number], source.drawn(batch, place)
        shown = []
        for name, given, file, planes in zip(names, (True, *pair.pictures), paths, pictures, strict=True):
            label = name if given else f"no {name}"
            shown += [Result(file, label), Result(_seen(planes[place]), "network" if given else "not used")]
        ids = token_ids[place]
        tokens = 1 + int(np.flatnonzero(ids == tokenizer.end_token)[0])
        text = f"{tokenizer.decode(ids)} [{tokens} of {len(ids)} tokens]"
        rows.append(RankedList(f"person {pair.person_id}", text, None, shown))
    height, width = config.model.image_size
    title = f"{len(rows)} of {len(batch)} pairs of the first batch; the network sees {height} x {width} pixels"
    draw_lists(rows, path, title, 2 * source.count)


def _seen(planes: np.ndarray) -> Image.Image:
    """Turn the network's input back into colours: uint8 (4, H, W), as `normalize` takes them, to a picture."""
    colours = normalize(planes) * STD[:, None, None] + MEAN[:, None, None]
    return Image.fromarray((colours.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
