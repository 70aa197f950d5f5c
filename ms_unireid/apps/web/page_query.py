"""Queries of the page: a description, sketches, photos, or any of them together; or an indexed photo."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ms_unireid.apps.web.drawing import Drawing, Stroke
from ms_unireid.apps.web.words import t
from ms_unireid.errors import QueryError

MAX_CHARACTERS = 10_000
_SHOWN = 60  # characters of a description in the history


@dataclass(frozen=True)
class PageQuery:
    """One query: a description, a drawing, uploaded sketches and photos, or some of them; or an indexed photo."""

    text: str = ""
    strokes: tuple[Stroke, ...] = ()
    uploads: tuple[Image.Image, ...] = ()  # sketches; RGB, prepared, at the size of the model's input
    photos: tuple[Image.Image, ...] = ()  # uploaded; RGB, at the size of the model's input
    as_is: bool = False  # whether the drawing is searched without `prepare_sketch`
    photo: int | None = None  # row of an indexed photo; replaces description, sketches and photos
    photo_path: Path | None = None  # of that row, which another state of the index may give to another photo
    photo_name: str = field(default="", compare=False)
    weight: float = 0.5  # of the sketches and photos, 0 to 1; the text has the rest
    top_k: int = 10  # photos to show

    @property
    def has_pictures(self) -> bool:
        """Whether there is a drawing or an upload."""
        return bool(self.strokes or self.uploads or self.photos)

    def check(self) -> None:
        """Raise QueryError if the query is empty or its description too long."""
        if len(self.text) > MAX_CHARACTERS:
            problem = t("The description has {count:,} characters; the limit is {limit:,}. Shorten it.")
            raise QueryError(problem.format(count=len(self.text), limit=MAX_CHARACTERS))
        if self.photo is None and not self.has_pictures and not self.text.strip():
            raise QueryError(t("Nothing to search for yet: type a description, draw, or upload a sketch or a photo."))

    def drawing(self, image_size: tuple[int, int]) -> Image.Image | None:
        """Return the rendered drawing; None if nothing is drawn."""
        return Drawing(image_size, self.strokes).render() if self.strokes else None

    def name(self) -> str:
        """Return a short name, for the history."""
        if self.photo is not None:
            return t("photo {name}").format(name=self.photo_name)
        kinds = [t("drawing")] if self.strokes else []
        for count, one, many in (
            (len(self.uploads), t("uploaded sketch"), t("{count} uploaded sketches")),
            (len(self.photos), t("uploaded photo"), t("{count} uploaded photos")),
        ):
            kinds += [one if count == 1 else many.format(count=count)] * bool(count)
        kind, text = " + ".join(kinds), " ".join(self.text.split())
        shown = f"“{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}”" if text else ""
        if kind and shown:
            return f"{kind} ({self.weight:.0%}) + {shown}"
        return kind or shown
