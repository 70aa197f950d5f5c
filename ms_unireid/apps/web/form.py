"""The page's form: description, sheet of paper, how much each counts, how many photos to show."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.sketch_box import SketchBox
from ms_unireid.apps.web.worker import SearchWorker

COUNTS = (10, 20, 50, 100)
# Shift and Enter is a new line; an input method's Enter picks a word.
_ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit() } }"


class QueryForm:
    """What the user asks with."""

    def __init__(
        self, worker: SearchWorker, on_search: Callable[[], Awaitable[None]], on_problem: Callable[[str], None]
    ):
        """Build the elements in the current slot.

        Args:
            worker: For the sheet of paper.
            on_search: Called when the user wants to search.
            on_problem: Called with what is wrong with an upload, or with nothing after a good one.
        """
        self._text = ui.textarea("Describe the person", placeholder="A woman in a red coat with a black bag …")
        self._text.props("outlined autogrow autofocus").classes("full")
        self._text.on("keydown.enter", on_search, js_handler=_ENTER)
        self._text.on_value_change(self._balance)
        ui.label("and, or instead, draw or upload a sketch").classes("hint")
        self._sketch = SketchBox(worker, self._balance, on_problem)
        self._build_weight()
        with ui.element("div").classes("submit"):
            self._count = ui.select(list(COUNTS), value=COUNTS[0], label="Photos").props("outlined dense")
            self._submit = ui.button("Search", icon="search", on_click=on_search).props("unelevated no-caps")
        self._balance()

    @property
    def query(self) -> PageQuery:
        """Return what is asked."""
        return PageQuery(
            text=self._text.value or "",
            strokes=self._sketch.strokes,
            upload=self._sketch.upload,
            weight=float(self._weight.value),
            top_k=int(self._count.value),
        )

    def show(self, query: PageQuery) -> None:
        """Put an earlier query into the form."""
        self._text.value, self._weight.value, self._count.value = query.text, query.weight, query.top_k
        self._sketch.show(query.strokes, query.upload)

    def set_busy(self, busy: bool) -> None:
        """Show whether a search is under way."""
        self._submit.props["loading"] = busy

    def _build_weight(self) -> None:
        with ui.element("div").classes("weight"):
            self._weight = ui.slider(min=0, max=1, step=0.05, value=0.5, on_change=self._balance)
            self._weight.props('aria-label="How much the sketch counts against the description"')
            self._weight_label = ui.label().classes("hint")

    def _balance(self) -> None:
        """Enable the weight where there are two things to weigh, and say what it means."""
        query = self.query
        both = bool(query.text.strip()) and query.has_sketch
        self._weight.set_enabled(both)
        share = f"Description {1 - query.weight:.0%}, sketch {query.weight:.0%}"
        self._weight_label.text = share if both else "With both, choose here how much each counts."
