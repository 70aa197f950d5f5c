"""The form of the page: description, sketch, their weights, and the number of photos."""

from collections.abc import Awaitable, Callable

from nicegui import events, ui

from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.sketch_box import SketchBox
from ms_unireid.apps.web.worker import SearchWorker

COUNTS = (10, 20, 50, 100)
# Shift+Enter inserts a line break; Enter within an input method selects a word.
_ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit() } }"
_NUMBER = "(e) => emit(Number(e.target.value))"


class QueryForm:
    """The form, built in NiceGUI's current slot.

    Args:
        worker: Decodes the uploads.
        on_search: Called to search.
        on_problem: Called with the error of an upload, or with an empty text after a good one.
    """

    def __init__(
        self, worker: SearchWorker, on_search: Callable[[], Awaitable[None]], on_problem: Callable[[str], None]
    ):
        self._text = ui.textarea("Describe the person", placeholder="A woman in a red coat with a black bag …")
        self._text.props("outlined autogrow autofocus").classes("full")
        self._text.on("keydown.enter", on_search, js_handler=_ENTER)
        self._text.on_value_change(self._update_weight)
        ui.label("Draw or upload a sketch, with or without a description").classes("hint")
        self._sketch = SketchBox(worker, self._update_weight, on_problem)
        self._build_weight()
        with ui.element("div").classes("submit"):
            self._build_count()
            self._submit = ui.button("Search", icon="search", on_click=on_search).props("unelevated no-caps")
        self._update_weight()

    @property
    def query(self) -> PageQuery:
        """The query that the form holds."""
        return PageQuery(
            # A browser may send any JSON as the value of a field.
            text=self._text.value if isinstance(self._text.value, str) else "",
            strokes=self._sketch.strokes,
            uploads=self._sketch.uploads,
            photos=self._sketch.photos,
            as_is=self._sketch.as_is,
            weight=self._weight.props["value"],
            top_k=self._count.props["value"],
        )

    def show(self, query: PageQuery) -> None:
        """Fill the form with an earlier query."""
        self._text.value, self._weight.props["value"] = query.text, query.weight
        self._count.props["value"] = query.top_k
        self._sketch.show(query)

    def set_busy(self, busy: bool) -> None:
        """Show or hide the sign of a running search."""
        self._submit.props["loading"] = busy

    # The browser's own controls: Quasar's slider and menu take the focus without a role.

    def _build_weight(self) -> None:
        with ui.element("div").classes("weight"):
            self._weight = ui.element("input").props('type="range" min="0" max="1" step="0.05"').classes("full")
            self._weight_label = ui.label().classes("hint")
        self._weight.props["aria-label"], self._weight.props["value"] = "Weight of the sketch", 0.5
        self._weight.on("input", self._on_weight, js_handler=_NUMBER)

    def _build_count(self) -> None:
        with ui.element("label").classes("count"):
            ui.label("Photos")
            self._count = ui.element("select")
            self._count.props["value"] = COUNTS[0]
            with self._count:
                for count in COUNTS:
                    ui.html(str(count), tag="option", sanitize=False)
        self._count.on("change", self._on_count, js_handler=_NUMBER)

    def _on_weight(self, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, int | float) and 0 <= event.args <= 1:
            self._weight.props["value"] = event.args
            self._update_weight()

    def _on_count(self, event: events.GenericEventArguments) -> None:
        if event.args in COUNTS:
            self._count.props["value"] = int(event.args)

    def _update_weight(self) -> None:
        """Enable the weight if there are a description and a sketch, and show its value."""
        query = self.query
        both = bool(query.text.strip()) and query.has_pictures
        weights = f"Description {1 - query.weight:.0%}, sketch {query.weight:.0%}"
        self._weight.props["disabled"], self._weight.props["aria-valuetext"] = not both, weights
        self._weight_label.text = weights if both else "The weight applies to a description with a sketch."
