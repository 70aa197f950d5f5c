"""Ranked lists as pictures: the query, its best results, hits framed green and misses red (as in Figure 4)."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.data.pictures import load_picture
from ms_unireid.evaluation.metrics import ranked_list
from ms_unireid.evaluation.questions import NONE, TASK_SYMBOLS, Questions, SplitFeatures, against_gallery, ask
from ms_unireid.files import replacing

CELL = (72, 168)
FRAME, GAP, LABEL, QUERY_WIDTH, TITLE = 4, 8, 16, 240, 28
HIT, MISS, INK = (22, 150, 60), (205, 40, 40), (30, 30, 30)
_COLOURS = "green: the person, red: someone else"
_LEFT_OUT = "; the photo behind the query is left out"


def draw_ranked_lists(feats: SplitFeatures, data: EvaluationSet, path: Path, count: int = 4, top_k: int = 5) -> None:
    """Draw the ranked lists of a few sketches, spread evenly over the split, of a caption beside each, and of both.

    Args:
        feats: Features of the split.
        data: What they are of.
        path: PNG to write.
        count: Sketches.
        top_k: Results shown per query.

    Raises:
        DataError: If a picture cannot be read.
        UserError: If the file cannot be written.
    """
    sketches = np.unique(np.linspace(0, len(data.sketches) - 1, count).astype(int))
    asked = [(task, query) for sketch in sketches for task, query in _queries_with(int(sketch), feats)]
    draw_queries(feats, data, asked, path, "Query and top results", top_k)


def draw_queries(
    feats: SplitFeatures,
    data: EvaluationSet,
    asked: Sequence[tuple[str, int]],
    path: Path,
    title: str,
    top_k: int = 5,
) -> None:
    """Draw the ranked lists of given queries.

    Args:
        feats: Features of the split.
        data: What they are of.
        asked: Task and row of each query, in the order of `ask`.
        path: PNG to write.
        title: What the queries are.
        top_k: Results shown per query.

    Raises:
        DataError: If a picture cannot be read.
        UserError: If the file cannot be written.
    """
    questions = {task: ask(task, feats) for task in dict.fromkeys(task for task, _ in asked)}
    strips = [_strip(feats, data, questions[task], task, query, top_k) for task, query in asked]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, TITLE + height * len(strips)), "white")
    explanation = _COLOURS if feats.caption_photos is None else _COLOURS + _LEFT_OUT
    ImageDraw.Draw(sheet).text((GAP, GAP), f"{title}; {explanation}", INK, _font(12))
    for row, strip in enumerate(strips):
        sheet.paste(strip, (0, TITLE + row * height))
    with replacing(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")


def rank_query(feats: SplitFeatures, questions: Questions, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank the gallery for one query, by the code and in the order of the metrics.

    Returns:
        Gallery indices best first, without the photo behind the query, and their cosine similarities.
    """
    return ranked_list(*against_gallery(questions, feats, "exclude_source_photo"), query)


def _queries_with(sketch: int, feats: SplitFeatures) -> list[tuple[str, int]]:
    """Return task and row of the sketch's query, of the first caption beside it, and of both together.

    The sketch's alone where there is no caption.
    """
    fused = ask("fusion", feats)
    rows = np.flatnonzero(fused.sketches == sketch)
    if not len(rows):
        return [("sketch", sketch)]
    return [("text", int(fused.captions[rows[0]])), ("sketch", sketch), ("fusion", int(rows[0]))]


def _strip(
    feats: SplitFeatures, data: EvaluationSet, questions: Questions, task: str, query: int, top_k: int
) -> Image.Image:
    order, scores = rank_query(feats, questions, query)
    cell_width, cell_height = CELL[0] + 2 * FRAME, CELL[1] + 2 * FRAME
    size = (QUERY_WIDTH + top_k * (cell_width + GAP) + GAP, cell_height + LABEL + GAP)
    strip = Image.new("RGB", size, "white")
    person = questions.person_ids[query]
    caption, sketch = questions.captions[query], questions.sketches[query]
    _draw_query(
        strip,
        f"{TASK_SYMBOLS[task]}  id {person}",
        "" if caption == NONE else data.captions[caption],
        None if sketch == NONE else data.sketches[sketch],
    )
    draw = ImageDraw.Draw(strip)
    for rank, photo in enumerate(order[:top_k]):
        found = data.person_ids[photo]
        colour = HIT if found == person else MISS
        left = QUERY_WIDTH + rank * (cell_width + GAP)
        strip.paste(colour, (left, 0, left + cell_width, cell_height))
        strip.paste(_fit(data.photos[photo]), (left + FRAME, FRAME))
        draw.text((left, cell_height), f"{rank + 1}: {scores[rank]:.2f} id {found}", colour, _font(10))
    return strip


def _draw_query(strip: Image.Image, title: str, caption: str, sketch: Path | None) -> None:
    draw = ImageDraw.Draw(strip)
    draw.text((GAP, 0), title, INK, _font(12))
    left = GAP
    if sketch is not None:
        picture = _fit(sketch).resize((CELL[0] * 9 // 10, CELL[1] * 9 // 10))
        strip.paste(picture, (left, 18))
        left += picture.width + GAP
    lines = textwrap.wrap(" ".join(caption.split()), (QUERY_WIDTH - left) // 6, max_lines=12, placeholder=" ...")
    draw.multiline_text((left, 20), "\n".join(lines), INK, _font(11), spacing=2)


def _fit(path: Path) -> Image.Image:
    return ImageOps.pad(load_picture(path), CELL, color="white")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
