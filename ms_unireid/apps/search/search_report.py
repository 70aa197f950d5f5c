"""What a search found, for a terminal, as JSON and as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ms_unireid.apps.search.queries import Query

COLUMNS = ("query", "rank", "score", "photo", "person", "row")


def to_rows(queries: Sequence[Query], found: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """List every hit of every query, with `COLUMNS` as keys."""
    return [
        {
            "query": query.name,
            "rank": hit.rank,
            "score": round(hit.score, 6),
            "photo": str(hit.path),
            "person": hit.person,
            "row": hit.row,
        }
        for query, hits in zip(queries, found, strict=True)
        for hit in hits
    ]


def to_table(queries: Sequence[Query], found: Sequence[Sequence[Any]]) -> str:
    """Lay the hits out for a terminal, one table a query."""
    blocks = []
    for query, hits in zip(queries, found, strict=True):
        title = describe_query(query)
        lines = [f"{query.name}: {title}" if query.name else title]
        lines += [f"{hit.rank:4d}  {hit.score:7.4f}  {hit.path}{_of(hit.person)}" for hit in hits]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def to_csv(queries: Sequence[Query], found: Sequence[Sequence[Any]]) -> str:
    """Lay the hits out as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_rows(queries, found))
    return file.getvalue()


def to_json(queries: Sequence[Query], found: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """List the queries, each with its hits."""
    listed = []
    for query, hits in zip(queries, found, strict=True):
        rows = to_rows([query], [hits])
        listed.append(
            {
                "name": query.name,
                "text": list(query.texts),
                "sketch": [_named(sketch) for sketch in query.sketches],
                "photo": None if query.photo is None else _named(query.photo),
                "weight": query.weight,
                "hits": [{key: value for key, value in row.items() if key != "query"} for row in rows],
            }
        )
    return listed


def describe_query(query: Query) -> str:
    """Say in a line what was asked."""
    parts = [f'"{" ".join(text.split())}"' for text in query.texts]
    parts += [f"sketch {_named(sketch)}" for sketch in query.sketches]
    if query.photo is not None:
        parts.append(f"photo {_named(query.photo)}")
    both = f" (sketch counts {query.weight:g})" if query.texts and query.sketches else ""
    return " + ".join(parts) + both


def _named(picture: Path | Image.Image | int) -> str:
    return f"({picture.width}x{picture.height} pixels)" if isinstance(picture, Image.Image) else str(picture)


def _of(person: str | None) -> str:
    return "" if person is None else f"  person {person}"
