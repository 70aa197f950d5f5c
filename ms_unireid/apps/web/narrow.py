"""The filters of the page: folders, cameras, persons, times, and whether near-identical photos are folded."""

import html
import os
from collections.abc import Mapping
from pathlib import Path

from nicegui import events, ui

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.places import is_url
from ms_unireid.apps.web.words import t
from ms_unireid.errors import QueryError, escaped

_MAX_OPTIONS = 500
_CHOSEN = "(e) => emit([...e.target.selectedOptions].map(one => one.value))"


class Narrow:
    """The filters, built in NiceGUI's current slot; what the index does not know is not offered.

    Args:
        index: Tells its folders, cameras, persons and times.
    """

    def __init__(self, index: PhotoStore):
        self._chosen: dict[str, tuple[str, ...]] = {"folders": (), "cameras": ()}
        self._fields: dict[str, ui.input] = {}
        self._lists: dict[str, tuple[ui.element, Mapping[str, int]]] = {}
        with ui.element("details").classes("narrow"):
            with ui.element("summary"):
                self._summary = ui.label()
            self._build_list("folders", t("Folders"), index.folders)
            self._build_list("cameras", t("Cameras"), index.cameras)
            if index.persons:
                self._build_field("persons", t("Persons, with commas between"), "text")
            if index.times:
                self._build_field("after", t("Taken from"), "datetime-local")
                self._build_field("before", t("Taken until"), "datetime-local")
                known = t("From {first} to {last}; photos without a time are left out.")
                ui.label(known.format(first=index.times[0], last=index.times[1])).classes("hint")
            self._fold = ui.checkbox(t("Fold copies and near-identical photos"), value=True).props("dense")
        self._show_count()

    @property
    def filter(self) -> Filter:
        """The filter that is set; a QueryError tells of a time that is none."""
        # A browser may send any JSON as the value of a field.
        given = {key: field.value for key, field in self._fields.items() if isinstance(field.value, str)}
        persons = tuple(one.strip() for one in given.pop("persons", "").split(",") if one.strip())
        return Filter(**self._chosen, persons=persons, **given)

    @property
    def fold(self) -> bool:
        """Whether near-identical photos are folded."""
        return bool(self._fold.value)

    def show(self, where: Filter, fold: bool) -> None:
        """Show a filter."""
        for key, (_, known) in self._lists.items():
            self._chosen[key] = tuple(one for one in getattr(where, key) if one in known)
            self._show_options(key)
        asked = {"persons": ", ".join(where.persons)}
        for key, time in zip(("after", "before"), where.times, strict=True):
            given = getattr(where, key)
            asked[key] = given if "T" in given or not given else time  # a field for times cannot show a date
        for key, field in self._fields.items():
            field.value = asked[key]
        self._fold.value = fold
        self._show_count()

    def _build_list(self, key: str, title: str, known: Mapping[str, int]) -> None:
        if len(known) < 2:
            return
        with ui.element("label").classes("field"):
            ui.label(title)
            field = ui.element("select").props(f"multiple size={min(4, len(known))}")
        field.on("change", lambda event: self._choose(key, event), js_handler=_CHOSEN)
        self._lists[key] = field, known
        self._show_options(key)

    def _show_options(self, key: str) -> None:
        field, known = self._lists[key]
        shared = os.path.commonpath(known) if key == "folders" and len(set(map(is_url, known))) == 1 else ""
        field.clear()
        with field:
            for name, count in list(known.items())[:_MAX_OPTIONS]:
                shown = os.path.relpath(name, Path(shared).parent) if shared else name
                option = ui.html(html.escape(f"{escaped(shown, 100)} ({count:,})"), tag="option", sanitize=False)
                option.props["value"], option.props["selected"] = name, name in self._chosen[key]

    def _build_field(self, key: str, title: str, kind: str) -> None:
        self._fields[key] = ui.input(title, on_change=self._show_count).props(
            f'type="{kind}" stack-label outlined dense'
        )

    def _choose(self, key: str, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, list):
            known = self._lists[key][1]
            self._chosen[key] = tuple(one for one in event.args if isinstance(one, str) and one in known)
            self._show_count()

    def _show_count(self) -> None:
        try:
            where = self.filter
            count = sum(map(bool, (where.folders, where.cameras, where.persons, where.after, where.before)))
        except QueryError:
            count = 1
        self._summary.text = t("Narrow the search") + f" ({count})" * bool(count)
