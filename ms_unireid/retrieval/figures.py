"""Ranked lists as pictures: the query, its best results, hits framed green and misses red (as in Figure 4)."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ms_unireid.data.annotations import Annotation
from ms_unireid.data.pictures import load_picture
from ms_unireid.evaluation.metrics import Gallery, Queries, ranked_list
from ms_unireid.evaluation.protocols import TASK_SYMBOLS, SplitFeatures, queries
from ms_unireid.files import replacing

CELL = (72, 168)
FRAME, GAP, LABEL, QUERY_WIDTH, TITLE = 4, 8, 16, 240, 28
HIT, MISS, INK = (22, 150, 60), (205, 40, 40), (30, 30, 30)


def draw_ranked_lists(
    feats: SplitFeatures, annotations: Sequence[Annotation], path: Path, count: int = 4, top_k: int = 5
) -> None:
    """Draw the ranked lists of a few persons, asked by text, by sketch and by both, without the source photo.

    Args:
        feats: Features of the split.
        annotations: The same split's annotations, in the same order.
        path: PNG to write.
        count: Persons, spread evenly over the split.
        top_k: Results shown per query.

    Raises:
        DataError: If a picture cannot be read.
        UserError: If the file cannot be written.
    """
    photos = np.unique(np.linspace(0, len(annotations) - 1, count).astype(int))
    strips = [_strip(feats, annotations, int(photo), task, top_k) for photo in photos for task in TASK_SYMBOLS]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, TITLE + height * len(strips)), "white")
    title = "Query and top results; green: the person, red: someone else; the photo behind the query is left out"
    ImageDraw.Draw(sheet).text((GAP, GAP), title, INK, _font(12))
    for row, strip in enumerate(strips):
        sheet.paste(strip, (0, TITLE + row * height))
    with replacing(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")


def rank_for_photo(feats: SplitFeatures, photo: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Rank the gallery for the query made from one photo (its first caption, its sketch, or both).

    Returns:
        Gallery indices best first, without the photo itself, and their cosine similarities.
    """
    query_feats, photos = queries(task, feats)
    asked = Queries(query_feats, feats.person_ids[photos], photos)
    return ranked_list(asked, Gallery(feats.photo, feats.person_ids), int(np.flatnonzero(photos == photo)[0]))


def _strip(feats: SplitFeatures, annotations: Sequence[Annotation], photo: int, task: str, top_k: int) -> Image.Image:
    order, scores = rank_for_photo(feats, photo, task)
    cell_width, cell_height = CELL[0] + 2 * FRAME, CELL[1] + 2 * FRAME
    shown = min(top_k, len(order))
    size = (QUERY_WIDTH + top_k * (cell_width + GAP) + GAP, cell_height + LABEL + GAP)
    strip = Image.new("RGB", size, "white")
    _draw_query(strip, annotations[photo], task)
    draw = ImageDraw.Draw(strip)
    for rank in range(shown):
        result = annotations[order[rank]]
        hit = result.person_id == annotations[photo].person_id
        left = QUERY_WIDTH + rank * (cell_width + GAP)
        strip.paste(HIT if hit else MISS, (left, 0, left + cell_width, cell_height))
        strip.paste(_fit(result.photo), (left + FRAME, FRAME))
        label = f"{rank + 1}: {scores[rank]:.2f} id {result.person_id}"
        draw.text((left, cell_height), label, HIT if hit else MISS, _font(10))
    return strip


def _draw_query(strip: Image.Image, annotation: Annotation, task: str) -> None:
    draw = ImageDraw.Draw(strip)
    draw.text((GAP, 0), f"{TASK_SYMBOLS[task]}  id {annotation.person_id}", INK, _font(12))
    left = GAP
    if task != "text":
        sketch = _fit(annotation.sketch).resize((CELL[0] * 9 // 10, CELL[1] * 9 // 10))
        strip.paste(sketch, (left, 18))
        left += sketch.width + GAP
    if task != "sketch":
        caption = " ".join(annotation.captions[0].split())
        lines = textwrap.wrap(caption, (QUERY_WIDTH - left) // 6, max_lines=12, placeholder=" ...")
        draw.multiline_text((left, 20), "\n".join(lines), INK, _font(11), spacing=2)


def _fit(path: Path) -> Image.Image:
    return ImageOps.pad(load_picture(path), CELL, color="white")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
