"""The results of the page: ranked photos, loaded as the list is scrolled, their marks, and the status of the search."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nicegui import ui

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.page_query import Found
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import Answer
from ms_unireid.errors import escaped

_AT_ONCE = 40  # cards that are built together
_PRESS_WHEN_NEAR = """new IntersectionObserver(seen => seen.some(one => one.isIntersecting) && seen[0].target.click(),
    {rootMargin: "600px"}).observe(getHtmlElement(%d))"""
# Action: icon, and what it does to a photo, for screen readers.
_ACTIONS = {
    "similar": ("image_search", "Find photos similar to {name}"),
    "more": ("thumb_up_off_alt", "More like {name}"),
    "less": ("thumb_down_off_alt", "Less like {name}"),
    "keep": ("bookmark_border", "Keep {name}"),
}
PRESSED_ICONS = {"more": "thumb_up", "less": "thumb_down", "keep": "bookmark"}


class ResultList:
    """Status and ranked photos, built in NiceGUI's current slot.

    Args:
        index: Tells its number of photos and whether it is whole.
        on_action: Called with `open` or a key of `_ACTIONS`, and the place of the hit in `hits`.

    Attributes:
        hits: The ranked photos.
        names: A short name of each.
        tools: An empty place above the photos.
    """

    def __init__(self, index: PhotoStore, on_action: Callable[[str, int], Any]):
        self._count, self._on_action = index.count, on_action
        self.hits: list[Hit] = []
        self.names: list[str] = []
        self._told: tuple[str, Sequence[str]] = "", ()  # of the results that are shown
        self._pressed: Mapping[str, set[Path]] = {}
        self._buttons: list[dict[str, ui.button]] = []  # of the cards that are built
        # Screen readers announce changes of it.
        self._status = ui.element("div").classes("status").props('role="status" aria-live="polite"')
        self.tools = ui.element("div")
        self._list = ui.element("ol").classes("results")
        self._list.props["aria-label"] = t("Ranked photos")
        self._next = ui.button(t("Show more photos"), on_click=self._build_next).props("flat no-caps")
        self._next.set_visibility(False)
        with self._list, ui.element("li").classes("empty"):
            ui.icon("person_search").props('aria-hidden="true"')
            start = t("{count} photos to search. Describe a person, add a sketch, or do both.")
            ui.label(start.format(count=f"{index.count:,}"))
            for note in index.notes:
                ui.label(note).classes("note")

    def show_loading(self) -> None:
        """Show that a search is running."""
        self._show_status(t("Searching {count} photos …").format(count=f"{self._count:,}"), spinner=True)
        self._list.classes(add="stale")

    def show_problem(self, message: str) -> None:
        """Show an error, or hide it if the message is empty; earlier results stay visible."""
        self._list.classes(remove="stale")
        if not message:
            self._show_status(*self._told)
            return
        self._status.clear()
        with self._status, ui.element("div").classes("problem").props('role="alert"'):
            ui.icon("error_outline").props('aria-hidden="true"')
            ui.label(message)

    def show(self, title: str, answer: Answer) -> None:
        """Show the results of a query."""
        self._count, self.hits = answer.count, answer.hits
        self.names = short_names([hit.path for hit in answer.hits])
        shown = t("{found} of {count} photos for {title}")
        shown = shown.format(found=f"{len(answer.hits):,}", count=f"{self._count:,}", title=title)
        folded = sum(len(hit.same) for hit in answer.hits)
        line = t("Copies and near-identical photos that are folded: {count}").format(count=f"{folded:,}")
        nobody = t("Probably nobody of these: no photo is above the threshold.")
        absent = bool(answer.hits) and all(hit.probably_not_here for hit in answer.hits)
        self._told = shown, [nobody] * absent + [line] * bool(folded) + answer.notes
        self._show_status(*self._told)
        self._list.clear()
        self._list.classes(remove="stale")
        self._buttons = []
        self._build_next()
        # On a narrow screen the list is below the form. The client scrolls, since the clicked card no longer exists.
        show = f'getHtmlElement({self._status.id}).scrollIntoView({{block: "nearest"}})'
        self._status.client.run_javascript(f"{show}; {_PRESS_WHEN_NEAR % self._next.id}")

    def press(self, pressed: Mapping[str, set[Path]]) -> None:
        """Show which photos are marked or kept, by action."""
        before, self._pressed = self._pressed, pressed
        for place, buttons in enumerate(self._buttons):
            path = self.hits[place].path
            for action in PRESSED_ICONS:
                if (path in before.get(action, ())) != (path in pressed[action]):
                    show_pressed(buttons[action], action, path in pressed[action])

    def _show_status(self, title: str, notes: Sequence[str] = (), spinner: bool = False) -> None:
        self._status.clear()
        with self._status:
            if spinner:
                ui.spinner(size="1.5em")
            if title:
                ui.label(title).classes("status-title")
            for note in notes:
                ui.label(note).classes("note")

    def _build_next(self) -> None:
        """Build the next cards."""
        built = len(self._buttons)
        with self._list:
            for place in range(built, min(built + _AT_ONCE, len(self.hits))):
                self._build_card(place)
        self._next.set_visibility(len(self._buttons) < len(self.hits))

    def _build_card(self, place: int) -> None:
        hit, name = self.hits[place], self.names[place]
        with ui.element("li").classes("card"):
            with ui.element("button").props('type="button"').classes("open") as opener:
                opener.props["aria-label"] = t("Open {name}, rank {rank}").format(name=name, rank=hit.rank)
                opener.on("click", lambda: self._on_action("open", place), args=[])
                thumbnail(Found(hit.row, hit.path), opener.client.id)
                if hit.same:
                    count = ui.label(f"+{len(hit.same)}").classes("same")
                    count.props["title"] = t("Copies and near-identical photos: {count}").format(count=len(hit.same))
            with ui.element("div").classes("card-line"):
                ui.label(f"{hit.rank}").classes("rank")
                ui.label(f"{min(hit.score, 1):.3f}").classes("score").props["title"] = t("cosine similarity")
            ui.label(name).classes("name")
            if hit.probably_not_here:
                ui.label(t("probably not here")).classes("doubtful")
            with ui.element("div").classes("card-actions"):
                buttons = {action: self._build_button(action, place) for action in _ACTIONS}
        self._buttons.append(buttons)
        for action in PRESSED_ICONS:
            show_pressed(buttons[action], action, hit.path in self._pressed.get(action, ()))

    def _build_button(self, action: str, place: int) -> ui.button:
        icon, label = _ACTIONS[action]
        button = ui.button(icon=icon, on_click=lambda: self._on_action(action, place)).props("flat dense round")
        button.props["aria-label"] = button.props["title"] = t(label).format(name=self.names[place])
        return button


def show_pressed(button: ui.button, action: str, is_pressed: bool) -> None:
    """Show on the button of a mark, or of the shortlist, whether it holds for the photo."""
    button.props["icon"] = PRESSED_ICONS[action] if is_pressed else _ACTIONS[action][0]
    button.props["aria-pressed"] = str(is_pressed).lower()


def thumbnail(photo: Found, tab: str) -> ui.element:
    """Build the thumbnail of an indexed photo."""
    image = ui.element("img").props('loading="lazy"').classes("photo")
    image.props["src"] = photo_address(photo, tab)
    image.props["alt"] = ""  # what holds it has a name
    return image


def photo_address(photo: Found, tab: str, kind: str = "") -> str:
    """Return the address of a photo's thumbnail, or with `kind` of its `full` size or its `heat` map."""
    row, of = photo.mark.split(".")
    return f"/photo/{row}?of={of}&tab={tab}" + f"&kind={kind}" * bool(kind)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other of the paths has."""
    tails = [[path.parts[-length:] for length in range(1, len(path.parts) + 1)] for path in dict.fromkeys(paths)]
    counts = Counter(tail for one in tails for tail in one)
    shortest = {one[-1]: next(tail for tail in one if counts[tail] == 1) for one in tails}
    return [escaped(str(Path(*shortest[path.parts])), 4096) for path in paths]
