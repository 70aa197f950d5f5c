"""The dialog in which a part of a picture is chosen, by pointer or keyboard."""

from nicegui import events, ui
from PIL import Image, ImageOps

from ms_unireid.apps.web.canvas import NUMBER, data_url, modal, pointer_sheet
from ms_unireid.apps.web.drawing import is_number
from ms_unireid.apps.web.words import t

Box = tuple[int, int, int, int]  # left, top, right and bottom in percent of a picture's sides
WHOLE: Box = (0, 0, 100, 100)
_SMALLEST = 5  # percent of a side
_SHOWN = 512  # pixels of the longer side


class CropDialog:
    """The dialog, built in NiceGUI's current slot; it is closed until `ask`."""

    def __init__(self):
        self._dialog = modal()
        self._box: Box = WHOLE
        self._anchor: tuple[int, int] | None = None  # where the pointer was pressed

    async def ask(self, title: str, picture: Image.Image, box: Box) -> Box | None:
        """Let the user choose a part of a picture, at first `box`; None if the user cancels."""
        picture = ImageOps.contain(picture, (_SHOWN, _SHOWN))
        self._size, self._anchor = picture.size, None
        self._dialog.clear()
        self._dialog.props["aria-label"] = title
        with self._dialog, ui.card().classes("crop"):
            ui.label(title).classes("caption")
            with ui.element("div").props('aria-hidden="true"'):  # the fields below are for screen readers
                sheet = pointer_sheet(picture.size, self._on_pointer).classes("crop-sheet")
            width, height = picture.size
            sheet.content = f'<image href="{data_url(picture, "JPEG")}" width="{width}" height="{height}"/>'
            self._frame = sheet.add_layer()
            ui.label(t("Drag over the part to keep, or move its sides.")).classes("hint")
            self._sides = [self._build_side(*one) for one in enumerate((t("Left"), t("Top"), t("Right"), t("Bottom")))]
            with ui.element("div").classes("crop-buttons"):
                ui.button(t("Cancel"), on_click=self._dialog.close).props("flat no-caps")
                ui.button(t("Apply"), on_click=lambda: self._dialog.submit(self._box)).props("unelevated no-caps")
        self._show(box)
        return await self._dialog

    def _build_side(self, number: int, name: str) -> ui.element:
        """Build the field of a side; one that passes the opposite side takes it along."""

        def move(event: events.GenericEventArguments) -> None:
            if is_number(event.args):
                box, opposite = list(self._box), (number + 2) % 4
                box[number] = value = round(min(max(event.args, low), high))
                box[opposite] = push(box[opposite], value + least)
                self._show(tuple(box))

        low, high, push, least = (
            (0, 100 - _SMALLEST, max, _SMALLEST) if number < 2 else (_SMALLEST, 100, min, -_SMALLEST)
        )
        with ui.element("label").classes("crop-side"):
            ui.label(name)
            side = ui.element("input").props(f'type="range" min="{low}" max="{high}"')
        return side.on("input", move, js_handler=NUMBER)

    def _on_pointer(self, kind: object, x: object, y: object) -> None:
        if not (is_number(x) and is_number(y)):
            return
        at = tuple(round(100 * min(max(place / size, 0), 1)) for place, size in zip((x, y), self._size, strict=True))
        if kind == "pointerdown":
            self._anchor = at
        elif self._anchor is not None:
            (left, right), (top, bottom) = (sorted(pair) for pair in zip(self._anchor, at, strict=True))
            if min(right - left, bottom - top) >= _SMALLEST:
                self._show((left, top, right, bottom))
            if kind != "pointermove":
                self._anchor = None

    def _show(self, box: Box) -> None:
        self._box = box
        for side, value in zip(self._sides, box, strict=True):
            side.props["value"], side.props["aria-valuetext"] = value, f"{value} %"
        width, height = self._size
        left, top, right, bottom = (share * size / 100 for share, size in zip(box, 2 * self._size, strict=True))
        inner = f"M{left} {top}H{right}V{bottom}H{left}Z"
        self._frame.content = (
            f'<path d="M0 0H{width}V{height}H0Z{inner}" fill="black" fill-opacity="0.55" fill-rule="evenodd"/>'
            f'<path d="{inner}" fill="none" stroke="white" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        )
