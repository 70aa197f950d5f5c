"""The search page: its routes, the state of each browser tab, and the server."""

import logging
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response
from nicegui import app as pages
from nicegui import ui
from starlette.formparsers import MultiPartParser

from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.access import Guard
from ms_unireid.apps.web.form import QueryForm
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.results import ResultList
from ms_unireid.apps.web.thumbnails import Thumbnails
from ms_unireid.apps.web.uploads import MAX_BYTES
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import ConfigError, UserError

_TITLE = "Person search"
_STYLE = Path(__file__).with_name("page.css")
_HISTORY = 20  # queries per tab
_FORM_OVERHEAD = 1 << 16  # bytes of an upload request besides the file
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
        self._worker, self._queries, self._busy = worker, history, False
        with ui.element("header").classes("top"):
            with ui.element("h1"):
                ui.label(_TITLE)
            ui.label("The score is the cosine similarity of the query and the photo.").classes("hint")
        with ui.element("main").classes("page"):
            with ui.element("section").classes("form").props('aria-label="Query"'):
                self._form = QueryForm(worker, self._search_form, lambda problem: self._results.show_problem(problem))
            with ui.element("section").classes("found").props('aria-label="Results"'):
                self._results = ResultList(worker.searcher.index.count, self._search_photo)
            with ui.element("section").classes("history").props('aria-label="History"'):
                ui.label("History").classes("caption")
                self._history = ui.element("ul")
        self._show_history()

    async def _search_form(self) -> None:
        await self._search(self._form.query)

    async def _search_photo(self, hit: Hit) -> None:
        await self._search(PageQuery(photo=hit.row, photo_name=hit.path.name, top_k=self._form.query.top_k))

    async def _repeat(self, query: PageQuery) -> None:
        if query.photo is None:
            self._form.show(query)
        await self._search(query)

    async def _search(self, query: PageQuery) -> None:
        """Search and show the results or the error; one search at a time per tab."""
        if self._busy:
            return
        self._set_busy(True)
        try:
            answer = await self._worker.search(query)
        except UserError as problem:
            self._results.show_problem(str(problem))
        except Exception:
            _log.exception("a search failed")
            self._results.show_problem("The search failed. The terminal that runs the page shows the error.")
        else:
            self._results.show(query.name(), answer)
            self._remember(query)
        finally:
            self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._form.set_busy(busy)
        if busy:
            self._results.show_loading()

    def _remember(self, query: PageQuery) -> None:
        earlier = [other for other in self._queries if other != query]
        self._queries[:] = [query, *earlier][:_HISTORY]
        self._show_history()

    def _show_history(self) -> None:
        self._history.clear()
        with self._history:
            if not self._queries:
                ui.label("Your queries appear here.").classes("hint")
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
    MultiPartParser.spool_max_size = MAX_BYTES + _FORM_OVERHEAD  # an upload stays in memory
    pages.storage.max_tab_storage_age = _DAY
    site = FastAPI(openapi_url=None)
    _serve_photos(site, Thumbnails(worker.searcher.index))

    @ui.page("/", title=_TITLE)
    async def page() -> None:
        ui.add_css(_STYLE)
        ui.colors(primary="#1d5a86")
        await ui.context.client.connected()  # the tab is unknown before
        SearchPage(worker, pages.storage.tab.setdefault("queries", []))

    ui.run_with(site, title=_TITLE, dark=None, language="en-GB", reconnect_timeout=30, tailwind=False)
    return Guard(site, token, MAX_BYTES + _FORM_OVERHEAD)


def bind(host: str, port: int) -> socket.socket:
    """Open the socket of the page; port 0 takes a free one. Call it before the slow start of the model.

    Raises:
        ConfigError: If the port is invalid or in use, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 1 to 65535, or 0 for a free one")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{host} port {port} cannot be opened ({reason}); choose another --port, or 0 for a free one"
        ) from error


def serve(site: Guard, listener: socket.socket) -> None:
    """Serve the page until a signal stops it; without an access log, which would contain tokens."""
    config = uvicorn.Config(
        site, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    uvicorn.Server(config).run(sockets=[listener])


def address_of(listener: socket.socket) -> str:
    """Return the URL to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _serve_photos(site: FastAPI, thumbnails: Thumbnails) -> None:
    @site.get("/photo/{row:int}")
    def photo(row: int) -> Response:
        try:
            # Not cached: another index has another photo at the same URL.
            return Response(thumbnails.get(row), media_type="image/jpeg", headers={"Cache-Control": "no-store"})
        except UserError as error:
            _log.warning("%s", error)
            return Response(_GONE, 404, media_type="image/svg+xml")
