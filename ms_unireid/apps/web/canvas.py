"""What the page shows pictures with and takes the pointer from."""

import base64
import io
from collections.abc import Callable

from nicegui import events, ui
from PIL import Image

NUMBER = "(e) => emit(Number(e.target.value))"  # what a field of numbers sends
_POINTER = ("pointerdown", "pointermove", "pointerup", "pointerleave", "pointercancel")
# Ignores a pen or mouse that hovers.
_PRESSED_ONLY = '(e) => { if (e.buttons || e.mouse_event_type !== "pointermove") emit(e) }'


def pointer_sheet(
    size: tuple[float, float], on_pointer: Callable[[object, object, object], None]
) -> ui.interactive_image:
    """Build a sheet of a width and height in units of its own, in NiceGUI's current slot.

    `on_pointer` gets the event's name, x and y of whatever a pressed pointer does, as the browser says it: unchecked.
    """

    def tell(event: events.GenericEventArguments) -> None:
        if isinstance(event.args, dict):
            on_pointer(*(event.args.get(name) for name in ("mouse_event_type", "image_x", "image_y")))

    sheet = ui.interactive_image(size=size, events=list(_POINTER), sanitize=False)
    return sheet.style(f"--aspect: {size[0] / size[1]:.4f}").on("mouse", tell, js_handler=_PRESSED_ONLY)


def data_url(picture: Image.Image, format: str) -> str:
    """Encode a picture as PNG or JPEG in a URL."""
    file = io.BytesIO()
    picture.save(file, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def move_focus(element: ui.element) -> None:
    """Move the keyboard's focus to an element, from one that is about to vanish."""
    element.client.run_javascript(f"getHtmlElement({element.id}).focus()")


def modal() -> ui.dialog:
    """Build a dialog; nothing else of the page can be reached while it is open."""
    dialog = ui.dialog()
    for event, is_shut in (("before-show", "true"), ("before-hide", "false")):
        shut = f"document.querySelectorAll('.top, .page').forEach(one => one.inert = {is_shut})"
        dialog.on(event, js_handler=f"() => {shut}")
    return dialog
