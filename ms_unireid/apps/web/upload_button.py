"""A button of the page that uploads a picture."""

from collections.abc import Awaitable, Callable

from nicegui import app as pages
from nicegui import ui
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ms_unireid.apps.web.uploads import ACCEPTED_SUFFIXES, MAX_BYTES, read_upload
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError

_receiving: set[str] = set()  # tabs


class UploadButton:
    """The button, built in NiceGUI's current slot.

    Args:
        text: Of the button.
        icon: Of the button.
        worker: Decodes the uploads.
        on_picture: Called with a decoded upload.
        on_problem: Called with the error of an upload.

    Attributes:
        button: The button itself.
    """

    def __init__(
        self,
        text: str,
        icon: str,
        worker: SearchWorker,
        on_picture: Callable[[Image.Image], Awaitable[None]],
        on_problem: Callable[[str], None],
    ):
        self._worker, self._on_picture, self._on_problem = worker, on_picture, on_problem
        uploader = ui.upload(max_file_size=MAX_BYTES, auto_upload=True).classes("hidden")
        uploader.props(f'accept="{ACCEPTED_SUFFIXES}"').props["aria-label"] = text
        pages.remove_route(uploader.props["url"])  # NiceGUI's takes any number of files
        pages.add_route(uploader.props["url"], self._receive, methods=["POST"])
        uploader.on_rejected(self._refuse)
        in_browser = f"getElement({uploader.id}).$refs.qRef"
        # The browser resets the uploader after the response. A reset by the server would abort the waiting request, and
        # a good upload would be reported as refused.
        reset = f"{in_browser}.reset()"
        uploader.on("uploaded", js_handler=f"() => {reset}")
        uploader.on("failed", self._refuse, js_handler=f"() => {{ {reset}; emit() }}")
        self.button = ui.button(text, icon=icon).props("flat dense no-caps no-wrap align=left")
        # Runs in the browser, which opens a file dialogue only directly after a click.
        self.button.on("click", js_handler=f"() => {in_browser}.pickFiles()")

    def _refuse(self) -> None:
        problem = t("The upload was refused. Choose one picture file (PNG, JPEG, …) of at most {size} MiB.")
        self._on_problem(problem.format(size=MAX_BYTES // 2**20))

    async def _receive(self, request: Request) -> Response:
        """Take one file a request, and one request of a tab at a time."""
        tab = self.button.client.id
        if tab in _receiving:
            return PlainTextResponse("Wait for the other upload.", 429)
        _receiving.add(tab)
        try:
            with self.button.client:  # which has a language
                await self._on_picture(await self._worker.decode(await read_upload(request)))
        except UserError as error:
            self._on_problem(str(error))
        finally:
            _receiving.discard(tab)
        return Response()
