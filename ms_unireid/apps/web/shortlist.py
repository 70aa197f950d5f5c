"""The shortlist of the page: kept photos with notes, side by side, in a case file if the page has a folder for them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import events, ui

from ms_unireid.apps.search.handover import Entry
from ms_unireid.apps.search.places import path_of
from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.cases import MAX_NOTE, Cases, Kept, Shortlist
from ms_unireid.apps.web.page_query import Found
from ms_unireid.apps.web.results import thumbnail
from ms_unireid.apps.web.viewer import COMPARED, compare
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError, escaped

_VALUE = "(e) => emit(e.target.value)"


class ShortlistPanel:
    """The panel, built in NiceGUI's current slot.

    Args:
        worker: Tells which photos are still indexed.
        cases: The case files; None if the page was started without a folder for them.
        state: What the tab keeps: `list`, the shortlist, and `case`, its name.
        on_change: Called when the list has changed.
        on_open: Called with the hits of the list and a place, to show that photo large.
        on_problem: Called with an error.
    """

    def __init__(
        self,
        worker: SearchWorker,
        cases: Cases | None,
        state: dict[str, Any],
        on_change: Callable[[], None],
        on_open: Callable[[list[Hit], int], Any],
        on_problem: Callable[[str], None],
    ):
        self._worker, self._cases, self._state = worker, cases, state
        self._on_change, self._on_open, self._on_problem = on_change, on_open, on_problem
        self._photos: list[Kept] = []
        self._shown: dict[Kept, ui.element] = {}
        self._compared: list[str] = []  # paths
        if "list" not in state:
            state["list"] = Shortlist()
        ui.label(t("Shortlist")).classes("caption")
        if cases is not None:
            self._build_cases(cases)
        self._hint = ui.label(t("Photos that you keep appear here.")).classes("hint")
        self._list = ui.element("ul").classes("kept")
        self._compare = ui.button(t("Compare"), icon="compare", on_click=self._on_compare).props("flat dense no-caps")
        self._show()

    @property
    def paths(self) -> set[Path]:
        """Paths of the kept photos."""
        return {path_of(one.path) for one in self._photos}

    @property
    def entries(self) -> list[Entry]:
        """The kept photos that are still indexed as they were kept, in order."""
        found = [(one, self._find(one)) for one in self._photos]
        indexed = [(one, photo) for one, photo in found if photo is not None]
        return [
            Entry(one.query, self._hit(rank, one.score, photo.row), one.note)
            for rank, (one, photo) in enumerate(indexed, 1)
        ]

    def toggle(self, hit: Hit, query: str) -> None:
        """Keep a photo that a query found, or remove it if it is kept."""
        try:
            if hit.path in self.paths:
                self._state["list"].remove(str(hit.path))
            else:
                index = self._worker.searcher.index
                sha256 = index.sha256(index.row(hit.path, hit.row)) or b""
                self._state["list"].keep(Kept(str(hit.path), sha256, float(hit.score), query))
        except UserError as error:
            self._on_problem(str(error))
        self.show()

    def show(self) -> None:
        """Show the list as it is now."""
        self._show()
        self._on_change()

    def look_again(self) -> None:
        """Show what another page has changed in the case file; one that cannot be read is told at the next use."""
        if self._state["list"].file is not None:
            with contextlib.suppress(UserError):
                if self._state["list"].photos() != self._photos:
                    self.show()

    def _show(self) -> None:
        try:
            self._photos = self._state["list"].photos()
        except UserError as error:
            self._photos = []
            self._on_problem(str(error))
        self._compared = [one.path for one in self._photos if one.path in self._compared]
        # Only what has changed is built: a thousand photos take seconds, and their fields may be in use.
        for one in self._shown.keys() - set(self._photos):
            self._shown.pop(one).delete()
        if [*self._shown] != self._photos[: len(self._shown)]:  # another page has changed one above others
            for item in self._shown.values():
                item.delete()
            self._shown.clear()
        with self._list:
            for one in self._photos[len(self._shown) :]:
                self._shown[one] = self._build(one)
        self._hint.set_visibility(not self._photos)
        self._compare.set_visibility(len(self._photos) > 1)

    def _build(self, kept: Kept) -> ui.element:
        photo, name = self._find(kept), escaped(path_of(kept.path).name, 200)
        with ui.element("li") as item:
            with ui.element("button").props('type="button"').classes("open") as opener:
                opener.props["aria-label"] = t("Open {name}").format(name=name)
                if photo is None:
                    ui.icon("hide_image").props('aria-hidden="true"')
                    opener.props["disabled"] = True
                else:
                    thumbnail(photo, opener.client.id)
                    opener.on("click", lambda: self._open(kept.path), args=[])
            with ui.element("div").classes("kept-side"):
                ui.label(name).classes("name")
                gone = t("no longer in the index")
                ui.label(f"{kept.score:.3f} · {kept.query}" if photo else gone).classes("hint")
                note = ui.element("input").props(f'type="text" maxlength="{MAX_NOTE}"')
                note.props["aria-label"] = note.props["placeholder"] = t("Note on {name}").format(name=name)
                note.props["defaultValue"] = kept.note  # with `value`, each change of the page undoes what is typed
                note.on("change", lambda event: self._on_note(kept.path, event), js_handler=_VALUE)
            chosen = ui.checkbox(value=kept.path in self._compared).props("dense")
            chosen.props["aria-label"] = t("Compare {name}").format(name=name)
            chosen.on_value_change(lambda event: self._on_chosen(kept.path, event.value is True))
            remove = ui.button(icon="close", on_click=lambda: self._on_remove(kept.path)).props("flat dense round")
            remove.props["aria-label"] = t("Remove {name}").format(name=name)
        return item

    def _build_cases(self, cases: Cases) -> None:
        with ui.element("div").classes("cases"):
            field = ui.input(t("Case"), value=self._state.get("case", ""), autocomplete=cases.names)
            field.props("dense outlined").classes("full")
            begin = ui.button(t("Open"), on_click=lambda: self._on_case(field.value)).props("flat no-caps")
            field.on("keydown.enter", lambda: self._on_case(field.value))
        begin.props["title"] = t(
            "Open a case, or begin one, which keeps the shortlist on this disk; no name leaves the case"
        )

    def _on_case(self, name: object) -> None:
        """Open a case; no name leaves the one that is open."""
        name = name.strip() if isinstance(name, str) else ""
        try:
            opened = self._cases.open(name) if name or self._state["list"].file is None else Shortlist()
            if self._state["list"].file is None:
                opened.keep(*self._state["list"].photos())  # what was kept before the case was begun
        except UserError as error:
            self._on_problem(str(error))
            return
        self._on_problem("")
        self._state["list"].close()
        self._state["list"], self._state["case"] = opened, name
        self.show()

    def _on_note(self, path: str, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, str):
            try:
                self._state["list"].note(path, event.args)
                noted = {one.path: one for one in self._state["list"].photos()}
                # The field that has this note stays, and the focus with it.
                self._shown = {
                    noted.get(one.path, one) if one.path == path else one: item for one, item in self._shown.items()
                }
            except UserError as error:
                self._on_problem(str(error))
            self.show()

    def _on_remove(self, path: str) -> None:
        try:
            self._state["list"].remove(path)
        except UserError as error:
            self._on_problem(str(error))
        self.show()

    def _on_chosen(self, path: str, is_chosen: bool) -> None:
        others = [one for one in self._compared if one != path]
        self._compared = [*others, path][-COMPARED:] if is_chosen else others

    def _on_compare(self) -> None:
        chosen = self._compared or [one.path for one in self._photos][:COMPARED]
        kept = [(one, self._find(one)) for one in self._photos if one.path in chosen]
        compare([(found, f"{found.path.name} {one.note}") for one, found in kept if found is not None])

    async def _open(self, path: str) -> None:
        hits = [entry.hit for entry in self.entries]
        place = next((place for place, hit in enumerate(hits) if str(hit.path) == path), None)
        if place is not None:
            await self._on_open(hits, place)

    def _find(self, kept: Kept) -> Found | None:
        """Return a kept photo if the index has it as it was kept."""
        index, path = self._worker.searcher.index, path_of(kept.path)
        try:
            row = index.row(path)
            return Found(row, path) if index.sha256(row) == kept.sha256 else None
        except UserError:
            return None

    def _hit(self, rank: int, score: float, row: int) -> Hit:
        index = self._worker.searcher.index
        return Hit(rank, score, row, index.path(row), index.person(row), index.taken(row), index.camera(row))
