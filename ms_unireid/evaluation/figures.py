"""Ranked lists as pictures (as in Figure 4), for training, evaluation and search; a curve for missing modalities.

A row shows the query and its best results; matches are framed green, other persons red, unknown ones grey.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.data.pictures import load_picture, save_figure
from ms_unireid.evaluation.metrics import ranked_list
from ms_unireid.evaluation.protocols import Results
from ms_unireid.evaluation.queries import (
    NO_INDEX,
    SplitFeatures,
    TaskQueries,
    make_queries,
    queries_and_gallery,
    tasks_of,
)
from ms_unireid.modalities import symbol

CELL = (72, 168)
FRAME, GAP, LABEL, QUERY_WIDTH, TITLE = 4, 8, 16, 240, 28
HIT, MISS, UNKNOWN, INK = (22, 150, 60), (205, 40, 40), (150, 150, 150), (30, 30, 30)
_COLOURS = "green: the person, red: someone else"
_LEFT_OUT = "; the query's source photo is left out"
_SKETCH_SHARE = 0.9  # of a result's size
_ROWS_OF_TEXT = 12


@dataclass(frozen=True)
class Result:
    """A photo of a ranked list, and the label below it; `hit` is None if its person is unknown."""

    picture: Image.Image | Path
    label: str
    hit: bool | None = None


@dataclass(frozen=True)
class RankedList:
    """A query, of text or a sketch or both, and its results, best first."""

    title: str
    text: str
    sketch: Image.Image | Path | None
    results: Sequence[Result]


def draw_lists(lists: Sequence[RankedList], path: Path, title: str, columns: int) -> None:
    """Draw ranked lists one below the other into a PNG, JPEG or PDF, with room for `columns` results in each.

    A picture that cannot be read raises a DataError, a file that cannot be written a UserError.
    """
    strips = [_strip(one, columns) for one in lists]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, TITLE + height * len(strips)), "white")
    ImageDraw.Draw(sheet).text((GAP, GAP), title, INK, _font(12))
    for row, strip in enumerate(strips):
        sheet.paste(strip, (0, TITLE + row * height))
    save_figure(sheet, Path(path))


def draw_ranked_lists(feats: SplitFeatures, data: EvaluationSet, path: Path, count: int = 4, top_k: int = 5) -> None:
    """Draw the ranked lists of `count` sketches, spread evenly over the split, of a caption of each, and of both.

    Without sketches, or where queries are given, they are those of the split's first task.
    """
    joined = len(data.sketches) and not data.given
    sketches = np.unique(np.linspace(0, len(data.sketches) - 1, count).astype(int)) if joined else ()
    rows = [row for sketch in sketches for row in _rows_with(int(sketch), feats)]
    if not rows:
        task = tasks_of(feats)[0]
        rows = [(task, int(row)) for row in np.linspace(0, len(make_queries(task, feats).feats) - 1, count)]
    draw_queries(feats, data, rows, path, "Query and top results", top_k)


def draw_queries(
    feats: SplitFeatures,
    data: EvaluationSet,
    rows: Sequence[tuple[str, int]],
    path: Path,
    title: str,
    top_k: int = 5,
) -> None:
    """Draw the ranked lists of given queries: of each, its task and its row in `make_queries`; see `draw_lists`."""
    queries = {task: make_queries(task, feats) for task in {task for task, _ in rows}}
    lists = [_ranked(feats, data, queries[task], task, query, top_k) for task, query in rows]
    explanation = _COLOURS if feats.caption_photos is None else _COLOURS + _LEFT_OUT
    draw_lists(lists, path, f"{title}; {explanation}", top_k)


def draw_missing_modality(results: Results, path: Path) -> None:
    """Draw R1, mAP and mINP over the share of fusion queries that lack a modality, as PNG, JPEG or PDF.

    `results` are those of the protocol `missing_modality`; a file that cannot be written raises a UserError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain = {name: metrics for (_, name), metrics in results.items() if name.endswith("%")}  # not reranked
    shares = [float(name.split()[1].rstrip("%")) for name in plain]
    figure = Figure(figsize=(6.4, 4), dpi=100, layout="tight")
    axes = figure.add_subplot(
        xlabel="queries without text or without sketch, in percent", ylabel="percent", ylim=(0, 100)
    )
    for name, style in (("R1", "-o"), ("mAP", "--s"), ("mINP", ":^")):
        axes.plot(shares, [getattr(metrics, name) for metrics in plain.values()], style, label=name)
    axes.grid(alpha=0.25)
    axes.legend()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_figure(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]), Path(path))


def rank_query(feats: SplitFeatures, queries: TaskQueries, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank the gallery without the query's source photo: indices best first, and their cosine similarities."""
    return ranked_list(*queries_and_gallery(queries, feats, "exclude_source_photo"), query)


def _rows_with(sketch: int, feats: SplitFeatures) -> list[tuple[str, int]]:
    """Return task and row of the queries of a sketch: by its first caption, by itself and by both."""
    fused = make_queries("fusion", feats)
    rows = np.flatnonzero(fused.sketches == sketch)
    if not len(rows):
        return [("sketch", sketch)]
    return [("text", int(fused.captions[rows[0]])), ("sketch", sketch), ("fusion", int(rows[0]))]


def _ranked(
    feats: SplitFeatures, data: EvaluationSet, queries: TaskQueries, task: str, query: int, top_k: int
) -> RankedList:
    order, scores = rank_query(feats, queries, query)
    person, caption, sketch = (rows[query] for rows in (queries.person_ids, queries.captions, queries.sketches))
    results = [
        Result(
            data.photos[photo],
            f"{rank}: {scores[rank - 1]:.2f} id {data.person_ids[photo]}",
            bool(data.person_ids[photo] == person),
        )
        for rank, photo in enumerate(order[:top_k], 1)
    ]
    text = "" if caption == NO_INDEX else data.captions[caption]
    pictures = [data.sketches[sketch]] if sketch != NO_INDEX else []
    pictures += [data.others[name].paths[rows[query]] for name, rows in queries.others.items()]
    return RankedList(f"{symbol(task)}  id {person}", text, next(iter(pictures), None), results)


def _strip(ranked: RankedList, columns: int) -> Image.Image:
    cell_width, cell_height = CELL[0] + 2 * FRAME, CELL[1] + 2 * FRAME
    size = (QUERY_WIDTH + columns * (cell_width + GAP) + GAP, cell_height + LABEL + GAP)
    strip = Image.new("RGB", size, "white")
    _draw_query(strip, ranked)
    draw = ImageDraw.Draw(strip)
    for place, result in enumerate(ranked.results):
        colour = UNKNOWN if result.hit is None else HIT if result.hit else MISS
        left = QUERY_WIDTH + place * (cell_width + GAP)
        strip.paste(colour, (left, 0, left + cell_width, cell_height))
        strip.paste(_fit(result.picture), (left + FRAME, FRAME))
        draw.text((left, cell_height), result.label, INK if result.hit is None else colour, _font(10))
    return strip


def _draw_query(strip: Image.Image, ranked: RankedList) -> None:
    draw = ImageDraw.Draw(strip)
    draw.text((GAP, 0), ranked.title, INK, _font(12))
    left = GAP
    if ranked.sketch is not None:
        picture = ImageOps.scale(_fit(ranked.sketch), _SKETCH_SHARE)
        strip.paste(picture, (left, 18))
        left += picture.width + GAP
    width = (QUERY_WIDTH - left) // 6
    lines = textwrap.wrap(" ".join(ranked.text.split()), width, max_lines=_ROWS_OF_TEXT, placeholder=" ...")
    draw.multiline_text((left, 20), "\n".join(lines), INK, _font(11), spacing=2)


def _fit(picture: Image.Image | Path) -> Image.Image:
    return ImageOps.pad(picture if isinstance(picture, Image.Image) else load_picture(picture), CELL, color="white")


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
