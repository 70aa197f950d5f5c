"""Hands over photos of the page: a table, a sheet to print, or copies, made one at a time and fetched once."""

import asyncio
import contextlib
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import FastAPI, Response
from nicegui import ui
from starlette.responses import StreamingResponse

from ms_unireid.apps.search.handover import Entry, HandOver
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError

_WAITING = 20  # files that nobody has fetched; the oldest gives way
_CHUNK = 1 << 20
# Format: label, file name, and media type.
_FORMATS = {
    "csv": ("CSV", "photos.csv", "text/csv; charset=utf-8"),
    "json": ("JSON", "photos.json", "application/json"),
    "sheet": ("Sheet to print", "photos.html", "text/html; charset=utf-8"),
    "zip": ("Copies of the photos", "photos.zip", "application/zip"),
}


@dataclass(frozen=True)
class _File:
    content: BinaryIO
    kind: str


class Downloads:
    """Files that wait to be fetched, each once, at an address that cannot be guessed.

    Args:
        site: Gets the route.
    """

    def __init__(self, site: FastAPI):
        self._files: dict[str, _File] = {}
        self._thread = ThreadPoolExecutor(1, "hand-over")

        @site.get("/hand-over/{key}")
        async def fetch(key: str) -> Response:
            file = self._files.pop(key, None)
            if file is None:
                return Response("This file was fetched already; hand it over again.", 404)
            _, name, media_type = _FORMATS[file.kind]
            headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
            return StreamingResponse(_chunks(file.content), media_type=media_type, headers=headers)

    async def make(self, given: HandOver, kind: str, progress: Callable[[int, int], None]) -> str:
        """Make a file and return its address; UserError if the disk for it is full."""
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._thread, _write, given, kind, progress)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"The file cannot be made ({reason}); free space for temporary files.") from error
        key = secrets.token_urlsafe(32)
        self._files[key] = _File(content, kind)
        while len(self._files) > _WAITING:
            self._files.pop(next(iter(self._files))).content.close()
        return f"/hand-over/{key}"


class HandOverRow:
    """Buttons for the formats, built in NiceGUI's current slot.

    Args:
        worker: Has the index.
        downloads: Makes the files.
        entries: Returns the photos to hand over.
        on_problem: Called with an error.
    """

    def __init__(
        self,
        worker: SearchWorker,
        downloads: Downloads,
        entries: Callable[[], list[Entry]],
        on_problem: Callable[[str], None],
    ):
        self._worker, self._downloads = worker, downloads
        self._entries, self._on_problem = entries, on_problem
        self._row = ui.element("div").classes("hand-over")
        with self._row:
            ui.label(t("Hand over")).classes("hint")
            for kind, (label, *_) in _FORMATS.items():
                ui.button(t(label), on_click=lambda kind=kind: self._give(kind)).props("flat dense no-caps")
            self._state = ui.label().classes("hint").props('role="status"')

    def show(self, is_shown: bool) -> None:
        """Show or hide the buttons."""
        self._row.set_visibility(is_shown)

    async def _give(self, kind: str) -> None:
        entries, client = self._entries(), ui.context.client
        told = [0, len(entries)]
        packing = t("Packing {done} of {total} photos …")
        timer = ui.timer(0.5, lambda: self._state.set_text(packing.format(done=told[0], total=told[1])))
        try:
            given = HandOver(self._worker.searcher.index, tuple(entries))
            address = await self._downloads.make(given, kind, lambda done, _: told.__setitem__(0, done))
        except UserError as problem:
            self._on_problem(str(problem))
        else:
            if not client.is_deleted:
                ui.download.from_url(address)
        finally:
            timer.cancel()
            self._state.set_text("")


def _write(given: HandOver, kind: str, progress: Callable[[int, int], None]) -> BinaryIO:
    """Write a file without a name on disk, which is gone with its last use."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been fetched
    try:
        if kind == "zip":
            given.write_zip(file, progress)
        else:
            text = {
                "csv": given.to_csv,
                "json": lambda: json.dumps(given.to_json(), indent=2, ensure_ascii=False),
                "sheet": lambda: given.to_sheet(progress),
            }[kind]()
            file.write(text.encode(errors="backslashreplace"))
        file.seek(0)
    except OSError:
        with contextlib.suppress(OSError):
            file.close()  # it tries once more to write what is left
        raise
    return file


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
