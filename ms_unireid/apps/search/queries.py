"""Queries, from arguments or a file, and their ranked lists as a table, JSON or CSV."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tabulate import tabulate

from ms_unireid.data.pictures import DECODE_ERRORS, describe, load_picture, to_rgb
from ms_unireid.errors import DataError, QueryError, UserError

FIELDS = ("text", "sketch", "photo", "weight", "name")
COLUMNS = ("query", "rank", "score", "photo", "person", "row")
_MAX_CHARACTERS = 100_000


@dataclass(frozen=True)
class Query:
    """One query; several texts or sketches describe the same person and are averaged."""

    texts: tuple[str, ...] = ()
    sketches: tuple[Path | Image.Image, ...] = ()
    photo: Path | Image.Image | int | None = None  # int: row of an indexed photo; excludes texts and sketches
    weight: float = 0.5  # of the sketches, 0 to 1; the texts have the rest; 0.5 adds both features as the paper does
    name: str = ""  # in results

    def __post_init__(self):
        if any(not text.strip() for text in self.texts):
            raise QueryError("the description is empty; describe the person, or leave the description out")
        if any(len(text) > _MAX_CHARACTERS for text in self.texts):
            raise QueryError(f"the description is longer than {_MAX_CHARACTERS} characters; shorten it")
        if not self.texts and not self.sketches and self.photo is None:
            raise QueryError("nothing to search for; give a description, a sketch, both, or a photo")
        if self.photo is not None and (self.texts or self.sketches):
            raise QueryError("a photo cannot be combined with a description or a sketch; leave out one of them")
        if not 0 <= self.weight <= 1:
            raise QueryError(f"weight {self.weight}: expected 0 (only the description) to 1 (only the sketch)")

    def __str__(self) -> str:
        parts = [f'"{" ".join(text.split())}"' for text in self.texts]
        parts += [f"sketch {_label(sketch)}" for sketch in self.sketches]
        if self.photo is not None:
            parts.append(f"photo {_label(self.photo)}")
        weight = f" (sketch weight {self.weight:g})" if self.texts and self.sketches else ""
        return " + ".join(parts) + weight


@dataclass(frozen=True)
class Hit:
    """One photo of a ranked list."""

    rank: int  # from 1
    score: float  # cosine similarity
    row: int  # in the index
    path: Path
    person: str | None = None  # identity, if known


def make_query(
    text: str | Sequence[str] | None = None,
    sketch: Path | str | Image.Image | Sequence | None = None,
    photo: Path | str | Image.Image | int | None = None,
    weight: float = 0.5,
    name: str = "",
) -> Query:
    """Make a query; text and sketch may be one or a sequence.

    Raises:
        QueryError: If it is empty, combines a photo with anything else, or its weight is not between 0 and 1.
    """
    texts = (text,) if isinstance(text, str) else tuple(text or ())
    sketches = (sketch,) if isinstance(sketch, str | Path | Image.Image) else tuple(sketch or ())
    paths = tuple(Path(one) if isinstance(one, str) else one for one in sketches)
    return Query(texts, paths, Path(photo) if isinstance(photo, str) else photo, weight, name)


def read_query_picture(picture: Path | Image.Image) -> Image.Image:
    """Read a sketch or photo of a query in mode RGB, as the photos of an index are read.

    Raises:
        QueryError: If it cannot be read.
    """
    try:
        return to_rgb(picture) if isinstance(picture, Image.Image) else load_picture(picture)
    except DataError as error:
        raise QueryError(str(error)) from error
    except DECODE_ERRORS as error:
        raise QueryError(f"a picture of the query: {describe(error)}") from error


def read_queries(path: Path) -> list[Query]:
    """Read queries from a CSV file with a header, or from a file with one JSON object per line.

    Each query has some of `FIELDS`; in JSON, `text` and `sketch` may be lists. Picture paths are relative to the file.

    Raises:
        QueryError: If the file or one of its lines is wrong; names the line.
        UserError: If the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a CSV or JSON Lines file of queries"
        ) from error
    except UnicodeDecodeError as error:
        raise QueryError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    queries = []
    for number, values in _csv_rows(lines) if path.suffix.lower() == ".csv" else _json_rows(path, lines):
        try:
            queries.append(_query(values, path.parent, f"line {number}"))
        except (UserError, TypeError, ValueError) as error:
            raise QueryError(f"{path}: line {number}: {error}") from error
    if not queries:
        raise QueryError(f"{path}: has no queries; give one per line, with some of {', '.join(FIELDS)}")
    return queries


def to_table(queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]]) -> str:
    """Format ranked lists for a terminal, one table per query."""
    blocks = []
    for query, hits in zip(queries, ranked_lists, strict=True):
        title = f"{query.name}: {query}" if query.name else str(query)
        rows = [[hit.rank, hit.score, hit.path] + [f"person {hit.person}"] * (hit.person is not None) for hit in hits]
        blocks.append(f"{title}\n{tabulate(rows, tablefmt='plain', floatfmt='.4f')}".rstrip())
    return "\n\n".join(blocks)


def to_csv(queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]]) -> str:
    """Format ranked lists as CSV with the header `COLUMNS`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for query, hits in zip(queries, ranked_lists, strict=True):
        writer.writerows({"query": query.name, **_hit_values(hit)} for hit in hits)
    return file.getvalue()


def to_json(
    queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]], notes: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """List the queries, each with its ranked list and its notes, those of `Searcher.notes`."""
    return [
        {
            "name": query.name,
            "text": list(query.texts),
            "sketch": [_label(sketch) for sketch in query.sketches],
            "photo": None if query.photo is None else _label(query.photo),
            "weight": query.weight,
            "notes": list(told),
            "hits": [_hit_values(hit) for hit in hits],
        }
        for query, hits, told in zip(queries, ranked_lists, notes, strict=True)
    ]


def _hit_values(hit: Hit) -> dict[str, Any]:
    photo = str(hit.path)
    return {"rank": hit.rank, "score": round(hit.score, 6), "photo": photo, "person": hit.person, "row": hit.row}


def _label(picture: Path | Image.Image | int) -> str:
    return f"({picture.width}x{picture.height} pixels)" if isinstance(picture, Image.Image) else str(picture)


def _csv_rows(lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(lines)
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if value not in ("", None)}


def _json_rows(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise QueryError(
                    f"{path}: line {number}: is not valid JSON ({error}); give one object per line"
                ) from error
            if not isinstance(found, dict):
                raise QueryError(f"{path}: line {number}: expected a JSON object with some of {', '.join(FIELDS)}")
            yield number, found


def _query(values: Mapping[str, Any], folder: Path, default_name: str) -> Query:
    unknown = [str(key) for key in values if key not in FIELDS]
    if unknown:
        raise QueryError(f"unknown field {unknown[0]!r}; expected some of {', '.join(FIELDS)}")
    text, sketch, photo = (values.get(key) for key in ("text", "sketch", "photo"))
    sketches = [sketch] if isinstance(sketch, str) else sketch or []
    return make_query(
        text=text,
        sketch=[folder / one for one in sketches],
        photo=None if photo is None else folder / photo,
        weight=float(values.get("weight", 0.5)),
        name=str(values.get("name", default_name)),
    )
