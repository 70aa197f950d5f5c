"""Hands over photos that searches found: as CSV, JSON, a sheet to print, and a ZIP file with the photos themselves."""

import base64
import datetime
import html
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.queries import NOT_HERE, Hit, columns_of, csv_text, hit_values
from ms_unireid.data.pictures import DECODE_ERRORS, decode_picture, describe
from ms_unireid.errors import UserError, escaped

THUMBNAIL = (320, 480)  # most width and height, pixels
_QUALITY = 88
_MAX_CHARACTERS = 10_000  # of a text on the sheet
_MAX_NAME = 50  # characters of a photo's own name in a ZIP file
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 56rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; break-after: avoid; }
h1, h2, p, dd { overflow-wrap: anywhere; }
article { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; padding: .75rem 0; border-top: 1px solid #888;
  break-inside: avoid; }
img { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; align-content: start; }
dd { margin: 0; white-space: pre-line; }
@page { size: A4; margin: 15mm; }
@media print { :root { color-scheme: light; } body { font-size: 10pt; margin: 0; max-width: none; padding: 0; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Photos found</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Photos found</h1>
{origin}
<p>The score is the cosine similarity of the query and the photo. It orders photos and is not a probability.</p>
{lists}
</main>
</body>
</html>
"""


Progress = Callable[[int, int], None]  # called with (done, total) photos


def _silent(done: int, total: int) -> None:
    pass


class Entry(NamedTuple):
    """A chosen photo."""

    query: str  # name or words of the query that found it
    hit: Hit
    note: str = ""


@dataclass(frozen=True)
class HandOver:
    """Chosen photos, and where they come from.

    A photo that is gone, or is not the one that was indexed, is named as missing wherever its picture would be.
    """

    index: PhotoStore
    entries: tuple[Entry, ...]
    date: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds"))

    @property
    def origin(self) -> dict[str, str]:
        """The index, the model and the time of this."""
        made_by, place = self.index.about["checkpoint"], self.index.place
        return {
            "index": place if "://" in place else os.path.abspath(place),
            "index_id": self.index.about["id"],
            "checkpoint": made_by["path"],
            "checkpoint_sha256": made_by["sha256"],
            "date": self.date,
        }

    def to_csv(self) -> str:
        """Format as CSV, one photo a row: the columns of a search, note, and origin."""
        return self._csv([{}] * len(self.entries))

    def to_json(self) -> dict[str, Any]:
        """List the photos with their notes, and the origin."""
        return self._json([{}] * len(self.entries))

    def to_sheet(self, progress: Progress = _silent) -> str:
        """Make one HTML file of the photos, to look at and to print, without scripts or anything outside it."""
        lists, done = [], 0
        for query, entries in groupby(self.entries, lambda entry: entry.query):
            lists.append(f"<section>\n<h2>{_text(query)}</h2>")
            for entry in entries:
                lists.append(self._article(entry))
                done += 1
                progress(done, len(self.entries))
            lists.append("</section>")
        return _PAGE.format(style=_STYLE, origin=_table(self.origin), lists="\n".join(lists))

    def write_zip(self, file: BinaryIO, progress: Progress = _silent) -> list[str]:
        """Write copies of the photos, once each, `photos.csv` and `photos.json`; return what is missing, and why.

        In both tables `file` is the photo's name in the ZIP file, or `missing` is the reason why there is none.
        """
        found: dict[Path, dict[str, str]] = {}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            photos = {entry.hit.path: entry.hit for entry in self.entries}
            for path, hit in photos.items():
                name = _NOT_IN_NAMES.sub("_", path.stem)[:_MAX_NAME] + _NOT_IN_NAMES.sub("_", path.suffix)[:_MAX_NAME]
                found[path] = {"file": f"photos/{len(found) + 1:04}_{name}", "missing": ""}
                try:
                    archive.writestr(_member(found[path]["file"]), self._content(hit))
                except UserError as error:
                    found[path] = {"file": "", "missing": str(error)}
                progress(len(found), len(photos))
            extra = [found[entry.hit.path] for entry in self.entries]
            whole = json.dumps(self._json(extra), indent=2, ensure_ascii=False)
            for name, text in {"photos.csv": self._csv(extra), "photos.json": whole}.items():
                archive.writestr(_member(name), text.encode(errors="backslashreplace"), zipfile.ZIP_DEFLATED)
        return [one["missing"] for one in found.values() if one["missing"]]

    def _content(self, hit: Hit) -> bytes:
        """Read a photo's file as it was indexed, although another state of the index may have it in another row."""
        return self.index.content(self.index.row(hit.path, hit.row))

    def _csv(self, extra: list[Mapping[str, str]]) -> str:
        rows = [{**row, **self.origin} for row in self._rows(extra)]
        columns = columns_of(entry.hit for entry in self.entries)
        return csv_text([*columns, "note", *(extra[0] if extra else ()), *self.origin], rows)

    def _json(self, extra: list[Mapping[str, str]]) -> dict[str, Any]:
        return {**self.origin, "photos": self._rows(extra)}

    def _rows(self, extra: list[Mapping[str, str]]) -> list[dict[str, Any]]:
        return [
            {"query": entry.query, **hit_values(entry.hit), "note": entry.note, **more}
            for entry, more in zip(self.entries, extra, strict=True)
        ]

    def _article(self, entry: Entry) -> str:
        hit = entry.hit
        try:
            picture = base64.b64encode(thumbnail(self._content(hit))).decode()
            shown = f'<img src="data:image/jpeg;base64,{picture}" alt="Photo of rank {hit.rank}">'
        except UserError as error:
            shown = f"<p>{_text(error)}</p>"
        except DECODE_ERRORS as error:
            shown = f"<p>{_text(describe(error))}</p>"
        known = {"Person": hit.person, "Taken": hit.taken, "Camera": hit.camera, "Note": entry.note}
        facts = {"Rank": hit.rank, "Score": f"{hit.score:.4f}", "Photo": hit.path, **known}
        facts["Judged"] = f"{NOT_HERE}: not above {hit.threshold:.4f}" if hit.probably_not_here else None
        facts["Nearly the same"] = f"{len(hit.same):,} more" if hit.same else None
        return f"<article>\n<div>{shown}</div>\n{_table(facts)}\n</article>"


def thumbnail(content: bytes) -> bytes:
    """Make a JPEG of at most `THUMBNAIL` of a picture's file; it raises one of `DECODE_ERRORS`."""
    picture, file = decode_picture(io.BytesIO(content), max(THUMBNAIL)), io.BytesIO()
    picture.thumbnail(THUMBNAIL)
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _table(values: Mapping[str, Any]) -> str:
    lines = [
        f"<dt>{_text(key.replace('_', ' ').capitalize())}</dt><dd>{_text(value)}</dd>"
        for key, value in values.items()
        if value not in (None, "")
    ]
    return "<dl>\n" + "\n".join(lines) + "\n</dl>"


def _text(value: Any) -> str:
    lines = str(value)[:_MAX_CHARACTERS].splitlines()
    return "\n".join(html.escape(escaped(line, _MAX_CHARACTERS)) for line in lines)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, time.localtime()[:6])
