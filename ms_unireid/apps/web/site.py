"""The site of the search page: its routes, and what becomes of messages that browsers send."""

import asyncio
import inspect
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from fastapi import FastAPI, Request, Response
from nicegui import app as pages
from nicegui import core, ui
from starlette.formparsers import MultiPartParser

from ms_unireid.apps.web.access import Guard
from ms_unireid.apps.web.cases import Cases
from ms_unireid.apps.web.hand_over import Downloads
from ms_unireid.apps.web.page import TITLE, SearchPage
from ms_unireid.apps.web.page_query import path_mark
from ms_unireid.apps.web.photos import KINDS, Photos
from ms_unireid.apps.web.uploads import MAX_REQUEST
from ms_unireid.apps.web.words import page_language
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError, escaped

_STYLE, _SCRIPT = (Path(__file__).with_name(f"page.{suffix}") for suffix in ("css", "js"))
_DAY = 24 * 60 * 60  # seconds
_PATIENCE = 60  # seconds for the first answer to a tab; behind NiceGUI's 3 a busy machine sends an error page instead
_GONE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 360"><rect width="120" height="360" fill="#e5e7eb"/>'
    '<text x="60" y="184" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#4b5563">photo gone</text>'
    "</svg>"
)

_log = logging.getLogger(__name__)


def build_site(worker: SearchWorker, token: str | None = None, cases: Cases | None = None) -> Guard:
    """Build the web application; once per process.

    Args:
        worker: Answers the queries.
        token: Token of the users; None if only this machine has access.
        cases: The case files; None keeps shortlists in the tabs.
    """
    MultiPartParser.spool_max_size = MAX_REQUEST  # an upload stays in memory
    pages.storage.max_tab_storage_age = _DAY
    site = FastAPI(openapi_url=None)
    photos, downloads = Photos(worker.searcher), Downloads(site)
    _serve_photos(site, worker, photos)

    @ui.page("/", title=TITLE, response_timeout=_PATIENCE)
    async def page(request: Request) -> None:
        ui.add_css(_STYLE)
        ui.add_body_html(f"<script>{_SCRIPT.read_text(encoding='utf-8')}</script>")
        ui.colors(primary="#1d5a86")
        client = ui.context.client
        await client.connected()  # the tab is unknown before
        if not client.is_deleted:  # as it is after a request without a browser
            ui.run_javascript(f'document.documentElement.lang = "{page_language()}"')
            try:
                await worker.run(worker.searcher.renew_thresholds)
            except UserError as error:
                _log.warning("%s", escaped(str(error), 1000))
            await SearchPage(worker, photos, downloads, cases, pages.storage.tab).go(request.url.query)

    ui.run_with(site, title=TITLE, dark=None, language="en-GB", reconnect_timeout=30, tailwind=False)
    pages.config.quasar_config["loadingBar"]["skipHijack"] = True  # it has no name for a screen reader
    _ignore_malformed_messages()
    logging.getLogger("nicegui").setLevel(logging.CRITICAL)  # it logs addresses, and tracebacks of what is told here
    pages.on_exception(_tell)
    return Guard(site, token, MAX_REQUEST)


def _serve_photos(site: FastAPI, worker: SearchWorker, photos: Photos) -> None:
    # One decodes at a time. Each tab waits for its own photos first, so that nobody waits for all photos of another.
    thread, turns = ThreadPoolExecutor(1, "photos"), WeakValueDictionary()

    @site.get("/photo/{row}")
    async def photo(row: str, tab: str = "", of: str = "", kind: str = "") -> Response:
        """Send a picture of a row, one of `KINDS`; nothing if `of` is given and is not the mark of that row's path."""
        number, index = int(row) if re.fullmatch("[0-9]{1,19}", row) else -1, worker.searcher.index
        if kind not in KINDS or (of and index.has(number) and of != path_mark(index.path(number))):
            number = -1
        try:
            async with turns.setdefault(tab, asyncio.Lock()):
                if kind == "heat":
                    content = await worker.run(photos.heat, number)
                else:
                    content = await asyncio.get_running_loop().run_in_executor(thread, photos.get, number, kind)
            # Not cached: another index has another photo at the same URL.
            return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store"})
        except UserError as error:
            _log.warning("%s", escaped(str(error), 1000))
            return Response(_GONE, 404, media_type="image/svg+xml")


def _ignore_malformed_messages() -> None:
    """Let a message that NiceGUI cannot take apart be ignored; the page's own errors go to `_tell`."""
    events = core.sio.handlers["/"]
    events["log"] = lambda *_: None  # whatever the browser says would be shown in the terminal
    for name in ("connect", "handshake", "event", "javascript_response", "ack"):
        events[name] = _tolerant(events[name])
    core.sio.eio.handlers["message"] = _tolerant(core.sio.eio.handlers["message"])
    core.sio.eio.transports = ["websocket"]  # a second way in would need the same care


def _tell(error: Exception) -> None:
    """Log an error of an event in one line: events come from browsers, with any arguments."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = escaped(f"{type(error).__name__}: {error}", 200)
    _log.error("an event of the page failed: %s (%s:%s)", text, Path(place.filename).name, place.lineno)


def _tolerant(handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def handle(*message: Any) -> Any:
        try:
            result = handler(*message)
            return await result if inspect.isawaitable(result) else result
        except (LookupError, TypeError, ValueError, AttributeError):
            _log.warning("a malformed message of a browser was ignored")
            return False

    return handle
