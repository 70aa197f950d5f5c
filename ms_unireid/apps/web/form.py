"""The form of the page: description, pictures, their weights, filters, and the number of photos."""

from collections.abc import Awaitable, Callable

from nicegui import events, ui

from ms_unireid.apps.web.canvas import NUMBER
from ms_unireid.apps.web.narrow import Narrow
from ms_unireid.apps.web.page_query import COUNTS, Found, PageQuery
from ms_unireid.apps.web.sketch_box import SketchBox
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import escaped
from ms_unireid.modalities import PHOTO

# Shift+Enter inserts a line break; Enter within an input method selects a word.
_ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit() } }"


class QueryForm:
    """The form, built in NiceGUI's current slot.

    Args:
        worker: Decodes the uploads.
        on_search: Called to search.
        on_problem: Called with the error of an upload, or with an empty text after a good one.

    Attributes:
        sketch: The sheet with its uploads.
    """

    def __init__(
        self, worker: SearchWorker, on_search: Callable[[], Awaitable[None]], on_problem: Callable[[str], None]
    ):
        self._start: Found | None = None
        example = t("A woman in a red coat with a black bag …")
        self._text = ui.textarea(t("Describe the person"), placeholder=example)
        self._text.props("outlined autogrow autofocus").classes("full")
        self._text.on("keydown.enter", on_search, js_handler=_ENTER)
        self._text.on_value_change(self._update_weight)
        self._start_line = ui.element("div").classes("start")
        ui.label(t("Draw or upload a sketch, with or without a description")).classes("hint")
        self.sketch = SketchBox(worker, self._update_weight, on_problem)
        self._build_weight()
        self._narrow = Narrow(worker.searcher.index)
        with ui.element("div").classes("submit"):
            self._build_count()
            self._submit = ui.button(t("Search"), icon="search", on_click=on_search).props("unelevated no-caps")
        self._update_weight()

    @property
    def query(self) -> PageQuery:
        """The query that the form holds; a QueryError tells of a time that is none."""
        uploads = self.sketch.uploads
        return PageQuery(
            # A browser may send any JSON as the value of a field.
            text=self._text.value if isinstance(self._text.value, str) else "",
            strokes=self.sketch.strokes,
            uploads=tuple(picture for kind, picture in uploads if kind == "sketch"),
            photos=tuple(picture for kind, picture in uploads if kind == PHOTO),
            others=tuple(one for one in uploads if one[0] not in ("sketch", PHOTO)),
            as_is=self.sketch.as_is,
            start=self._start,
            weight=self._weight.props["value"],
            where=self._narrow.filter,
            fold=self._narrow.fold,
            top_k=self._count.props["value"],
        )

    def show(self, query: PageQuery) -> None:
        """Fill the form with an earlier query."""
        self._text.value, self._weight.props["value"] = query.text, query.weight
        self._count.props["value"] = query.top_k
        self._narrow.show(query.where, query.fold)
        self.sketch.show(query)
        self.start_from(query.start)

    def start_from(self, photo: Found | None) -> None:
        """Search from a found photo, too, or no longer from one."""
        self._start = photo
        self._start_line.clear()
        if photo is not None:
            with self._start_line:
                ui.label(t("From photo {name}").format(name=escaped(photo.path.name, 200))).classes("hint")
                leave = ui.button(icon="close", on_click=lambda: self.start_from(None)).props("flat dense round")
                leave.props["aria-label"] = t("Do not search from this photo")
        self._update_weight()

    def set_busy(self, busy: bool) -> None:
        """Show or hide the sign of a running search."""
        self._submit.props["loading"] = busy

    # The browser's own controls: Quasar's slider and menu take the focus without a role.

    def _build_weight(self) -> None:
        with ui.element("div").classes("weight"):
            self._weight = ui.element("input").props('type="range" min="0" max="1" step="0.05"').classes("full")
            self._weight_label = ui.label().classes("hint")
        self._weight.props["aria-label"], self._weight.props["value"] = t("Weight of the pictures"), 0.5
        self._weight.on("input", self._on_weight, js_handler=NUMBER)

    def _build_count(self) -> None:
        with ui.element("label").classes("count"):
            ui.label(t("Photos"))
            self._count = ui.element("select")
            self._count.props["value"] = COUNTS[1]
            with self._count:
                for count in COUNTS:
                    ui.html(str(count), tag="option", sanitize=False)
        self._count.on("change", self._on_count, js_handler=NUMBER)

    def _on_weight(self, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, int | float) and 0 <= event.args <= 1:
            self._weight.props["value"] = event.args
            self._update_weight()

    def _on_count(self, event: events.GenericEventArguments) -> None:
        if event.args in COUNTS:
            self._count.props["value"] = int(event.args)

    def _update_weight(self) -> None:
        """Enable the weight if there are a description and a picture, and show its value."""
        weight, text = self._weight.props["value"], self._text.value
        has_picture = self.sketch.strokes or self.sketch.uploads or self._start
        both = isinstance(text, str) and bool(text.strip()) and bool(has_picture)
        weights = t("Description {text}, pictures {pictures}").format(
            text=f"{1 - weight:.0%}", pictures=f"{weight:.0%}"
        )
        self._weight.props["disabled"], self._weight.props["aria-valuetext"] = not both, weights
        self._weight_label.text = weights if both else t("The weight applies to a description with a picture.")
