"""The pictures of the page's query: a sheet to draw on with mouse, pen or finger, and uploads."""

from collections.abc import Callable
from typing import Any

from nicegui import ui
from PIL import Image, ImageOps

from ms_unireid.apps.web.canvas import data_url, move_focus, pointer_sheet
from ms_unireid.apps.web.drawing import PEN_WIDTH, PEN_WIDTHS, Drawing, Stroke, to_svg
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.upload_button import UploadButton
from ms_unireid.apps.web.upload_list import UploadList
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.modalities import PHOTO

_GUIDE = 768  # pixels of its longer side
_SQUEEZED = 1.6  # at most, of a guide that is made to fill the sheet


class SketchBox:
    """The sheet with its tools, and the uploads, built in NiceGUI's current slot.

    Args:
        worker: Decodes the uploads.
        on_change: Called when the pictures have changed.
        on_problem: Called with the error of an upload, or with an empty text after a good one.
    """

    def __init__(self, worker: SearchWorker, on_change: Callable[[], None], on_problem: Callable[[str], None]):
        self._on_change, self._on_problem = on_change, on_problem
        self._drawing = Drawing(worker.image_size)
        self._width: float | None = PEN_WIDTH  # None: the eraser is chosen
        with ui.element("div").classes("sketch"):
            self._uploads = UploadList(worker, lambda: self.as_is, on_change, on_problem)
            self._as_is = ui.checkbox(t("Search sketches as they are"), on_change=self._uploads.prepare_again)
            self._as_is.props("dense")
            with ui.element("div").classes("files"):
                guide = UploadButton(t("Draw over a picture"), "layers", worker, self._add_guide, on_problem)
                self._remove_guide = ui.button(t("Remove the picture below"), icon="layers_clear")
            self._guide_button = guide.button
            self._remove_guide.props("flat dense no-caps no-wrap align=left").on_click(self._on_remove_guide)
            ui.label(t("Draw with mouse, pen or finger. Fill the sheet from head to feet.")).classes("hint")
            self._build_tools()
            self._paper = pointer_sheet(self._drawing.size, self._on_pointer).classes("paper").props('role="img"')
            ui.run_javascript(f"getHtmlElement({self._paper.id}).querySelectorAll('img').forEach(one => one.alt = '')")
            self._lines, self._path = self._paper.add_layer(), self._paper.add_layer()
        self.set_guide(None)
        self._choose(PEN_WIDTH)
        self._draw()

    @property
    def as_is(self) -> bool:
        """Whether sketches are searched as they are."""
        return bool(self._as_is.value)

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """The drawing."""
        return self._drawing.strokes

    @property
    def uploads(self) -> tuple[tuple[str, Image.Image], ...]:
        """As `UploadList.pictures`."""
        return self._uploads.pictures

    def show(self, query: PageQuery) -> None:
        """Show the drawing and the uploads of an earlier query."""
        self._drawing.replace(query.strokes)
        self._draw()
        sketches = (("sketch", picture) for picture in query.uploads)
        self._uploads.show([*sketches, *((PHOTO, picture) for picture in query.photos), *query.others])

    def set_guide(self, picture: Image.Image | None) -> None:
        """Lay a picture under the sheet to draw over, or take it away; it is never searched.

        Args:
            picture: Mode RGB. It fills the sheet, as the model sees it, if its proportions are roughly those of the
                sheet.
        """
        self._paper.content = ""
        if picture is not None:
            width, height = self._drawing.size
            squeezed = picture.width / picture.height * height / width
            fit = "none" if 1 / _SQUEEZED < squeezed < _SQUEEZED else "xMidYMid meet"
            url = data_url(ImageOps.contain(picture, (_GUIDE, _GUIDE)), "JPEG")
            self._paper.content = (
                f'<image href="{url}" width="{width}" height="{height}" preserveAspectRatio="{fit}" opacity="0.4"/>'
            )
        self._remove_guide.set_visibility(picture is not None)

    def _build_tools(self) -> None:
        with ui.element("div").classes("tools").props('role="group"') as tools:
            tools.props["aria-label"] = t("Drawing tools")
            names = (t("Thin pen"), t("Medium pen"), t("Thick pen"))
            self._tools = {
                width: _tool(name, self._choose, width) for width, name in zip(PEN_WIDTHS, names, strict=True)
            }
            for width, button in self._tools.items():
                with button:
                    ui.element("span").classes("pen").style(f"height: {1.5 * width}px")
            self._tools[None] = _tool(t("Eraser"), self._choose, None).props('icon="sym_o_ink_eraser"')
            self._undo = _tool(t("Undo"), self._change, self._drawing.undo).props('icon="undo"')
            self._redo = _tool(t("Redo"), self._change, self._drawing.redo).props('icon="redo"')
            self._clear = _tool(t("Clear"), self._change, self._drawing.replace, ()).props('icon="delete_outline"')

    def _choose(self, width: float | None) -> None:
        """Choose a pen by its width, or the eraser."""
        self._width = width
        for key, button in self._tools.items():
            button.props["aria-pressed"] = str(key == width).lower()

    def _on_pointer(self, kind: object, x: object, y: object) -> None:
        if kind == "pointerdown":
            self._drawing.pen_down(x, y, self._width)
            self._path.content = self._drawing.path_svg()
        elif kind == "pointermove":
            if self._drawing.pen_move(x, y):
                self._path.content = self._drawing.path_svg()
        elif self._drawing.pen_up():
            self._refresh()

    def _change(self, change: Callable[..., None], *arguments: object) -> None:
        change(*arguments)
        self._refresh()

    async def _add_guide(self, picture: Image.Image) -> None:
        self._on_problem("")
        self.set_guide(picture)

    def _on_remove_guide(self) -> None:
        move_focus(self._guide_button)
        self.set_guide(None)

    def _refresh(self) -> None:
        self._draw()
        self._on_change()

    def _draw(self) -> None:
        self._lines.content, self._path.content = to_svg(self.strokes), ""
        label = t("Sheet to draw the person on: {count} strokes").format(count=len(self.strokes))
        self._paper.props["aria-label"] = label
        self._undo.set_enabled(self._drawing.can_undo)
        self._redo.set_enabled(self._drawing.can_redo)
        self._clear.set_enabled(bool(self.strokes))


def _tool(name: str, on_click: Callable[..., Any], *arguments: object) -> ui.button:
    button = ui.button(on_click=lambda: on_click(*arguments)).props("flat dense")
    button.props["aria-label"] = button.props["title"] = name
    return button
