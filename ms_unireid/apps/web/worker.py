"""The threads of the page: one owns the model and answers one query at a time, one decodes uploads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from ms_unireid.apps.search.queries import Hit, make_query
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.apps.search.sketches import prepare_sketch
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.apps.web.uploads import decode_upload
from ms_unireid.data.transforms import resize
from ms_unireid.errors import QueryError, UserError


@dataclass(frozen=True)
class Answer:
    """The answer to a query."""

    hits: list[Hit]  # best first
    count: int  # of photos in the index
    notes: list[str]  # hints for the user


class SearchWorker:
    """A searcher in its own thread; its graphs are compiled before the first query.

    Args:
        open_searcher: Called once, in the thread.

    Attributes:
        searcher: Call it only in the thread.
        image_size: Height and width of the model's input.

    Raises:
        UserError: What `open_searcher` raises.
    """

    def __init__(self, open_searcher: Callable[[], Searcher]):
        self._thread = ThreadPoolExecutor(1, "search")
        self._decoder = ThreadPoolExecutor(1, "uploads")  # large ones need much memory, so one at a time
        self.searcher = self._thread.submit(open_searcher).result()
        self.image_size = tuple(self.searcher.config.model.image_size)
        height, width = self.image_size
        sheet = Image.new("RGB", (width, height), "white")
        self._thread.submit(self._answer, PageQuery(text="a person", uploads=(sheet,))).result()

    async def search(self, query: PageQuery) -> Answer:
        """Search; UserError if the query cannot be answered."""
        query.check()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, query)

    async def decode(self, upload: bytes) -> Image.Image:
        """Decode an upload; DataError if it cannot be used."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, decode_upload, upload)

    async def prepare(self, picture: Image.Image, as_is: bool) -> tuple[Image.Image, list[str]]:
        """Prepare a decoded upload, unless `as_is`, at the model's input size, and say what was done.

        Raises:
            QueryError: If nothing is drawn.
        """
        return await asyncio.get_running_loop().run_in_executor(self._decoder, self._prepare, picture, as_is)

    def _prepare(self, picture: Image.Image, as_is: bool) -> tuple[Image.Image, list[str]]:
        picture, notes = (picture, []) if as_is else prepare_sketch(picture, self.image_size)
        return Image.fromarray(resize(picture, self.image_size)), notes

    def _answer(self, query: PageQuery) -> Answer:
        notes = self._refresh()
        text, drawing, sketches = query.text.strip() or None, query.drawing(self.image_size), list(query.uploads)
        if drawing is not None:  # the uploads are prepared already
            drawing, told = self.searcher.read_sketch(make_query(sketch=drawing, as_is=query.as_is), drawing)
            sketches, notes = [drawing, *sketches], notes + told
        weight = query.weight if text and query.has_pictures else 0.5
        row = self._row(query)
        photos = [*query.photos, *([] if row is None else [row])]
        asked = make_query(text, sketches, photos, weight, as_is=True)
        hits = self.searcher.search_all([asked], query.top_k)[0]
        return Answer(hits, self.searcher.index.count, [*notes, *self.searcher.notes(asked)])

    def _refresh(self) -> list[str]:
        """Open the index again if it has changed; an index that cannot be opened is searched as it was."""
        try:
            return ["The index has changed and was opened again."] * self.searcher.refresh()
        except UserError as error:
            return [f"The index has changed. Its earlier state was searched, because the new one fails: {error}"]

    def _row(self, query: PageQuery) -> int | None:
        """Return the row of an indexed photo, which may have moved."""
        index, path = self.searcher.index, query.photo_path
        if path is None or (query.photo < index.count and index.path(query.photo) == path):
            return query.photo
        if path not in index.photos:
            raise QueryError(f"{query.photo_name} is no longer in the index.")
        return index.photos.index(path)
