"""The threads of the page: one owns the model and answers one query at a time, one decodes uploads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.folding import FOLD
from ms_unireid.apps.search.queries import Hit, Query, make_query
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.apps.search.sketches import prepare_sketch
from ms_unireid.apps.web.page_query import Found, PageQuery
from ms_unireid.apps.web.uploads import decode_upload
from ms_unireid.data.transforms import resize

_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """The answer to a query."""

    hits: list[Hit]  # best first
    asked: Query
    count: int  # of photos that pass the filters
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
        return await self.run(self._answer, query)

    async def run(self, job: Callable[..., _T], *arguments: object) -> _T:
        """Do what needs the searcher in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)

    async def has_news(self) -> bool:
        """Whether the index on disk has changed; UserError if it cannot be read."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, self.searcher.has_changed)

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
        index, text, drawing = self.searcher.index, query.text.strip() or None, query.drawing(self.image_size)
        notes = []
        if drawing is not None and not query.as_is:
            drawing, notes = prepare_sketch(drawing, self.image_size)
        start = _rows(index, [query.start] if query.start else [])
        asked = make_query(
            text,
            [*([drawing] if drawing is not None else []), *query.uploads],
            [*query.photos, *start],
            query.weight if text and query.has_pictures else 0.5,
            as_is=True,  # the uploads have been prepared
            more=_rows(index, query.more),
            less=_rows(index, query.less),
            pictures={kind: [picture for of, picture in query.others if of == kind] for kind, _ in query.others},
        )
        hits = self.searcher.search_all([asked], query.top_k, query.where or None, FOLD if query.fold else None)[0]
        count = index.passing_count(query.where) if query.where else index.count
        return Answer(hits, asked, count, [*notes, *self.searcher.notes(asked)])


def state_of(index: PhotoStore) -> tuple[str, int]:
    """Return what tells states of an index apart."""
    return index.about["id"], index.about["changes"]


def _rows(index: PhotoStore, photos: Sequence[Found]) -> list[int]:
    """Return the rows of indexed photos, which may have moved."""
    return [index.row(one.path, one.row) for one in photos]
