"""Queries of the page: description, pictures, marked photos and filters; and how an address carries them."""

import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode

from PIL import Image

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.web.drawing import Drawing, Stroke
from ms_unireid.apps.web.words import t
from ms_unireid.errors import QueryError, shown

MAX_CHARACTERS = 10_000
COUNTS = (10, 50, 100, 1000)
_SHOWN = 60  # characters of a description in the history
_MAX_MARKS = 100
_MAX_VALUES = 100  # of one filter


class Found(NamedTuple):
    """An indexed photo; its row may belong to another photo in another state of the index."""

    row: int
    path: Path

    @property
    def mark(self) -> str:
        """Row and a checksum of the path, as the page's addresses name a photo."""
        return f"{self.row}.{path_mark(self.path)}"


@dataclass(frozen=True)
class PageQuery:
    """One query."""

    text: str = ""
    strokes: tuple[Stroke, ...] = ()
    uploads: tuple[Image.Image, ...] = ()  # RGB sketches, prepared, at the size of the model's input
    photos: tuple[Image.Image, ...] = ()  # RGB
    others: tuple[tuple[str, Image.Image], ...] = ()  # RGB pictures with their modalities
    as_is: bool = False  # whether the drawing is searched without `prepare_sketch`
    start: Found | None = None  # a found photo to search from
    more: tuple[Found, ...] = ()  # marked as like the person
    less: tuple[Found, ...] = ()  # marked as unlike
    weight: float = 0.5  # of the pictures, 0 to 1; the text has the rest
    where: Filter = field(default_factory=Filter)
    fold: bool = True  # whether copies and near-identical frames are folded
    top_k: int = COUNTS[1]  # photos to rank

    @property
    def own_pictures(self) -> tuple[Image.Image, ...]:
        """All uploads."""
        return self.uploads + self.photos + tuple(picture for _, picture in self.others)

    @property
    def has_pictures(self) -> bool:
        """Whether there is something to weigh against a description."""
        return bool(self.strokes or self.own_pictures or self.start)

    @property
    def is_something(self) -> bool:
        """Whether there is something to search for."""
        return bool(self.has_pictures or self.more or self.text.strip())

    def check(self) -> None:
        """Raise QueryError if the query is empty or its description too long."""
        if len(self.text) > MAX_CHARACTERS:
            problem = t("The description has {count:,} characters; the limit is {limit:,}. Shorten it.")
            raise QueryError(problem.format(count=len(self.text), limit=MAX_CHARACTERS))
        if not self.is_something:
            raise QueryError(t("Nothing to search for yet: type a description, draw, or upload a sketch or a photo."))

    def drawing(self, image_size: tuple[int, int]) -> Image.Image | None:
        """Return the rendered drawing; None if nothing is drawn."""
        return Drawing(image_size, self.strokes).render() if self.strokes else None

    def name(self) -> str:
        """Return a short name, for the history."""
        parts = [t("drawing")] if self.strokes else []
        for count, one, many in (
            (len(self.uploads), t("uploaded sketch"), t("{count} uploaded sketches")),
            (len(self.photos), t("uploaded photo"), t("{count} uploaded photos")),
        ):
            parts += [one if count == 1 else many.format(count=count)] * bool(count)
        kinds = Counter(kind for kind, _ in self.others)
        parts += [t("uploaded {name} × {count}").format(name=kind, count=count) for kind, count in kinds.items()]
        parts += [t("photo {name}").format(name=self.start.path.name)] if self.start else []
        text = " ".join(self.text.split())
        if text:
            share = f" ({self.weight:.0%})" if parts else ""
            parts = [" + ".join(parts) + share] * bool(parts) + [f"“{text[:_SHOWN]}{'…' * (len(text) > _SHOWN)}”"]
        marks = len(self.more) + len(self.less)
        parts += [t("{count} marked").format(count=marks)] * bool(marks) + [t("filters")] * bool(self.where)
        return " + ".join(parts)

    def address(self) -> str:
        """Return the query as the address of the page, without its drawing and uploads."""
        values = {
            "q": self.text.strip(),
            "weight": "" if self.weight == 0.5 else f"{self.weight:g}",
            "top": "" if self.top_k == COUNTS[1] else str(self.top_k),
            "photo": self.start.mark if self.start else "",
            "more": [one.mark for one in self.more],
            "less": [one.mark for one in self.less],
            "folder": list(self.where.folders),
            "camera": list(self.where.cameras),
            "person": list(self.where.persons),
            "after": self.where.after,
            "before": self.where.before,
            "fold": "" if self.fold else "0",
        }
        return "/?" + urlencode({key: value for key, value in values.items() if value}, doseq=True, errors="replace")


def read_address(address: str, index: PhotoStore) -> PageQuery:
    """Read a query from the part of an address behind the `?`; a weight or number that cannot be used is left out.

    QueryError if it names a photo, folder, camera or person that the index does not have, or a time that is none.
    """
    try:
        values = parse_qs(address.removeprefix("?"), max_num_fields=4 * _MAX_VALUES)
    except ValueError:
        return PageQuery()
    first = {key: found[0] for key, found in values.items()}
    named = {key: tuple(values.get(key, ())[:_MAX_VALUES]) for key in ("folder", "camera", "person")}
    for key, known in (("folder", index.folders), ("camera", index.cameras), ("person", index.persons)):
        missing = [name for name in named[key] if name not in known]
        if missing and (index.names_all or key != "person"):  # which has a field for any name, not a list
            has = "the index does not have" if index.names_all else "the page does not list"
            raise QueryError(f"The address asks for the {key} {shown(missing[0])}, which {has}.")
    where = Filter(*named.values(), after=first.get("after", ""), before=first.get("before", ""))
    weight = first.get("weight", "")
    top = first.get("top", "")
    start, more, less = (
        tuple(_find(mark, index) for mark in values.get(key, ())[:_MAX_MARKS]) for key in ("photo", "more", "less")
    )
    return PageQuery(
        text=first.get("q", "")[: MAX_CHARACTERS + 1],
        start=start[0] if start else None,
        more=more,
        less=less,
        weight=float(weight) if re.fullmatch(r"0(\.\d{1,9})?|1(\.0{1,9})?", weight) else 0.5,
        where=where,
        fold=first.get("fold") != "0",
        top_k=int(top) if top in map(str, COUNTS) else COUNTS[1],
    )


def path_mark(path: Path) -> str:
    """Return a short mark of a path, which tells whether a row of another state of the index has the same photo."""
    return f"{zlib.crc32(os.fsencode(path)):08x}"


def _find(mark: str, index: PhotoStore) -> Found:
    row, _, of = mark.partition(".")
    number = int(row) if re.fullmatch("[0-9]{1,19}", row) else -1
    if not index.has(number) or path_mark(index.path(number)) != of:
        raise QueryError(t("A photo of this address is no longer in the index; search again."))
    return Found(number, index.path(number))
