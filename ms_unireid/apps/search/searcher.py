"""Search of an index by text, sketch, both, or a photo."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor
from PIL import Image

from ms_unireid.apps.search.approximate import ApproximateIndex
from ms_unireid.apps.search.exact import exact_search
from ms_unireid.apps.search.index import Manifest, PhotoIndex, model_overrides
from ms_unireid.apps.search.queries import Hit, Query, make_query, read_query_picture
from ms_unireid.apps.search.rollout import attention_rollout
from ms_unireid.apps.search.sketches import prepare_sketch
from ms_unireid.checkpoints.checkpoint import checkpoint_digest, open_model
from ms_unireid.config import Config, config_from_dict
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import CheckpointError, DataError, QueryError
from ms_unireid.evaluation.encoder import Encoder
from ms_unireid.installation import job_command
from ms_unireid.models.unireid import UNIReID


class Searcher:
    """Finds photos of an index; safe to call from several threads.

    Args:
        model: The model that made the index.
        index: The index or its folder.
        approximate: Search the approximate index that `build_approximate` built.

    Attributes:
        index: The index.
        model: The model.
        config: The model's config.

    Raises:
        DataError: If the index is missing, damaged or empty, or its approximate index is missing or out of date.
    """

    def __init__(self, model: UNIReID, index: PhotoIndex | str | Path, approximate: bool = False):
        self.model = model
        self._approximate = approximate
        self._use(index if isinstance(index, PhotoIndex) else PhotoIndex(index))
        self.config = _config_of(self.index)
        self._encoder = Encoder(model, self.config)
        self._model_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        index: PhotoIndex | str | Path,
        checkpoint: str | Path | None = None,
        overrides: Sequence[str] = (),
        approximate: bool = False,
    ) -> "Searcher":
        """Open an index and the model that made it.

        Args:
            index: The index or its folder.
            checkpoint: The model's file, if it has been moved since the index was made.
            overrides: `runtime.key=value` strings, such as `runtime.device=CPU`.
            approximate: Search the approximate index.

        Raises:
            DataError: If the index is missing, damaged or empty.
            CheckpointError: If the checkpoint is missing, or is not the one that made the index.
        """
        index = index if isinstance(index, PhotoIndex) else PhotoIndex(index)
        _config_of(index)
        path = _find_checkpoint(index, checkpoint)
        opened = open_model(path, [*model_overrides(index.about), *overrides])
        return cls(opened.model, index, approximate)

    def refresh(self) -> bool:
        """Open the index again if it has changed; return whether it had.

        Raises:
            UserError: If it cannot be opened, or another model has made it; then the earlier state is kept.
        """
        old = self.index.about
        with contextlib.closing(Manifest(self.index.folder)) as manifest:
            if manifest.about() == old:
                return False
        index = PhotoIndex(self.index.folder)
        _config_of(index)
        if any(index.about[key] != old[key] for key in ("checkpoint", "model", "preprocessing")):
            raise DataError(f"{index.folder}: another model has made it; start again")
        self._use(index)
        return True

    def _use(self, index: PhotoIndex) -> None:
        engine = ApproximateIndex(index).search if self._approximate else None
        self.index, self._find = index, engine or functools.partial(exact_search, index.features)

    def search(
        self,
        text: str | Sequence[str] | None = None,
        sketch: str | Path | Image.Image | Sequence | None = None,
        photo: str | Path | Image.Image | int | None = None,
        weight: float = 0.5,
        top_k: int = 10,
        include_self: bool = False,
        as_is: bool = False,
    ) -> list[Hit]:
        """Find the photos that best match a description, a sketch, both, or a photo.

        Args:
            text: One description, or several of the same person, whose features are averaged.
            sketch: A picture or its file, or several.
            photo: A picture, its file, or the row of an indexed photo; excludes text and sketch.
            weight: Weight of the sketch, 0 to 1; the text has the rest. 0.5 adds both features (Section 4.1).
            top_k: Number of photos.
            include_self: Whether an indexed photo that is searched by its row is among the results.
            as_is: Whether sketches are searched without `prepare_sketch`, even blank ones.

        Raises:
            QueryError: If there is nothing to search for, a picture cannot be read, or a sketch is blank.
        """
        query = make_query(text, sketch, photo, weight, include_self=include_self, as_is=as_is)
        return self.search_all([query], top_k)[0]

    def search_all(self, queries: Sequence[Query], top_k: int = 10) -> list[list[Hit]]:
        """Answer several queries in one pass over the index.

        Raises:
            QueryError: If one of them cannot be read; then none is answered.
        """
        if top_k < 1:
            raise QueryError(f"top_k {top_k}: expected at least 1")
        if not queries:
            return []
        count = min(top_k + 1, max(1, self.index.count))  # one more, because a photo may be left out
        rows, scores = self._find(np.stack([self.encode(query) for query in queries]), count)
        return [self._hits(*one)[:top_k] for one in zip(queries, rows, scores, strict=True)]

    def encode(self, query: Query) -> np.ndarray:
        """Encode a query as an un-normalised feature (D,) float32.

        QueryError if a picture cannot be read, or the index has no such row.
        """
        if isinstance(query.photo, int):
            return self._indexed_feature(query.photo)
        if query.photo is not None:
            return self._encode_picture(query.photo)
        text = np.mean([self._encode_text(one) for one in query.texts], axis=0) if query.texts else None
        sketches = [self._encode_picture(self.read_sketch(query, one)[0]) for one in query.sketches]
        sketch = np.mean(sketches, axis=0) if sketches else None
        if text is None or sketch is None:
            return sketch if text is None else text
        weight = np.float32(query.weight)
        return 2 * weight * sketch + 2 * (1 - weight) * text

    def notes(self, query: Query) -> list[str]:
        """Say how a query was understood where that may surprise, and whether the index is not whole; mostly empty."""
        told = [note for text in query.texts for note in self._encoder.tokenizer.notes(text)]
        told += [note for sketch in query.sketches for note in self.read_sketch(query, sketch)[1]]
        return told + self.index.notes

    def read_sketch(self, query: Query, sketch: Path | Image.Image) -> tuple[Image.Image, list[str]]:
        """Read a sketch of a query as it is searched, mode RGB, and say what `prepare_sketch` did to it.

        QueryError if it cannot be read, or is blank.
        """
        picture = read_query_picture(sketch)
        if query.as_is:
            return picture, []
        name = str(sketch) if isinstance(sketch, Path) else "the sketch"
        try:
            picture, notes = prepare_sketch(picture, self.config.model.image_size)
        except QueryError as error:
            raise QueryError(f"{name}: {error}") from error
        return picture, [f"{name}: {note}" for note in notes]

    def heat_map(self, picture: Path | Image.Image) -> np.ndarray:
        """Compute which patches of a picture the model attends to, by `attention_rollout`.

        Returns:
            (rows, columns) float32, one value per patch; the sum is 1.

        Raises:
            QueryError: If the picture cannot be read.
        """
        pixels = self._pixels(picture)
        with self._model_lock:
            return attention_rollout(self.model.base_model.visual, Tensor(pixels[None]))[0]

    def _pixels(self, picture: Path | Image.Image) -> np.ndarray:
        return evaluation_transform(read_query_picture(picture), self.config.model.image_size)

    def _indexed_feature(self, row: int) -> np.ndarray:
        if not 0 <= row < self.index.count:
            raise QueryError(f"row {row}: the index has {self.index.count} photos")
        return np.asarray(self.index.features[row], np.float32)

    def _encode_picture(self, picture: Path | Image.Image) -> np.ndarray:
        pixels = self._pixels(picture)
        with self._model_lock:
            return self._encoder.pixels(pixels[None])[0]

    def _encode_text(self, text: str) -> np.ndarray:
        with self._model_lock:
            return self._encoder.tokens(self._encoder.tokenizer([text]))[0]

    def _hits(self, query: Query, rows: np.ndarray, scores: np.ndarray) -> list[Hit]:
        index = self.index
        own = query.photo if isinstance(query.photo, int) and not query.include_self else -1
        # An approximate search that found fewer fills up with -1.
        found = [(int(row), float(score)) for row, score in zip(rows, scores, strict=True) if row not in (own, -1)]
        return [Hit(rank, score, row, index.path(row), index.person(row)) for rank, (row, score) in enumerate(found, 1)]


def _config_of(index: PhotoIndex) -> Config:
    """Return the config of the model that made an index, which must have photos."""
    if not index.count:
        raise DataError(
            f"{index.folder}: has no photos ({len(index.skipped)} skipped, {index.about['left']} left to read); "
            f"add some with {job_command('search')} index --output {index.folder} --photos DIR"
        )
    config = config_from_dict({"model": index.about["model"]}, str(index.folder))
    if config.model.sizes.embed_dim != index.dim:
        raise DataError(
            f"{index.folder}: has features of length {index.dim}, but its model makes {config.model.sizes.embed_dim}; "
            "make the index anew"
        )
    return config


def _find_checkpoint(index: PhotoIndex, given: str | Path | None) -> Path:
    """Return the checkpoint that made an index, checked by its digest."""
    path, made_by = index.checkpoint(given), index.about["checkpoint"]
    if checkpoint_digest(path) != made_by["sha256"]:
        raise CheckpointError(
            f"{path}: is not the checkpoint that made {index.folder} (sha256 {made_by['sha256'][:12]}...); "
            "give that one, or make another index with this one"
        )
    return path
