"""What a search found, as a picture; on request with where the model looked in each photo."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from ms_unireid.apps.search.queries import Query, read_query_picture
from ms_unireid.apps.search.searcher import Hit, Searcher
from ms_unireid.data.pictures import load_picture
from ms_unireid.evaluation.figures import RankedList, Result, draw_lists

_LABEL_CHARACTERS = 8
_COLOURS = colormaps["inferno"]
_OPACITY = 0.55


def draw_search(
    searcher: Searcher, queries: Sequence[Query], found: Sequence[Sequence[Hit]], path: Path, heat_map: bool = False
) -> None:
    """Draw the ranked list of each query.

    Args:
        searcher: What was asked.
        queries: The queries.
        found: Their hits.
        path: PNG to write.
        heat_map: Lay over each photo where the model looked: attention rollout, bright where most.

    Raises:
        DataError: If a photo is not there any more.
        QueryError: If a picture of a query cannot be read.
        UserError: If the file cannot be written.
    """
    lists = [_ranked(searcher, query, hits, heat_map) for query, hits in zip(queries, found, strict=True)]
    columns = max(1, *(len(hits) for hits in found))
    title = "Query and top results, with cosine similarities"
    draw_lists(lists, path, f"{title}; bright: where the model looked" if heat_map else title, columns)


def heat_picture(searcher: Searcher, photo: Path) -> Image.Image:
    """Lay over a photo where the model looks in it, in mode RGB and the photo's size.

    Raises:
        DataError: If the photo cannot be read.
    """
    picture = load_picture(photo)
    heat = searcher.heat_map(picture)
    relative = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    coloured = Image.fromarray((255 * _COLOURS(relative)[..., :3]).astype(np.uint8))
    return Image.blend(picture, coloured.resize(picture.size, Image.Resampling.BICUBIC), _OPACITY)


def _ranked(searcher: Searcher, query: Query, hits: Sequence[Hit], heat_map: bool) -> RankedList:
    asked = searcher.index.path(query.photo) if isinstance(query.photo, int) else query.photo
    pictures = [*query.sketches] if asked is None else [asked]
    results = [
        Result(heat_picture(searcher, hit.path) if heat_map else hit.path, f"{hit.rank}: {hit.score:.2f} {_who(hit)}")
        for hit in hits
    ]
    kinds = "+".join("T" * bool(query.texts) + "S" * bool(query.sketches)) or "photo"
    title = query.name or f"{kinds}->R"
    return RankedList(title, " / ".join(query.texts), _beside(pictures), results)


def _beside(pictures: Sequence[Path | Image.Image]) -> Image.Image | None:
    """Put the pictures of a query side by side."""
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


def _who(hit: Hit) -> str:
    return f"id {hit.person}" if hit.person is not None else hit.path.stem[:_LABEL_CHARACTERS]
