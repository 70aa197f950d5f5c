"""What a query asks with, checked against the model that made the index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ms_unireid.apps.search.manifest import model_settings
from ms_unireid.apps.search.queries import Query, read_query_picture
from ms_unireid.apps.search.sketches import prepare_sketch
from ms_unireid.errors import QueryError
from ms_unireid.modalities import PHOTO, TEXT, task_of


def check_modalities(query: Query, known: Sequence[str]) -> None:
    """Raise a QueryError if a query asks with pictures of a modality that the model was not trained for."""
    if strange := [name for name in query.others if name not in known]:
        names = ", ".join((TEXT, *known))
        raise QueryError(f"picture {strange[0]}: the model was trained for {names}; ask with some of these")


def check_pictures(query: Query, about: Mapping[str, Any]) -> None:
    """Raise a QueryError if a picture of a query cannot be read, or a sketch is blank; `about` is that of the index."""
    for picture in query.pictures[len(query.sketches) :]:
        if not isinstance(picture, int):
            read_query_picture(picture)
    for sketch in query.sketches:
        read_sketch(query, sketch, tuple(model_settings(about)["model"]["image_size"]))


def read_sketch(query: Query, sketch: Path | Image.Image, image_size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """Read a sketch as it is searched, mode RGB, and say what `prepare_sketch` did; QueryError if it cannot be."""
    picture = read_query_picture(sketch)
    if query.as_is:
        return picture, []
    name = str(sketch) if isinstance(sketch, Path) else "the sketch"
    try:
        picture, notes = prepare_sketch(picture, image_size)
    except QueryError as error:
        raise QueryError(f"{name}: {error}") from error
    return picture, [f"{name}: {note}" for note in notes]


def task_of_query(query: Query) -> str | None:
    """Return the task that `Thresholds` may know; None if marks, a weight or a mixture with photos make it another."""
    given = (*query.modalities, *([PHOTO] if query.photos else []))
    plain = given and not (query.more or query.less) and query.weight == 0.5
    return task_of(given) if plain and (PHOTO not in given or len(given) == 1) else None
