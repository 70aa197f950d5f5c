"""What is asked of an index: sentences, sketches, both, or a photo; one, or many from a file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ms_unireid.data.pictures import DECODE_ERRORS, describe, opened
from ms_unireid.errors import QueryError, UserError

FIELDS = ("text", "sketch", "photo", "weight", "name")
_MANY_CHARACTERS = 100_000


@dataclass(frozen=True)
class Query:
    """One query; several sentences or sketches are of the same person and averaged.

    Attributes:
        texts: Sentences.
        sketches: Picture files, or pictures.
        photo: A picture, its file, or the row of an indexed photo, to search from; then nothing else.
        weight: How much the sketches count against the sentences, 0 to 1; 0.5 adds the two features, as the paper does.
        name: What the query is called in results.
    """

    texts: tuple[str, ...] = ()
    sketches: tuple[Path | Image.Image, ...] = ()
    photo: Path | Image.Image | int | None = None
    weight: float = 0.5
    name: str = ""

    def __post_init__(self):
        if any(not text.strip() for text in self.texts):
            raise QueryError("the description is empty; say what the person looks like, or leave it out")
        if any(len(text) > _MANY_CHARACTERS for text in self.texts):
            raise QueryError(f"the description is longer than {_MANY_CHARACTERS} characters; shorten it")
        if not self.texts and not self.sketches and self.photo is None:
            raise QueryError("nothing to search for; give a description, a sketch, both, or a photo")
        if self.photo is not None and (self.texts or self.sketches):
            raise QueryError("a photo is searched from alone; leave out the description and the sketch, or the photo")
        if not 0 <= self.weight <= 1:
            raise QueryError(f"weight {self.weight}: expected 0 (only the description counts) to 1 (only the sketch)")


def make_query(
    text: str | Sequence[str] | None = None,
    sketch: Path | str | Image.Image | Sequence | None = None,
    photo: Path | str | Image.Image | int | None = None,
    weight: float = 0.5,
    name: str = "",
) -> Query:
    """Make a query of what a user gives: one of a kind, or a list.

    Raises:
        QueryError: If it is empty, mixes a photo with the rest, or has a weight that is none.
    """
    texts = (text,) if isinstance(text, str) else tuple(text or ())
    sketches = (sketch,) if isinstance(sketch, str | Path | Image.Image) else tuple(sketch or ())
    paths = tuple(Path(one) if isinstance(one, str) else one for one in sketches)
    return Query(texts, paths, Path(photo) if isinstance(photo, str) else photo, weight, name)


def read_query_picture(picture: Path | Image.Image) -> Image.Image:
    """Read a sketch or photo that somebody searches with, in mode RGB.

    Other than the pictures of a data set it is turned as its camera says, and what is transparent becomes white.

    Raises:
        QueryError: If it cannot be read, or moves.
    """
    if isinstance(picture, Image.Image):
        return _upright_on_white(picture)
    try:
        with opened(picture) as found:
            if getattr(found, "n_frames", 1) > 1:
                raise QueryError(f"{picture}: moves ({found.n_frames} pictures in one file); give a still picture")
            return _upright_on_white(found)
    except DECODE_ERRORS as error:
        raise QueryError(f"{picture}: {describe(error)}; give a JPEG or PNG picture") from error


def read_queries(path: Path) -> list[Query]:
    """Read queries from a CSV file with a header, or a file with one JSON object a line.

    Each has some of `FIELDS`; in JSON `text` and `sketch` may be lists. Pictures are named relative to the file.

    Raises:
        QueryError: If the file or a line of it is wrong; names the line.
        UserError: If it cannot be read.
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
        raise QueryError(f"{path}: holds no query; give one a line, with some of {', '.join(FIELDS)}")
    return queries


def _upright_on_white(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


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
                raise QueryError(f"{path}: line {number}: is no JSON ({error}); give one object a line") from error
            if not isinstance(found, dict):
                raise QueryError(f"{path}: line {number}: expected a JSON object with some of {', '.join(FIELDS)}")
            yield number, found


def _query(values: Mapping[str, Any], folder: Path, place: str) -> Query:
    unknown = [str(key) for key in values if key not in FIELDS]
    if unknown:
        raise QueryError(f"{unknown[0]!r} is no field; expected some of {', '.join(FIELDS)}")
    text, sketch, photo = (values.get(key) for key in ("text", "sketch", "photo"))
    sketches = [sketch] if isinstance(sketch, str) else sketch or []
    return make_query(
        text=text,
        sketch=[folder / one for one in sketches],
        photo=None if photo is None else folder / photo,
        weight=float(values.get("weight", 0.5)),
        name=str(values.get("name", place)),
    )
