"""The search page: its routes, the state of each browser tab, and the server."""

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

from fastapi import FastAPI, Response
from nicegui import app as pages
from nicegui import core, ui
from starlette.formparsers import MultiPartParser

from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.access import Guard
from ms_unireid.apps.web.form import QueryForm
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.results import ResultList, path_mark
from ms_unireid.apps.web.thumbnails import Thumbnails
from ms_unireid.apps.web.uploads import MAX_REQUEST
from ms_unireid.apps.web.worker import Answer, SearchWorker
from ms_unireid.errors import UserError, escaped

_TITLE = "Person search"
_STYLE = Path(__file__).with_name("page.css")
_HISTORY = 20  # queries per tab
_DAY = 24 * 60 * 60  # seconds
_GONE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 360"><rect width="120" height="360" fill="#e5e7eb"/>'
    '<text x="60" y="184" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#4b5563">photo gone</text>'
    "</svg>"
)

_log = logging.getLogger(__name__)


class SearchPage:
    """The page in one browser tab, built in NiceGUI's current slot.

    Args:
        worker: Answers the queries.
        history: The tab's earlier queries, newest first; new ones are added.
    """

    def __init__(self, worker: SearchWorker, history: list[PageQuery]):
        self._worker, self._queries, self._client = worker, history, ui.context.client
        self._latest: PageQuery | None = None
        self._turn = asyncio.Lock()
        with ui.element("header").classes("top"):
            with ui.element("h1"):
                ui.label(_TITLE)
            ui.label("The score is the cosine similarity of the query and the photo.").classes("hint")
        with ui.element("div").classes("page"):
            with ui.element("section").classes("form").props('aria-label="Query"'):
                self._form = QueryForm(worker, self._search_form, lambda problem: self._results.show_problem(problem))
            with ui.element("section").classes("found").props('aria-label="Results"'):
                self._results = ResultList(worker.searcher.index, self._search_photo)
            with ui.element("section").classes("history").props('aria-label="History"'):
                ui.label("History").classes("caption")
                self._history = ui.element("ul")
        self._show_history()

    async def _search_form(self) -> None:
        await self._search(self._form.query)

    async def _search_photo(self, hit: Hit, name: str) -> None:
        top_k = self._form.query.top_k
        await self._search(PageQuery(photo=hit.row, photo_path=hit.path, photo_name=name, top_k=top_k))

    async def _repeat(self, query: PageQuery) -> None:
        if query.photo is None:
            self._form.show(query)
        await self._search(query)

    async def _search(self, query: PageQuery) -> None:
        """Search and show the results or the error. Of the queries that wait for another, the latest is answered."""
        self._latest = query
        self._form.set_busy(True)
        self._results.show_loading()
        async with self._turn:
            answer = await self._answer(query) if self._is_wanted(query) else ""
        if self._is_wanted(query):
            self._form.set_busy(False)
            self._show(query, answer)

    def _is_wanted(self, query: PageQuery) -> bool:
        return query is self._latest and not self._client.is_deleted

    async def _answer(self, query: PageQuery) -> Answer | str:
        """Return the answer or the error."""
        try:
            return await self._worker.search(query)
        except UserError as problem:
            return str(problem)
        except Exception:
            _log.exception("a search failed")
            return "The search failed. The terminal that runs the page shows the error."

    def _show(self, query: PageQuery, answer: Answer | str) -> None:
        if isinstance(answer, str):
            self._results.show_problem(answer)
        else:
            self._results.show(query.name(), answer)
            self._remember(query)

    def _remember(self, query: PageQuery) -> None:
        earlier = [other for other in self._queries if other != query]
        self._queries[:] = [query, *earlier][:_HISTORY]
        self._show_history()

    def _show_history(self) -> None:
        self._history.clear()
        with self._history:
            if not self._queries:
                ui.html("Your queries appear here.", tag="li", sanitize=False).classes("hint")
            for query in self._queries:
                with ui.element("li"):
                    button = ui.button(query.name(), icon="history", on_click=lambda query=query: self._repeat(query))
                    button.props("flat dense no-caps no-wrap align=left")


def build_site(worker: SearchWorker, token: str | None = None) -> Guard:
    """Build the web application; once per process.

    Args:
        worker: Answers the queries.
        token: Token of the users; None if only this machine has access.
    """
    MultiPartParser.spool_max_size = MAX_REQUEST  # an upload stays in memory
    pages.storage.max_tab_storage_age = _DAY
    site = FastAPI(openapi_url=None)
    _serve_photos(site, worker)

    @ui.page("/", title=_TITLE)
    async def page() -> None:
        ui.add_css(_STYLE)
        ui.colors(primary="#1d5a86")
        client = ui.context.client
        await client.connected()  # the tab is unknown before
        if not client.is_deleted:  # as it is after a request without a browser
            SearchPage(worker, pages.storage.tab.setdefault("queries", []))

    ui.run_with(site, title=_TITLE, dark=None, language="en-GB", reconnect_timeout=30, tailwind=False)
    pages.config.quasar_config["loadingBar"]["skipHijack"] = True  # it has no name for a screen reader
    _ignore_malformed_messages()
    logging.getLogger("nicegui").setLevel(logging.CRITICAL)  # it logs addresses, and tracebacks of what is told here
    pages.on_exception(_tell)
    return Guard(site, token, MAX_REQUEST)


def _serve_photos(site: FastAPI, worker: SearchWorker) -> None:
    thumbnails = Thumbnails(worker.searcher.index)
    # One decodes at a time. Each tab waits for its own photos first, so that nobody waits for all photos of another.
    thread, turns = ThreadPoolExecutor(1, "thumbnails"), WeakValueDictionary()

    @site.get("/photo/{row}")
    async def photo(row: str, tab: str = "", of: str = "") -> Response:
        """Send the thumbnail of a row; nothing if `of` is given and is not the mark of that row's path."""
        number = int(row) if re.fullmatch("[0-9]{1,12}", row) else -1
        index = thumbnails.index = worker.searcher.index
        if of and number < index.count and of != path_mark(index.path(number)):
            number = -1
        try:
            async with turns.setdefault(tab, asyncio.Lock()):
                content = await asyncio.get_running_loop().run_in_executor(thread, thumbnails.get, number)
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
