"""The search thread of the page: it owns the model and answers one query at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from ms_unireid.apps.search.queries import Hit, make_query
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.apps.web.page_query import PageQuery
from ms_unireid.data.transforms import resize

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """The answer to a query."""

    hits: list[Hit]  # best first
    note: str = ""  # a hint for the user


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
        # The thread also decodes uploads: large ones need much memory, so one at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self.searcher = self._thread.submit(open_searcher).result()
        self.image_size = tuple(self.searcher.config.model.image_size)
        height, width = self.image_size
        sheet = Image.new("RGB", (width, height), "white")
        self._thread.submit(self._answer, PageQuery(text="a person", upload=sheet)).result()

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run a function in the thread, after the functions that already wait."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def search(self, query: PageQuery) -> Answer:
        """Search; UserError if the query cannot be answered."""
        query.check()
        return await self.run(lambda: self._answer(query))

    def fit(self, picture: Image.Image) -> Image.Image:
        """Resize a picture to the model's input size."""
        return Image.fromarray(resize(picture, self.image_size))

    def _answer(self, query: PageQuery) -> Answer:
        if query.photo is not None:
            return Answer(self.searcher.search(photo=query.photo, top_k=query.top_k))
        text, sketch = query.text.strip() or None, query.sketch(self.image_size)
        asked = make_query(text, sketch, weight=query.weight if text and sketch else 0.5)
        return Answer(self.searcher.search_all([asked], query.top_k)[0], " ".join(self.searcher.notes(asked)))
