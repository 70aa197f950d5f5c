"""The search page in one browser tab: its parts, and the way of a query through them."""

import asyncio
import dataclasses
import functools
import logging
import zlib
from pathlib import Path
from typing import Any

from nicegui import ui

from ms_unireid.apps.search.handover import Entry
from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.search.searcher import ROCCHIO
from ms_unireid.apps.web.cases import Cases
from ms_unireid.apps.web.form import QueryForm
from ms_unireid.apps.web.hand_over import Downloads, HandOverRow
from ms_unireid.apps.web.page_query import Found, PageQuery, read_address
from ms_unireid.apps.web.photos import Photos
from ms_unireid.apps.web.results import ResultList
from ms_unireid.apps.web.shortlist import ShortlistPanel
from ms_unireid.apps.web.viewer import Viewer
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import Answer, SearchWorker, state_of
from ms_unireid.errors import UserError, escaped

TITLE = "Person search"
_SCORE = (
    "The score is the cosine similarity of the query and the photo, at most 1. It orders photos and is not a "
    "probability: 0.4 may be a find for a description, whose scores are lower than those of sketches and photos."
)
_HISTORY, _LISTED = 100, 20  # queries that a tab knows, and that are listed
_NAMED = 20  # near-identical photos
_LOOK_AGAIN = 10.0  # seconds until a page looks for a newer index
_MAX_ADDRESS = 100_000  # characters
_LONGEST = 4_000  # characters of an address that the page makes; proxies refuse those of 8,000

_log = logging.getLogger(__name__)


class SearchPage:
    """The page in one browser tab, built in NiceGUI's current slot.

    Args:
        worker: Answers the queries.
        photos: Tells facts of the photos.
        downloads: Makes the files that are handed over.
        cases: The case files, if the page has a folder for them.
        state: What the tab keeps over a reload: queries, newest first, and the shortlist.
    """

    def __init__(
        self, worker: SearchWorker, photos: Photos, downloads: Downloads, cases: Cases | None, state: dict[str, Any]
    ):
        self._worker, self._photos, self._client = worker, photos, ui.context.client
        self._state = state_of(worker.searcher.index)
        self._queries: list[PageQuery] = state.setdefault("queries", [])
        self._latest: PageQuery | None = None
        self._shown: tuple[PageQuery, Answer] | None = None
        self._marks: dict[str, dict[Path, Found]] = {"more": {}, "less": {}}
        self._opened: list[Hit] = []  # the list that the viewer goes through
        self._turn = asyncio.Lock()
        self._build_top()
        with ui.element("div").classes("page"):
            with _section("form", "Query"):
                self._form = QueryForm(worker, self._search_form, self._show_problem)
            with _section("found", "Results") as found:
                found.props('id="found" tabindex="-1"')
                self._results = ResultList(
                    worker.searcher.index, lambda action, place: self._act(action, self._hits, place)
                )
                with self._results.tools:
                    self._mark_line = ui.element("div").classes("marks").props('role="status"')
                    self._hand_over = HandOverRow(worker, downloads, self._list, self._show_problem)
                    self._hand_over.show(False)
            with _section("history", "History"):
                ui.label(t("History")).classes("caption")
                self._wanted = ui.input(placeholder=t("Search the history"), on_change=self._show_history)
                self._wanted.props("dense").props["aria-label"] = t("Search the history")
                self._history = ui.element("ul")
            with _section("shortlist", "Shortlist"):
                self._kept = ShortlistPanel(worker, cases, state, self._press, self._open, self._show_problem)
                HandOverRow(worker, downloads, lambda: self._kept.entries, self._show_problem)
        self._viewer = Viewer(
            lambda action, place: self._act(action, self._opened, place),
            self._describe,
            lambda action, path: path in self._pressed()[action],
        )
        self._press()
        self._show_history()
        ui.on("address", lambda event: self.go(event.args))
        ui.timer(_LOOK_AGAIN, self._look_for_news)

    async def go(self, address: object) -> None:
        """Restore form and results of an address of the page; its drawings too, if the tab knows the query."""
        if not isinstance(address, str) or len(address) > _MAX_ADDRESS:
            return
        address = f"/?{address.removeprefix('?')}"
        near = (one for one in self._queries if address.startswith(_base(one)))
        query = next((one for one in near if address == self._address(one)), None)
        try:
            query = query or read_address(address[2:], self._worker.searcher.index)
        except UserError as problem:
            self._show_problem(str(problem))
            return
        self._restore(query)
        if query.is_something:
            await self._search(query, is_new=False)

    def _build_top(self) -> None:
        with ui.element("header").classes("top"):
            with ui.element("h1"):
                ui.label(t(TITLE))
            with ui.element("details").classes("hint"):
                with ui.element("summary"):
                    ui.label(t("What the score means"))
                ui.label(t(_SCORE))
            with ui.element("a").props('href="#found"').classes("to-found"):
                ui.label(t("Results"))
            self._news = ui.element("div").classes("news").props('role="status"')

    @property
    def _hits(self) -> list[Hit]:
        return self._results.hits

    def _list(self) -> list[Entry]:
        """Return the results to be handed over."""
        query, answer = self._shown
        return [Entry(query.name(), hit) for hit in answer.hits]

    async def _search_form(self) -> None:
        try:
            query = self._form.query
        except UserError as problem:
            self._show_problem(str(problem))
            return
        more, less = (tuple(self._marks[kind].values()) for kind in ("more", "less"))
        await self._search(dataclasses.replace(query, more=more, less=less))

    async def _act(self, action: str, hits: list[Hit], place: int) -> None:
        """Do what a button at a photo says."""
        with self._client:  # the button is gone when its search is answered
            await self._act_on(action, hits, place)

    async def _act_on(self, action: str, hits: list[Hit], place: int) -> None:
        hit = hits[place]
        photo = Found(hit.row, hit.path)
        if action == "open":
            await self._open(hits, place)
        elif action == "similar":
            self._form.start_from(photo)
            await self._search_form()
        elif action == "keep":
            self._kept.toggle(hit, self._shown[0].name() if self._shown else "")
        elif action == "guide":
            try:
                self._form.sketch.set_guide(await self._worker.run(self._photos.picture, hit.row))
            except UserError as problem:
                self._show_problem(str(problem))
        else:
            other = self._marks["less" if action == "more" else "more"]
            if self._marks[action].pop(hit.path, None) is None:
                other.pop(hit.path, None)
                self._marks[action][hit.path] = photo
            self._show_marks()

    async def _open(self, hits: list[Hit], place: int) -> None:
        self._opened = hits
        await self._viewer.open(hits, place)

    async def _describe(self, hit: Hit) -> list[tuple[str, str]]:
        """Return what is known of a photo."""
        try:
            width, height, size = await self._worker.run(self._photos.size, hit.row)
            size = t("{width} × {height} pixels, {size} kB").format(width=width, height=height, size=-(-size // 1000))
        except UserError:
            size = t("gone, or changed since it was indexed")
        facts = {
            "Folder": escaped(str(hit.path.parent), 4096), "File": escaped(hit.path.name, 4096), "Size": size,
            "Taken": hit.taken, "Camera": hit.camera, "Person": hit.person,
            "Judged": t("probably not here") if hit.probably_not_here else "",
            "Near-identical": ", ".join(escaped(path.name, 200) for path in self._same(hit)[:_NAMED]),
        }  # fmt: skip
        return [(t(name), value) for name, value in facts.items() if value]

    def _same(self, hit: Hit) -> list[Path]:
        """Return the paths of what is folded into a hit, unless the rows may belong to other photos by now."""
        index = self._worker.searcher.index
        return [index.path(row) for row in hit.same] if state_of(index) == self._state else []

    def _clear_marks(self) -> None:
        for marked in self._marks.values():
            marked.clear()
        self._show_marks()

    def _show_marks(self) -> None:
        """Show the marks and what they weigh."""
        self._mark_line.clear()
        more, less = (len(self._marks[kind]) for kind in ("more", "less"))
        if more or less:
            with self._mark_line:
                line = t(
                    "{more} like the person, {less} unlike. Weights: query {query}, like {liked}, unlike {unlike}."
                )
                ui.label(line.format(more=more, less=less, query=ROCCHIO[0], liked=ROCCHIO[1], unlike=ROCCHIO[2]))
                ui.button(t("Refine"), icon="tune", on_click=self._search_form).props("flat dense no-caps")
                ui.button(t("Clear the marks"), icon="close", on_click=self._clear_marks).props("flat dense no-caps")
        self._press()

    def _pressed(self) -> dict[str, set[Path]]:
        """Return which photos are marked or kept, by action."""
        return {**{kind: set(marked) for kind, marked in self._marks.items()}, "keep": self._kept.paths}

    def _press(self) -> None:
        self._results.press(self._pressed())

    def _restore(self, query: PageQuery) -> None:
        self._marks = {
            kind: {photo.path: photo for photo in photos}
            for kind, photos in (("more", query.more), ("less", query.less))
        }
        self._form.show(query)
        self._show_marks()

    async def _repeat(self, query: PageQuery) -> None:
        self._restore(query)
        await self._search(query)

    async def _search(self, query: PageQuery, is_new: bool = True) -> None:
        """Search and show the results or the error. Of the queries that wait for another, the latest is answered."""
        self._latest = query
        self._form.set_busy(True)
        self._results.show_loading()
        async with self._turn:
            answer = await self._answer(query) if self._is_wanted(query) else ""
        if self._is_wanted(query):
            self._form.set_busy(False)
            if isinstance(answer, str):
                self._show_problem(answer)
            else:
                self._show(query, answer, is_new)

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

    def _show_problem(self, problem: str) -> None:
        self._results.show_problem(t(problem))

    def _show(self, query: PageQuery, answer: Answer, is_new: bool) -> None:
        self._shown = query, answer
        self._results.show(query.name(), answer)
        self._hand_over.show(bool(answer.hits))
        if is_new:
            ui.navigate.history.push(self._remember(query))

    def _remember(self, query: PageQuery) -> str:
        """Put a query on top of the history; return its address."""
        self._queries[:] = [query, *(other for other in self._queries if other != query)][:_HISTORY]
        self._show_history()
        return self._address(query)

    def _address(self, query: PageQuery) -> str:
        """Return the address of a query; one with pictures, or too long, has a mark by which its tab knows it."""
        base, whole = _base(query), query.address()
        parts = [repr(query.strokes).encode(), *(one.tobytes() for one in query.own_pictures)]
        parts += [whole.encode()] * (base != whole)
        mark = f"&pictures={functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0):x}"
        return base + mark * bool(query.strokes or query.own_pictures or base != whole)

    def _show_history(self) -> None:
        wanted = self._wanted.value.casefold() if isinstance(self._wanted.value, str) else ""
        self._history.clear()
        with self._history:
            if not self._queries:
                with ui.element("li").classes("hint"):
                    ui.label(t("Your queries appear here."))
            found = [query for query in self._queries if wanted in query.name().casefold()]
            for query in found[:_LISTED]:
                with ui.element("li"):
                    button = ui.button(query.name(), icon="history", on_click=lambda query=query: self._repeat(query))
                    button.props("flat dense no-caps no-wrap align=left")

    async def _look_for_news(self) -> None:
        """Offer a newer index, and show what others have changed in the case."""
        self._kept.look_again()
        try:
            is_new = state_of(self._worker.searcher.index) != self._state or await self._worker.has_news()
        except UserError:
            return  # the next query works on what is in memory
        if is_new and not self._news.slots["default"].children:
            with self._news:
                ui.label(t("The index has changed."))
                ui.button(t("Search the new one"), icon="refresh", on_click=self._renew).props("flat dense no-caps")

    async def _renew(self) -> None:
        try:
            await self._worker.run(self._worker.searcher.refresh)
        except UserError as problem:
            self._show_problem(str(problem))
        else:
            ui.navigate.reload()


def _base(query: PageQuery) -> str:
    """Return the address of a query without its mark."""
    whole = query.address()
    return whole if len(whole) <= _LONGEST else "/?"


def _section(name: str, title: str) -> ui.element:
    section = ui.element("section").classes(name)
    section.props["aria-label"] = t(title)
    return section
