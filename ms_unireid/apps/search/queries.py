"""Queries, from arguments or a file, and their ranked lists as a table, JSON or CSV."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image
from tabulate import tabulate

from ms_unireid.apps.search.places import path_of
from ms_unireid.data.pictures import DECODE_ERRORS, describe, load_picture, to_rgb
from ms_unireid.errors import DataError, QueryError, UserError, escaped, shown
from ms_unireid.files import parse_json, read_text
from ms_unireid.modalities import TEXT, is_picture_name

_EXPECTED = {
    "text": "text, or a list of texts",
    "sketch": "a path, or a list of paths",
    "photo": "a path, or a list of paths",
    "picture": "MODALITY=PATH, or a list of them",
    "weight": "a number from 0 to 1",
    "name": "text",
}
FIELDS = tuple(_EXPECTED)
_JUDGED = ("threshold", "probably_not_here")  # columns where a checkpoint's thresholds are known
COLUMNS = ("query", "rank", "score", "photo", "person", "row", "taken", "camera", "same")
NOT_HERE = "probably not here"
_MAX_CHARACTERS = 100_000
_MAX_BYTES, _MAX_QUERIES = 16 << 20, 100_000  # of a file of queries
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones count in East Asian spreadsheets
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Query:
    """One query; several texts, sketches, photos or pictures of another modality show the same person and are averaged.

    A photo is a picture, its file, or the row of an indexed photo. Marks are rows or paths of indexed photos.
    """

    texts: tuple[str, ...] = ()
    sketches: tuple[Path | Image.Image, ...] = ()
    photos: tuple[Path | Image.Image | int, ...] = ()
    weight: float = 0.5  # of sketches and photos, 0 to 1; texts have the rest; 0.5 adds both features as the paper does
    name: str = ""  # in results
    include_self: bool = False  # whether an indexed photo is among the results of its own search
    as_is: bool = False  # whether the sketches are searched without `prepare_sketch`
    more: tuple[int | Path, ...] = ()  # marks: the person looks more like these
    less: tuple[int | Path, ...] = ()  # and less like these
    others: Mapping[str, tuple[Path | Image.Image, ...]] = field(default_factory=dict)  # by further modalities

    def __post_init__(self):
        if any(not any(c.isprintable() and c != " " for c in text) for text in self.texts):
            raise QueryError("the description is empty; describe the person, or leave the description out")
        if any(len(text) > _MAX_CHARACTERS for text in self.texts):
            raise QueryError(f"the description is longer than {_MAX_CHARACTERS} characters; shorten it")
        pictures = self.pictures
        if not self.texts and not pictures and not self.more:
            raise QueryError(
                "nothing to search for; give a description, a sketch, a photo, or one that is more like it"
            )
        if not 0 <= self.weight <= 1:
            raise QueryError(f"weight {shown(self.weight)}: expected 0 (only the description) to 1 (only the pictures)")
        if self.weight != 0.5 and not (self.texts and pictures):
            raise QueryError(
                f"weight {self.weight}: weighs sketches and photos against a description; give both, or no weight"
            )

    @property
    def pictures(self) -> tuple[Path | Image.Image | int, ...]:
        """All pictures, whatever they are of."""
        return self.sketches + self.photos + tuple(itertools.chain(*self.others.values()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it asks with, photos apart."""
        given = {TEXT: self.texts, "sketch": self.sketches, **self.others}
        return tuple(name for name, some in given.items() if some)

    def __str__(self) -> str:
        parts = [f'"{" ".join(text.split())}"' for text in self.texts]
        parts += [f"sketch {_label(sketch)}" for sketch in self.sketches]
        parts += [f"{name} {_label(picture)}" for name, given in self.others.items() for picture in given]
        parts += [f"photo {_label(photo)}" for photo in self.photos]
        kind = "picture" if self.photos or self.others else "sketch"
        weight = f" ({kind} weight {self.weight:g})" if self.texts and self.pictures else ""
        marks = [f"{word} like {_label(mark)}" for word in ("more", "less") for mark in getattr(self, word)]
        return ", ".join([*filter(None, [" + ".join(parts) + weight]), *marks])


@dataclass(frozen=True)
class Hit:
    """One photo of a ranked list."""

    rank: int  # from 1
    score: float  # cosine similarity
    row: int  # in the index
    path: Path
    person: str | None = None  # identity, if known
    taken: str | None = None  # local time, YYYY-MM-DDTHH:MM:SS, if known
    camera: str | None = None  # if known
    same: tuple[int, ...] = ()  # rows of the photos that are folded into it, best first
    threshold: float | None = None  # of the score, by `Thresholds`; None if not known for the query

    @property
    def probably_not_here(self) -> bool:
        """Whether the score does not exceed a known threshold: a person who is not there would reach it as well."""
        return self.threshold is not None and self.score <= self.threshold


def make_query(
    text: str | Sequence[str] | None = None,
    sketch: Path | str | Image.Image | Sequence | None = None,
    photo: Path | str | Image.Image | int | Sequence | None = None,
    weight: float = 0.5,
    name: str = "",
    include_self: bool = False,
    as_is: bool = False,
    more: int | Path | str | Sequence = (),
    less: int | Path | str | Sequence = (),
    pictures: Mapping[str, Path | str | Image.Image | Sequence] = MappingProxyType({}),
) -> Query:
    """Make a query; everything but its weight and name may be one or a sequence. `pictures` are those by modality.

    QueryError if it is empty, or its weight is not between 0 and 1 or has nothing to weigh.
    """
    texts = (text,) if isinstance(text, str) else tuple(text or ())
    plain = tuple(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", one) for one in (*texts, name))
    others = {name: found for name in pictures if (found := _as_tuple(pictures[name]))}
    sketches, marks = _as_tuple(sketch) + others.pop("sketch", ()), (_as_tuple(more), _as_tuple(less))
    return Query(plain[:-1], sketches, _as_tuple(photo), weight, plain[-1], include_self, as_is, *marks, others)


def parse_pictures(texts: Iterable[str]) -> dict[str, list[str]]:
    """Return the paths by modality of texts MODALITY=PATH; a QueryError tells of another form."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not path or not is_picture_name(name):
            raise QueryError(
                f"picture {shown(text)}: expected {_EXPECTED['picture'].split(',')[0]}, as pencil=drawn.png"
            )
        found.setdefault(name, []).append(path)
    return found


def _as_tuple(given: Any) -> tuple[Path | Image.Image | int, ...]:
    if given is None:
        return ()
    many = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else given
    many = (path_of(one) if isinstance(one, str) else one for one in many)
    return tuple(int(one) if isinstance(one, Integral) else one for one in many)


def read_query_picture(picture: Path | Image.Image) -> Image.Image:
    """Read a sketch or photo of a query in mode RGB, as the photos of an index are read.

    QueryError if it cannot be read.
    """
    try:
        return to_rgb(picture) if isinstance(picture, Image.Image) else load_picture(picture)
    except DataError as error:
        raise QueryError(str(error)) from error
    except DECODE_ERRORS as error:
        raise QueryError(f"a picture of the query: {describe(error)}") from error


def read_queries(path: Path) -> list[Query]:
    """Read queries from a CSV file with a header, or from a file with one JSON object per line.

    Each query has some of `FIELDS`. Picture paths are relative to the file.

    Raises:
        QueryError: If the file or one of its lines is wrong; names the line where the record begins.
        UserError: If the file cannot be read.
    """
    try:
        text = read_text(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a CSV or JSON Lines file") from error
    except ValueError as error:
        raise QueryError(f"{path}: {error}; give a file in UTF-8 of at most {_MAX_BYTES >> 20} MiB") from error
    try:
        rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text)
        queries = [_query(line, values, path.parent) for line, values in itertools.islice(rows, _MAX_QUERIES + 1)]
        if not 0 < len(queries) <= _MAX_QUERIES:
            count = f"more than {_MAX_QUERIES:,}" if queries else "no"
            raise QueryError(f"has {count} queries; give one per line, with some of {', '.join(FIELDS)}")
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error
    return queries


def to_table(queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]]) -> str:
    """Format ranked lists for a terminal, one table per query."""
    blocks = []
    for query, hits in zip(queries, ranked_lists, strict=True):
        title = escaped(f"{query.name}: {query}" if query.name else str(query), _MAX_CHARACTERS)
        rows = [[hit.rank, hit.score, escaped(str(hit.path), _MAX_CHARACTERS), _known(hit)] for hit in hits]
        blocks.append(f"{title}\n{tabulate(rows, tablefmt='plain', floatfmt='.4f')}".rstrip())
    return "\n\n".join(blocks)


def _known(hit: Hit) -> str:
    words = [] if hit.person is None else [f"person {hit.person}"]
    words += [hit.taken] if hit.taken else []
    words += [f"camera {hit.camera}"] if hit.camera else []
    words += [f"and {len(hit.same):,} nearly the same"] if hit.same else []
    words += [NOT_HERE] if hit.probably_not_here else []
    return escaped(", ".join(words), _MAX_CHARACTERS)


def to_csv(queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]]) -> str:
    """Format ranked lists as CSV with the header `columns_of` their hits."""
    listed = zip(queries, ranked_lists, strict=True)
    columns = columns_of(hit for hits in ranked_lists for hit in hits)
    return csv_text(columns, ({"query": query.name, **hit_values(hit)} for query, hits in listed for hit in hits))


def columns_of(hits: Iterable[Hit]) -> Sequence[str]:
    """Return the columns that a table of hits needs: `COLUMNS`, and where thresholds are known what they say."""
    return (*COLUMNS, *_JUDGED) if any(hit.threshold is not None for hit in hits) else COLUMNS


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Write a table as CSV with a header; a list becomes its items with spaces between them.

    A text that a spreadsheet would take for a formula gets an apostrophe in front of it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # the writer would not quote a carriage return
    return f"'{text}" if text.startswith(("\t", "\n")) or text.lstrip().startswith(_FORMULA) else text


def to_json(
    queries: Sequence[Query], ranked_lists: Sequence[Sequence[Hit]], notes: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """List the queries, each with its ranked list and its notes, those of `Searcher.notes`."""
    return [
        {
            "name": query.name,
            "text": list(query.texts),
            "sketch": [_label(sketch) for sketch in query.sketches],
            "photo": _label(query.photos[0]) if query.photos else None,  # as earlier versions, with one photo at most
            "photos": [_label(photo) for photo in query.photos],
            "pictures": {name: [_label(picture) for picture in given] for name, given in query.others.items()},
            "weight": query.weight,
            "more": [_label(mark) for mark in query.more],
            "less": [_label(mark) for mark in query.less],
            "notes": list(told),
            "hits": [hit_values(hit) for hit in hits],
        }
        for query, hits, told in zip(queries, ranked_lists, notes, strict=True)
    ]


def hit_values(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON and CSV have it."""
    judged = (round(hit.threshold, 6), hit.probably_not_here) if hit.threshold is not None else ()
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "photo": str(hit.path),
        "person": hit.person,
        "row": hit.row,
        "taken": hit.taken,
        "camera": hit.camera,
        "same": list(hit.same),
        **dict(zip(_JUDGED, judged, strict=False)),
    }


def _label(picture: Path | Image.Image | int) -> str:
    return f"({picture.width}x{picture.height} pixels)" if isinstance(picture, Image.Image) else str(picture)


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the first line of each record, and its cells that are not empty by their headers."""
    reader, header, line = csv.reader(io.StringIO(text, newline=""), strict=True), None, 1
    try:
        for cells in reader:
            if header is None:
                header = _header(cells)
            elif any(cells):
                named = itertools.zip_longest(header, cells, fillvalue="")
                yield line, {name: _number(cell) if name == "weight" else cell for name, cell in named if cell}
            line = reader.line_num + 1
    except csv.Error as error:
        raise QueryError(
            f"line {line}: is not valid CSV ({error}); put a text with commas into double quotes, and double its own"
        ) from error


def _header(cells: Sequence[str]) -> Sequence[str]:
    cells = [name.strip().lower() for name in cells]
    for number, name in enumerate(cells):
        if name and (name not in FIELDS or name in cells[:number]):
            problem = "repeated" if name in FIELDS else "unknown"
            expected = f"some of {', '.join(FIELDS)}, with commas between them"
            raise QueryError(f"line 1: {problem} field {shown(name)} in the header; expected {expected}")
    return cells


def _number(cell: str) -> float | str:
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield number and object of each line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            problem = str(error).replace("line 1 column", "column")
            raise QueryError(f"line {number}: is not valid JSON ({problem}); give one object per line") from error
        if not isinstance(found, dict):
            raise QueryError(f"line {number}: expected a JSON object with some of {', '.join(FIELDS)}")
        yield number, found


def _query(line: int, values: Mapping[str, Any], folder: Path) -> Query:
    try:
        given = {key: value for key, value in values.items() if value is not None}
        for key, value in given.items():
            _check_field(key, value)
        asked = given.get("picture", ())
        pictures = parse_pictures([asked] if isinstance(asked, str) else asked)
        return make_query(
            text=given.get("text"),
            sketch=[folder / one for one in _as_tuple(given.get("sketch"))],
            photo=[folder / one for one in _as_tuple(given.get("photo"))],
            weight=given.get("weight", 0.5),
            name=given.get("name") or f"line {line}",
            pictures={name: [folder / one for one in paths] for name, paths in pictures.items()},
        )
    except QueryError as error:
        raise QueryError(f"line {line}: {error}") from error


def _check_field(key: str, value: Any) -> None:
    if not key:
        raise QueryError(f"{shown(value)} is under no header; put a text with commas into double quotes")
    if key not in FIELDS:
        raise QueryError(f"unknown field {shown(key)}; expected some of {', '.join(FIELDS)}")
    if key == "weight":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        listed = value if isinstance(value, list) and key != "name" else [value]
        fits = all(isinstance(one, str) for one in listed)
    if not fits:
        raise QueryError(f"{key} {shown(value)}: expected {_EXPECTED[key]}")
