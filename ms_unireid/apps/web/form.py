"""The form of the page: description, sketch, their weights, and the number of photos."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.sketch_box import SketchBox
from ms_unireid.apps.web.worker import SearchWorker

COUNTS = (10, 20, 50, 100)
# Shift+Enter inserts a line break; Enter within an input method selects a word.
_ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit() } }"


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
            self._count = ui.select(list(COUNTS), value=COUNTS[0], label="Photos").props("outlined dense")
            self._submit = ui.button("Search", icon="search", on_click=on_search).props("unelevated no-caps")
        self._update_weight()

    @property
    def query(self) -> PageQuery:
        """The query that the form holds."""
        return PageQuery(
            text=self._text.value or "",
            strokes=self._sketch.strokes,
            upload=self._sketch.upload,
            weight=float(self._weight.value),
            top_k=int(self._count.value),
        )

    def show(self, query: PageQuery) -> None:
        """Fill the form with an earlier query."""
        self._text.value, self._weight.value, self._count.value = query.text, query.weight, query.top_k
        self._sketch.show(query.strokes, query.upload)

    def set_busy(self, busy: bool) -> None:
        """Show or hide the sign of a running search."""
        self._submit.props["loading"] = busy

    def _build_weight(self) -> None:
        with ui.element("div").classes("weight"):
            self._weight = ui.slider(min=0, max=1, step=0.05, value=0.5, on_change=self._update_weight)
            self._weight.props('aria-label="Weight of the sketch"')
            self._weight_label = ui.label().classes("hint")

    def _update_weight(self) -> None:
        """Enable the weight if there are a description and a sketch, and show its value."""
        query = self.query
        both = bool(query.text.strip()) and query.has_sketch
        self._weight.set_enabled(both)
        weights = f"Description {1 - query.weight:.0%}, sketch {query.weight:.0%}"
        self._weight_label.text = weights if both else "The weight applies to a description with a sketch."
