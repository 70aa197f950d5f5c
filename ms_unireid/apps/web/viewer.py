"""A photo seen large: zoom, heat map, facts, and the way through the list; and several photos side by side."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from nicegui import events, ui

from ms_unireid.apps.search.queries import Hit
from ms_unireid.apps.web.canvas import modal
from ms_unireid.apps.web.page_query import Found
from ms_unireid.apps.web.results import PRESSED_ICONS, photo_address, show_pressed
from ms_unireid.apps.web.words import t
from ms_unireid.errors import escaped

_KEYS = """(e) => {
    if (["ArrowLeft", "ArrowRight"].includes(e.key)) emit(e.key);
    else if ("+-0".includes(e.key)) zoomPhoto({"+": 1.25, "-": 0.8, 0: 0}[e.key]);
}"""
_ACTIONS = {
    "similar": ("image_search", "Search from this photo"),
    "more": ("thumb_up_off_alt", "More like this"),
    "less": ("thumb_down_off_alt", "Less like this"),
    "keep": ("bookmark_border", "Keep"),
    "guide": ("gesture", "Draw over it"),
}
COMPARED = 4  # photos side by side


class Viewer:
    """A dialog that shows one photo of a list at its full size, built in NiceGUI's current slot.

    Args:
        on_action: Called with a key of `_ACTIONS`, and the place of the photo in the list.
        describe: Returns the facts of a hit, each a name and a value.
        is_pressed: Whether `more`, `less` or `keep` holds for a photo.
    """

    def __init__(
        self,
        on_action: Callable[[str, int], Awaitable[None]],
        describe: Callable[[Hit], Awaitable[Sequence[tuple[str, str]]]],
        is_pressed: Callable[[str, Path], bool],
    ):
        self._on_action, self._describe, self._is_pressed = on_action, describe, is_pressed
        self._hits: Sequence[Hit] = ()
        self._place, self._is_heat = 0, False
        with modal().props("maximized") as self._dialog, ui.element("div").classes("viewer") as sheet:
            with ui.element("div").classes("viewer-bar"):
                self._title = ui.label().classes("status-title").props('role="status"')
                _icon("zoom_out", "Zoom out", js="() => zoomPhoto(0.8)")
                _icon("zoom_in", "Zoom in", js="() => zoomPhoto(1.25)")
                _icon("fit_screen", "Fit to the window", js="() => zoomPhoto(0)")
                self._heat = _icon("local_fire_department", "Where the model looked", self._toggle_heat)
                self._earlier = _icon("chevron_left", "Previous photo", lambda: self._show(self._place - 1))
                self._later = _icon("chevron_right", "Next photo", lambda: self._show(self._place + 1))
                _icon("close", "Close", self._dialog.close)
            with ui.element("div").classes("viewer-frame"):
                self._image = ui.element("img").classes("viewer-photo")
            self._facts = ui.element("dl").classes("facts")
            with ui.element("div").classes("viewer-bar"):
                self._buttons = {action: self._build_button(action) for action in _ACTIONS}
        self._dialog.props["aria-label"] = t("Photo")
        sheet.props('tabindex="-1" data-autofocus')  # takes the keys from the beginning
        sheet.on("keydown", self._on_key, js_handler=_KEYS)

    async def open(self, hits: Sequence[Hit], place: int) -> None:
        """Show a photo of a list."""
        self._hits, self._is_heat = hits, False
        self._dialog.open()
        await self._show(place)

    async def _show(self, place: int) -> None:
        if not 0 <= place < len(self._hits):
            return
        self._place, hit = place, self._hits[place]
        title = t("{rank} of {count}: {name}, score {score}")
        self._title.text = title.format(
            rank=hit.rank, count=len(self._hits), name=escaped(hit.path.name, 200), score=f"{min(hit.score, 1):.3f}"
        )
        kind = "heat" if self._is_heat else "full"
        self._image.props["src"] = photo_address(Found(hit.row, hit.path), self._image.client.id, kind)
        self._image.props["alt"] = t("Photo {name}").format(name=escaped(hit.path.name, 200))
        self._heat.props["aria-pressed"] = str(self._is_heat).lower()
        self._earlier.set_enabled(place > 0)
        self._later.set_enabled(place < len(self._hits) - 1)
        self._show_pressed()
        ui.run_javascript("zoomPhoto(0)")
        facts = await self._describe(hit)
        if self._place == place:
            self._facts.clear()
            with self._facts:
                for name, value in facts:
                    with ui.element("div"):
                        ui.html(name, tag="dt", sanitize=False)
                        with ui.element("dd"):
                            ui.label(value)

    async def _toggle_heat(self) -> None:
        self._is_heat = not self._is_heat
        await self._show(self._place)

    async def _act(self, action: str) -> None:
        if action in ("similar", "guide"):
            self._dialog.close()
        await self._on_action(action, self._place)
        self._show_pressed()

    def _build_button(self, action: str) -> ui.button:
        icon, name = _ACTIONS[action]
        return ui.button(t(name), icon=icon, on_click=lambda: self._act(action)).props("flat no-caps")

    def _show_pressed(self) -> None:
        path = self._hits[self._place].path
        for action in PRESSED_ICONS:
            show_pressed(self._buttons[action], action, self._is_pressed(action, path))

    async def _on_key(self, event: events.GenericEventArguments) -> None:
        if event.args in ("ArrowLeft", "ArrowRight"):
            await self._show(self._place + (1 if event.args == "ArrowRight" else -1))


def compare(photos: Sequence[tuple[Found, str]]) -> None:
    """Show photos side by side in a dialog, each with a line below it."""
    with modal().props("maximized") as dialog, ui.element("div").classes("viewer"):
        dialog.props["aria-label"] = t("Compare")
        with ui.element("div").classes("viewer-bar"):
            ui.label(t("Compare")).classes("status-title")
            _icon("close", "Close", dialog.close)
        with ui.element("div").classes("compared"):
            for photo, line in photos:
                with ui.element("figure"):
                    image = ui.element("img").classes("viewer-photo")
                    image.props["src"] = photo_address(photo, image.client.id, "full")
                    image.props["alt"] = t("Photo {name}").format(name=escaped(photo.path.name, 200))
                    with ui.element("figcaption"):
                        ui.label(line)
    dialog.on("hide", dialog.delete)
    dialog.open()


def _icon(icon: str, name: str, on_click: Callable[[], Any] | None = None, js: str | None = None) -> ui.button:
    button = ui.button(icon=icon, on_click=on_click).props("flat dense round")
    button.props["aria-label"] = button.props["title"] = t(name)
    return button.on("click", js_handler=js) if js else button
