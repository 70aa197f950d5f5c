"""The pictures that were uploaded to search with, sketches, photos and other modalities, each with its buttons."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nicegui import ui
from PIL import Image, ImageOps

from ms_unireid.apps.web.canvas import data_url, move_focus
from ms_unireid.apps.web.crop_dialog import WHOLE, Box, CropDialog
from ms_unireid.apps.web.upload_button import UploadButton
from ms_unireid.apps.web.words import t
from ms_unireid.apps.web.worker import SearchWorker
from ms_unireid.errors import UserError
from ms_unireid.modalities import PHOTO

MAX_UPLOADS = 5


class _Upload:
    """An upload of a modality, or a photo, and its elements."""

    def __init__(self, original: Image.Image, kind: str):
        self.original, self.kind, self.is_sketch = original, kind, kind == "sketch"
        self.box, self.is_inverted = WHOLE, False
        self.picture, self.notes = original, []  # as it is searched, and what was done to it

    def changed(self, box: Box, is_inverted: bool) -> Image.Image:
        """Return a part of the original, inverted or not."""
        sides = (share * size / 100 for share, size in zip(box, 2 * self.original.size, strict=True))
        left, top, right, bottom = map(round, sides)
        part = self.original.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        return ImageOps.invert(part) if is_inverted else part


class UploadList:
    """The buttons to upload and the list, built in NiceGUI's current slot.

    Args:
        worker: Decodes and prepares the uploads.
        is_as_is: Tells whether sketches are searched as they are.
        on_change: Called when the uploads have changed.
        on_problem: Called with the error of an upload, or with an empty text after a good one.
    """

    def __init__(
        self,
        worker: SearchWorker,
        is_as_is: Callable[[], bool],
        on_change: Callable[[], None],
        on_problem: Callable[[str], None],
    ):
        self._worker, self._is_as_is, self._on_change, self._on_problem = worker, is_as_is, on_change, on_problem
        self._uploads: list[_Upload] = []
        self._turn = asyncio.Lock()  # for changes, which wait for the worker
        with ui.element("div").classes("files"):
            add = UploadButton(t("Upload a sketch"), "upload_file", worker, self._adder("sketch"), on_problem)
            UploadButton(t("Search with a photo"), "add_a_photo", worker, self._adder(PHOTO), on_problem)
            for kind in worker.searcher.modalities[1:]:
                text = t("Upload a picture: {name}").format(name=kind)
                UploadButton(text, "upload_file", worker, self._adder(kind), on_problem)
        self._first_button = add.button
        with ui.element("div").props('aria-live="polite"'):
            self._list = ui.element("ul").classes("uploads")
            self._list.props["aria-label"] = t("Uploads")
            self._notes = ui.label().classes("hint")
        self._dialog = CropDialog()
        self._update()

    @property
    def pictures(self) -> tuple[tuple[str, Image.Image], ...]:
        """The uploads with their modalities, or `photo`, at the size of the model's input; sketches are prepared."""
        return tuple((one.kind, one.picture) for one in self._uploads)

    def show(self, pictures: Iterable[tuple[str, Image.Image]]) -> None:
        """Replace the uploads by those of an earlier query; the originals of those that are gone are gone too."""
        known = {id(one.picture): one for one in self._uploads}
        self._uploads.clear()
        self._list.clear()
        for kind, picture in pictures:
            self._put(known.get(id(picture)) or _Upload(picture, kind))
        self._refresh()

    async def prepare_again(self) -> None:
        """Prepare the sketches anew, or no longer."""
        for upload in [one for one in self._uploads if one.is_sketch]:
            await self._change(upload)

    def _adder(self, kind: str) -> Callable[[Image.Image], Awaitable[None]]:
        async def add(original: Image.Image) -> None:
            await self._change(_Upload(original, kind), is_new=True)

        return add

    async def _change(
        self, upload: _Upload, box: Box | None = None, invert: bool = False, is_new: bool = False
    ) -> None:
        """Prepare an upload, new or changed; what cannot be used is not taken."""
        async with self._turn:
            if is_new and len(self._uploads) >= MAX_UPLOADS:
                self._on_problem(t("At most {count} pictures can be uploaded. Remove one.").format(count=MAX_UPLOADS))
                return
            box, is_inverted = box or upload.box, upload.is_inverted != invert
            try:
                as_is = not upload.is_sketch or self._is_as_is()
                picture, notes = await self._worker.prepare(upload.changed(box, is_inverted), as_is)
            except UserError as error:
                self._on_problem(t("The upload: {problem}.").format(problem=error))
                return
            if not is_new and upload not in self._uploads:  # removed meanwhile
                return
            upload.box, upload.is_inverted, upload.picture, upload.notes = box, is_inverted, picture, notes
            if is_new:
                self._put(upload)
        self._on_problem("")
        self._refresh()

    def _put(self, upload: _Upload) -> None:
        """Add an upload to the list."""
        self._uploads.append(upload)
        with self._list, ui.element("li") as upload.item:
            upload.image = ui.element("img")
            with ui.element("div"):
                upload.label = ui.label()
                upload.buttons = {"Crop": _button(t("Crop"), lambda: self._crop(upload))}
                if upload.is_sketch:
                    upload.buttons["Invert"] = _button(t("Invert"), lambda: self._change(upload, invert=True))
                upload.buttons["Remove"] = _button(t("Remove"), lambda: self._remove(upload))

    async def _crop(self, upload: _Upload) -> None:
        title = t("Crop {name}").format(name=upload.name)
        box = await self._dialog.ask(title, upload.changed(WHOLE, upload.is_inverted), upload.box)
        if box is not None and upload in self._uploads:
            await self._change(upload, box)

    def _remove(self, upload: _Upload) -> None:
        if upload in self._uploads:
            self._uploads.remove(upload)
            move_focus(self._uploads[0].buttons["Remove"] if self._uploads else self._first_button)
            upload.item.delete()
            self._refresh()

    def _refresh(self) -> None:
        self._update()
        self._on_change()

    def _update(self) -> None:
        """Show the pictures, names and notes."""
        numbers, notes = Counter(), []
        words = {"sketch": t("sketch {name}"), PHOTO: t("photo {name}")}
        for upload in self._uploads:
            numbers[upload.kind] += 1
            kind = words.get(upload.kind, f"{upload.kind} {{name}}")
            name = upload.name = kind.format(name=numbers[upload.kind])
            upload.label.text = name.capitalize()
            upload.image.props["src"] = data_url(upload.picture, "PNG")
            upload.image.props["alt"] = t("{name} as it is searched").format(name=name)
            for text, button in upload.buttons.items():
                button.props["aria-label"] = f"{t(text)} {name}"
            if "Invert" in upload.buttons:
                upload.buttons["Invert"].props["aria-pressed"] = str(upload.is_inverted).lower()
            notes += [f"{name}: {t(note)}" for note in upload.notes]
        self._list.set_visibility(bool(self._uploads))
        self._notes.text = "; ".join(notes)


def _button(text: str, on_click: Callable[[], Any]) -> ui.button:
    return ui.button(text, on_click=on_click).props("flat dense no-caps no-wrap")
