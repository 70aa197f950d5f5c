"""The sketch of the page: a sheet to draw on with mouse, pen or finger, or an uploaded picture."""

import base64
import io
from collections.abc import Callable
from typing import Any

from nicegui import app as pages
from nicegui import events, ui
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ms_unireid.apps.web.drawing import Drawing, Stroke, to_svg
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.uploads import ACCEPTED_SUFFIXES, MAX_BYTES, read_upload
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError

_POINTER = ("pointerdown", "pointermove", "pointerup", "pointerleave", "pointercancel")
# Ignores a pen or mouse that hovers.
_PRESSED_ONLY = '(e) => { if (e.buttons || e.mouse_event_type !== "pointermove") emit(e) }'
_REFUSED = f"The upload was refused. Choose one picture file (PNG, JPEG, …) of at most {MAX_BYTES // 2**20} MiB."


class SketchBox:
    """The sheet and its buttons, built in NiceGUI's current slot; it holds a drawing or an upload, not both.

    Args:
        worker: Decodes the uploads.
        on_change: Called when the sheet has changed.
        on_problem: Called with the error of an upload, or with what was done to it, mostly an empty text.
    """

    def __init__(self, worker: SearchWorker, on_change: Callable[[], None], on_problem: Callable[[str], None]):
        self._upload: Image.Image | None = None
        self._decoded: Image.Image | None = None  # the upload before it was prepared
        self._is_receiving = False
        self._worker, self._on_change, self._on_problem = worker, on_change, on_problem
        self._drawing = Drawing(worker.image_size)
        with ui.element("div").classes("sketch"):
            self._build_paper()
            with ui.element("div").classes("sketch-side"):
                self._build_buttons()
                self._as_is = ui.checkbox("Search sketches as they are", on_change=self._on_as_is).props("dense")
                ui.label("Draw with mouse, pen or finger. Fill the sheet from head to feet.").classes("hint")
                self._notes = ui.label().classes("hint").props('role="status"')
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
    def uploads(self) -> tuple[Image.Image, ...]:
        """The uploaded sketches at the size of the model's input."""
        return (self._upload,) if self._upload else ()

    @property
    def photos(self) -> tuple[Image.Image, ...]:
        """The uploaded photos at the size of the model's input."""
        return ()

    def show(self, query: PageQuery) -> None:
        """Show the drawing and the uploads of an earlier query."""
        self._put(query.strokes, next(iter(query.uploads), None))

    def _put(self, strokes: tuple[Stroke, ...], upload: Image.Image | None) -> None:
        self._drawing.replace(strokes)
        self._upload, self._decoded, self._notes.text = upload, None, ""
        self._refresh()

    def _build_paper(self) -> None:
        paper = ui.interactive_image(size=self._drawing.size, events=list(_POINTER), sanitize=False)
        paper.classes("paper").props('role="img"')
        ui.run_javascript(f"getHtmlElement({paper.id}).querySelectorAll('img').forEach(one => one.alt = '')")
        paper.on("mouse", self._on_pointer, js_handler=_PRESSED_ONLY)
        self._paper, self._active_stroke = paper, paper.add_layer()

    def _build_buttons(self) -> None:
        self._undo = _button(t("Undo"), "undo", self._on_undo)
        self._clear = _button(t("Clear"), "delete_outline", self._on_clear)
        uploader = ui.upload(max_file_size=MAX_BYTES, auto_upload=True).classes("hidden")
        uploader.props(f'accept="{ACCEPTED_SUFFIXES}" aria-label="Sketch file"')
        pages.remove_route(uploader.props["url"])  # NiceGUI's takes any number of files
        pages.add_route(uploader.props["url"], self._receive, methods=["POST"])
        uploader.on_rejected(lambda: self._on_problem(_REFUSED))
        in_browser = f"getElement({uploader.id}).$refs.qRef"
        # The browser resets the uploader after the response. A reset by the server would abort the waiting request, and
        # a good upload would be reported as refused.
        reset = f"{in_browser}.reset()"
        uploader.on("uploaded", js_handler=f"() => {reset}")
        uploader.on("failed", lambda: self._on_problem(_REFUSED), js_handler=f"() => {{ {reset}; emit() }}")
        # Runs in the browser, which opens a file dialogue only directly after a click.
        _button(t("Upload a sketch"), "upload_file").on("click", js_handler=f"() => {in_browser}.pickFiles()")

    def _on_pointer(self, event: events.GenericEventArguments) -> None:
        if self._upload is not None or not isinstance(event.args, dict):
            return
        kind, x, y = (event.args.get(name) for name in ("mouse_event_type", "image_x", "image_y"))
        if kind == "pointerdown":
            self._drawing.pen_down(x, y)
            self._active_stroke.content = self._drawing.path_svg()
        elif kind == "pointermove":
            if self._drawing.pen_move(x, y):
                self._active_stroke.content = self._drawing.path_svg()
        elif self._drawing.pen_up():
            self._refresh()

    def _on_undo(self) -> None:
        self._drawing.undo()
        self._refresh()

    def _on_clear(self) -> None:
        self._put((), None)

    async def _receive(self, request: Request) -> Response:
        """Take one file a request, and one request at a time."""
        if self._is_receiving:
            return PlainTextResponse("Wait for the other upload.", 429)
        self._is_receiving = True
        try:
            await self._take(await read_upload(request))
        finally:
            self._is_receiving = False
        return Response()

    async def _take(self, data: bytes) -> None:
        try:
            await self._use(await self._worker.decode(data))
        except UserError as error:
            self._on_problem(str(error))

    async def _on_as_is(self) -> None:
        if self._decoded is not None:
            await self._use(self._decoded)

    async def _use(self, decoded: Image.Image) -> None:
        """Show an upload as it is searched."""
        try:
            picture, notes = await self._worker.prepare(decoded, self.as_is)
        except UserError as error:
            self._on_problem(f"The upload: {error}.")
        else:
            self._on_problem("")
            self._put((), picture)
            self._decoded, self._notes.text = decoded, "; ".join(notes)

    def _refresh(self) -> None:
        self._draw()
        self._on_change()

    def _draw(self) -> None:
        self._paper.set_source(_data_url(self._upload) if self._upload else "")
        self._paper.content, self._active_stroke.content = to_svg(self._drawing.strokes), ""
        content = "an uploaded picture" if self._upload else f"{len(self._drawing.strokes)} strokes"
        self._paper.props["aria-label"] = f"Sheet to draw the person on: {content}"
        self._undo.set_enabled(bool(self._drawing.strokes))
        self._clear.set_enabled(bool(self._drawing.strokes) or self._upload is not None)


def _button(text: str, icon: str, on_click: Callable[[], Any] | None = None) -> ui.button:
    return ui.button(text, icon=icon, on_click=on_click).props("flat dense no-caps no-wrap align=left")


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
