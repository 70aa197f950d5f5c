"""The results of the page: ranked photos, and the status of the search."""

import os
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from nicegui import ui

from ms_unireid.apps.search.index import PhotoIndex
from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.worker import Answer
from ms_unireid.errors import escaped


class ResultList:
    """Status and ranked photos, built in NiceGUI's current slot.

    Args:
        index: Tells its number of photos and whether it is whole.
        on_photo: Called with a hit and its name to find similar photos.
    """

    def __init__(self, index: PhotoIndex, on_photo: Callable[[Hit, str], Awaitable[None]]):
        self._count, self._on_photo = index.count, on_photo
        # Screen readers announce changes of it.
        self._status = ui.element("div").classes("status").props('role="status" aria-live="polite"')
        self._list = ui.element("ol").classes("results").props('aria-label="Ranked photos"')
        with self._list, ui.element("li").classes("empty"):
            ui.icon("person_search").props('aria-hidden="true"')
            ui.label(f"{index.count:,} photos to search. Describe a person, add a sketch, or do both.")
            for note in index.notes:
                ui.label(note).classes("note")

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
        self._count = answer.count
        self._show_status(f"{len(answer.hits)} of {self._count:,} photos for {title}", answer.notes)
        self._list.clear()
        self._list.classes(remove="stale")
        with self._list:
            for hit, name in zip(answer.hits, short_names([hit.path for hit in answer.hits]), strict=True):
                self._build_card(hit, name)
        # On a narrow screen the list is below the form. The client scrolls, since the clicked card no longer exists.
        show = f'getHtmlElement({self._status.id}).scrollIntoView({{block: "nearest"}})'
        self._status.client.run_javascript(show)

    def _show_status(self, title: str, notes: Sequence[str] = (), spinner: bool = False) -> None:
        self._status.clear()
        with self._status:
            if spinner:
                ui.spinner(size="1.5em")
            ui.label(title).classes("status-title")
            for note in notes:
                ui.label(note).classes("note")

    def _build_card(self, hit: Hit, name: str) -> None:
        async def find_similar() -> None:
            await self._on_photo(hit, name)

        with ui.element("li").classes("card"):
            address = f"/photo/{hit.row}?of={path_mark(hit.path)}&tab={self._list.client.id}"
            picture = ui.element("img").props(f'src="{address}" loading="lazy"').classes("photo")
            picture.props["alt"] = f"Photo {name}, rank {hit.rank}"
            picture.on("click", find_similar, args=[])
            with ui.element("div").classes("card-line"):
                ui.label(f"{hit.rank}").classes("rank")
                ui.label(f"{min(hit.score, 1):.3f}").classes("score").props('title="cosine similarity"')
            with ui.element("details"):  # opens by mouse, finger and keyboard, and the path can be copied
                with ui.element("summary").classes("name"):
                    ui.label(name)
                ui.label(escaped(str(hit.path), 4096)).classes("path")
            button = ui.button("Similar", icon="image_search", on_click=find_similar)
            button.props("flat dense no-caps no-wrap").props["aria-label"] = f"Find photos similar to {name}"


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other of the paths has."""
    tails = [[path.parts[-length:] for length in range(1, len(path.parts) + 1)] for path in dict.fromkeys(paths)]
    counts = Counter(tail for one in tails for tail in one)
    shortest = {one[-1]: next(tail for tail in one if counts[tail] == 1) for one in tails}
    return [escaped(str(Path(*shortest[path.parts])), 4096) for path in paths]


def path_mark(path: Path) -> str:
    """Return a short mark of a path, which tells whether a row of another state of the index has the same photo."""
    return f"{zlib.crc32(os.fsencode(path)):08x}"
