"""Ranked lists of a search as a picture, optionally with heat maps of the model's attention."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from ms_unireid.apps.search.queries import Hit, Query, read_query_picture
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.data.pictures import load_picture
from ms_unireid.evaluation.figures import RankedList, Result, draw_lists

_LABEL_CHARACTERS = 8
_COLOURS = colormaps["inferno"]
_OPACITY = 0.55


def draw_search(
    searcher: Searcher,
    queries: Sequence[Query],
    ranked_lists: Sequence[Sequence[Hit]],
    path: Path,
    heat_map: bool = False,
) -> None:
    """Draw the ranked list of each query.

    Args:
        searcher: The searcher that answered.
        queries: The queries.
        ranked_lists: The hits of each.
        path: PNG, JPEG or PDF to write.
        heat_map: Show attention rollout over each photo; bright is high.

    Raises:
        DataError: If a photo is missing.
        QueryError: If a picture of a query cannot be read.
        UserError: If the file cannot be written.
    """
    lists = [_ranked(searcher, query, hits, heat_map) for query, hits in zip(queries, ranked_lists, strict=True)]
    columns = max(1, *(len(hits) for hits in ranked_lists))
    title = "Query and top results, with cosine similarities"
    draw_lists(lists, path, f"{title}; bright: high attention of the model" if heat_map else title, columns)


def heat_picture(searcher: Searcher, photo: Path) -> Image.Image:
    """Blend a photo with its heat map; mode RGB, the photo's size.

    Raises:
        DataError: If the photo cannot be read.
    """
    picture = load_picture(photo)
    heat = searcher.heat_map(picture)
    relative = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    coloured = Image.fromarray((255 * _COLOURS(relative)[..., :3]).astype(np.uint8))
    return Image.blend(picture, coloured.resize(picture.size, Image.Resampling.BICUBIC), _OPACITY)


def _ranked(searcher: Searcher, query: Query, hits: Sequence[Hit], heat_map: bool) -> RankedList:
    photo = searcher.index.path(query.photo) if isinstance(query.photo, int) else query.photo
    pictures = query.sketches if photo is None else [photo]
    results = [
        Result(heat_picture(searcher, hit.path) if heat_map else hit.path, f"{hit.rank}: {hit.score:.2f} {_label(hit)}")
        for hit in hits
    ]
    kinds = "+".join("T" * bool(query.texts) + "S" * bool(query.sketches)) or "photo"
    return RankedList(query.name or f"{kinds}->R", " / ".join(query.texts), _side_by_side(pictures), results)


def _side_by_side(pictures: Sequence[Path | Image.Image]) -> Image.Image | None:
    if not pictures:
        return None
    read = [read_query_picture(picture) for picture in pictures]
    height = max(picture.height for picture in read)
    scaled = [picture.resize((max(1, picture.width * height // picture.height), height)) for picture in read]
    sheet = Image.new("RGB", (sum(picture.width for picture in scaled), height), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def _label(hit: Hit) -> str:
    return f"id {hit.person}" if hit.person is not None else hit.path.stem[:_LABEL_CHARACTERS]
