"""The page's ranked photos, and what stands in their place: nothing yet, a search under way, a problem."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from ms_unireid.apps.search.searcher import Hit
from ms_unireid.apps.web.worker import Answer


class ResultList:
    """One area of the page that always says what state the search is in."""

    def __init__(self, count: int, on_photo: Callable[[Hit], Awaitable[None]]):
        """Build the elements in the current slot.

        Args:
            count: Photos in the index.
            on_photo: Called with the photo to search from.
        """
        self._count, self._on_photo = count, on_photo
        # Read aloud when it changes.
        self._status = ui.element("div").classes("status").props('role="status" aria-live="polite"')
        self._list = ui.element("ol").classes("results").props('aria-label="Ranked photos"')
        with self._list, ui.element("li").classes("empty"):
            ui.icon("person_search").props('aria-hidden="true"')
            ui.label(f"{count:,} photos to search. Describe a person, draw one, or do both.")

    def show_loading(self) -> None:
        """Say that a search is under way."""
        self._say(f"Searching {self._count:,} photos …", spinner=True)
        self._list.classes(add="stale")

    def show_problem(self, message: str) -> None:
        """Say what the user has to mend, or with an empty message that it is mended; what was found stays in view."""
        self._list.classes(remove="stale")
        self._status.clear()
        if not message:
            return
        with self._status, ui.element("div").classes("problem").props('role="alert"'):
            ui.icon("error_outline").props('aria-hidden="true"')
            ui.label(message)

    def show(self, title: str, answer: Answer) -> None:
        """Show what a query found."""
        self._say(f"{len(answer.hits)} of {self._count:,} photos for {title}", answer.note)
        self._list.clear()
        self._list.classes(remove="stale")
        with self._list:
            for hit in answer.hits:
                self._build_card(hit)
        # On a narrow screen the list begins below the form. By the client: the card that was clicked is gone by now.
        show = f'getHtmlElement({self._status.id}).scrollIntoView({{block: "nearest"}})'
        self._status.client.run_javascript(show)

    def _say(self, title: str, note: str = "", spinner: bool = False) -> None:
        self._status.clear()
        with self._status:
            if spinner:
                ui.spinner(size="1.5em")
            ui.label(title).classes("status-title")
            if note:
                ui.label(note).classes("note")

    def _build_card(self, hit: Hit) -> None:
        async def search_from() -> None:
            await self._on_photo(hit)

        with ui.element("li").classes("card"):
            picture = ui.element("img").props(f'src="/photo/{hit.row}" loading="lazy"').classes("photo")
            picture.props["alt"] = f"Photo {hit.path.name}, rank {hit.rank}"
            picture.on("click", search_from, args=[])
            with ui.element("div").classes("card-line"):
                ui.label(f"{hit.rank}").classes("rank")
                ui.label(f"{hit.score:.3f}").classes("score").props('title="cosine similarity"')
            name = ui.label(hit.path.name).classes("name")
            name.props["title"] = hit.path.name
            button = ui.button("Search from it", icon="image_search", on_click=search_from)
            button.props("flat dense no-caps no-wrap").props["aria-label"] = f"Search from photo {hit.path.name}"
