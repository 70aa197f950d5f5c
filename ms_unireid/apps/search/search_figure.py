"""Ranked lists of a search as a picture, optionally with heat maps of the model's attention."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from ms_unireid.apps.search.engines.store import ChangedPhoto
from ms_unireid.apps.search.queries import Hit, Query, read_query_picture
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.data.pictures import DECODE_ERRORS, decode_picture, load_picture
from ms_unireid.errors import UserError
from ms_unireid.evaluation.figures import CELL, RankedList, Result, draw_lists
from ms_unireid.installation import job_command

_LABEL_CHARACTERS = 8
_COLOURS = colormaps["inferno"]
_OPACITY = 0.55


def draw_search(
    searcher: Searcher,
    queries: Sequence[Query],
    ranked_lists: Sequence[Sequence[Hit]],
    path: Path,
    heat_map: bool = False,
) -> list[str]:
    """Draw the ranked list of each query, with a placeholder for a photo that is missing or changed.

    Args:
        searcher: The searcher that answered.
        queries: The queries.
        ranked_lists: The hits of each.
        path: PNG, JPEG or PDF to write.
        heat_map: Show attention rollout over each photo; bright is high.

    Returns:
        The placeholders' reasons.

    Raises:
        QueryError: If a picture of a query cannot be read.
        UserError: If the file cannot be written.
    """
    told: dict[str, None] = {}
    lists = [_ranked(searcher, query, hits, heat_map, told) for query, hits in zip(queries, ranked_lists, strict=True)]
    columns = max(1, *(len(hits) for hits in ranked_lists))
    title = "Query and top results, with cosine similarities"
    draw_lists(lists, path, f"{title}; bright: high attention of the model" if heat_map else title, columns)
    return list(told)


def heat_picture(searcher: Searcher, photo: Path | Image.Image) -> Image.Image:
    """Blend a photo with its heat map; mode RGB, the photo's size.

    DataError if the photo cannot be read.
    """
    picture = photo if isinstance(photo, Image.Image) else load_picture(photo)
    heat = searcher.heat_map(picture)
    relative = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    coloured = Image.fromarray((255 * _COLOURS(relative)[..., :3]).astype(np.uint8))
    return Image.blend(picture, coloured.resize(picture.size, Image.Resampling.BICUBIC), _OPACITY)


def _ranked(searcher: Searcher, query: Query, hits: Sequence[Hit], heat_map: bool, told: dict[str, None]) -> RankedList:
    pictures = [searcher.read_sketch(query, sketch)[0] for sketch in query.sketches]
    pictures += [
        _indexed(searcher, picture, told) if isinstance(picture, int) else read_query_picture(picture)
        for picture in query.pictures[len(query.sketches) :]
    ]
    results = [
        Result(_indexed(searcher, hit.row, told, heat_map), f"{hit.rank}: {hit.score:.2f} {_label(hit)}")
        for hit in hits
    ]
    given = {
        **{name[0].upper(): True for name in query.modalities},
        "photo": query.photos,
        "marks": query.more + query.less,
    }
    kinds = "+".join(kind for kind, some in given.items() if some)
    return RankedList(query.name or f"{kinds}->R", " / ".join(query.texts), _side_by_side(pictures), results)


def _indexed(searcher: Searcher, row: int, told: dict[str, None], heat_map: bool = False) -> Image.Image:
    """Read the photo that was indexed; a placeholder, and an entry in `told`, if it is missing or another one."""
    path = searcher.index.path(row)
    try:
        picture = decode_picture(io.BytesIO(searcher.index.content(row)))
        return heat_picture(searcher, picture) if heat_map else picture
    except ChangedPhoto:
        state = "changed since indexing"
    except (UserError, *DECODE_ERRORS):
        state = "unreadable" if path.exists() else "missing"
    told[f"{path}: {state}; bring the index up to date with {job_command('search')} index"] = None
    placeholder = Image.new("RGB", CELL, "lightgrey")
    ImageDraw.Draw(placeholder).multiline_text((6, CELL[1] // 2 - 18), state.replace(" ", "\n"), "black")
    return placeholder


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image | None:
    if not pictures:
        return None
    height = max(picture.height for picture in pictures)
    scaled = [picture.resize((max(1, picture.width * height // picture.height), height)) for picture in pictures]
    sheet = Image.new("RGB", (sum(picture.width for picture in scaled), height), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def _label(hit: Hit) -> str:
    return f"id {hit.person}" if hit.person is not None else hit.path.stem[:_LABEL_CHARACTERS]
