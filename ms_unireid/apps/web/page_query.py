"""Queries of the page: a description, a sketch, both, or an indexed photo."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ms_unireid.apps.web.drawing import Drawing, Stroke
from ms_unireid.errors import QueryError

MAX_CHARACTERS = 10_000
_SHOWN = 60  # characters of a description in the history


@dataclass(frozen=True)
class PageQuery:
    """One query: a description, a drawing or an upload, or both; or an indexed photo."""

    text: str = ""
    strokes: tuple[Stroke, ...] = ()
    upload: Image.Image | None = None  # RGB, prepared, at the size of the model's input
    as_is: bool = False  # whether the drawing is searched without `prepare_sketch`
    photo: int | None = None  # row of an indexed photo; replaces description and sketch
    photo_path: Path | None = None  # of that row, which another state of the index may give to another photo
    photo_name: str = field(default="", compare=False)
    weight: float = 0.5  # of the sketch, 0 to 1; the text has the rest
    top_k: int = 10  # photos to show

    @property
    def has_sketch(self) -> bool:
        """Whether there is a drawing or an upload."""
        return bool(self.strokes) or self.upload is not None

    def check(self) -> None:
        """Raise QueryError if the query is empty or its description too long."""
        if len(self.text) > MAX_CHARACTERS:
            raise QueryError(
                f"The description has {len(self.text):,} characters; the limit is {MAX_CHARACTERS:,}. Shorten it."
            )
        if self.photo is None and not self.has_sketch and not self.text.strip():
            raise QueryError("Nothing to search for yet: type a description, or draw or upload a sketch.")

    def sketch(self, image_size: tuple[int, int]) -> Image.Image | None:
        """Return the rendered drawing or the upload; None if there is neither."""
        return Drawing(image_size, self.strokes).render() if self.strokes else self.upload

    def name(self) -> str:
        """Return a short name, for the history."""
        if self.photo is not None:
            return f"photo {self.photo_name}"
        kind = "drawing" if self.strokes else "uploaded sketch" if self.upload else ""
        text = " ".join(self.text.split())
        shown = f"“{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}”" if text else ""
        if kind and shown:
            return f"{kind} ({self.weight:.0%}) + {shown}"
        return kind or shown
