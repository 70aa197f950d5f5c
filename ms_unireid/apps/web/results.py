"""The results of the page: ranked photos, and the status of the search."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.worker import Answer


class ResultList:
    """Status and ranked photos, built in NiceGUI's current slot.

    Args:
        count: Number of photos in the index.
        on_photo: Called with a hit to find similar photos.
    """

    def __init__(self, count: int, on_photo: Callable[[Hit], Awaitable[None]]):
        self._count, self._on_photo = count, on_photo
        # Screen readers announce changes of it.
        self._status = ui.element("div").classes("status").props('role="status" aria-live="polite"')
        self._list = ui.element("ol").classes("results").props('aria-label="Ranked photos"')
        with self._list, ui.element("li").classes("empty"):
            ui.icon("person_search").props('aria-hidden="true"')
            ui.label(f"{count:,} photos to search. Describe a person, add a sketch, or do both.")

    def show_loading(self) -> None:
        """Show that a search is running."""
        self._show_status(f"Searching {self._count:,} photos …", spinner=True)
        self._list.classes(add="stale")

    def show_problem(self, message: str) -> None:
        """Show an error, or hide it if the message is empty; earlier results stay visible."""
        self._list.classes(remove="stale")
        self._status.clear()
        if not message:
            return
        with self._status, ui.element("div").classes("problem").props('role="alert"'):
            ui.icon("error_outline").props('aria-hidden="true"')
            ui.label(message)

    def show(self, title: str, answer: Answer) -> None:
        """Show the results of a query."""
        self._show_status(f"{len(answer.hits)} of {self._count:,} photos for {title}", answer.note)
        self._list.clear()
        self._list.classes(remove="stale")
        with self._list:
            for hit in answer.hits:
                self._build_card(hit)
        # On a narrow screen the list is below the form. The client scrolls, since the clicked card no longer exists.
        show = f'getHtmlElement({self._status.id}).scrollIntoView({{block: "nearest"}})'
        self._status.client.run_javascript(show)

    def _show_status(self, title: str, note: str = "", spinner: bool = False) -> None:
        self._status.clear()
        with self._status:
            if spinner:
                ui.spinner(size="1.5em")
            ui.label(title).classes("status-title")
            if note:
                ui.label(note).classes("note")

    def _build_card(self, hit: Hit) -> None:
        async def find_similar() -> None:
            await self._on_photo(hit)

        with ui.element("li").classes("card"):
            picture = ui.element("img").props(f'src="/photo/{hit.row}" loading="lazy"').classes("photo")
            picture.props["alt"] = f"Photo {hit.path.name}, rank {hit.rank}"
            picture.on("click", find_similar, args=[])
            with ui.element("div").classes("card-line"):
                ui.label(f"{hit.rank}").classes("rank")
                ui.label(f"{hit.score:.3f}").classes("score").props('title="cosine similarity"')
            name = ui.label(hit.path.name).classes("name")
            name.props["title"] = hit.path.name
            button = ui.button("Find similar", icon="image_search", on_click=find_similar)
            button.props("flat dense no-caps no-wrap").props["aria-label"] = f"Find photos similar to {hit.path.name}"
