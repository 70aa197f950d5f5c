"""Searching an index by text, sketch, both, or a photo."""

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor
from PIL import Image

from ms_unireid.apps.search.approximate import ApproximateIndex
from ms_unireid.apps.search.index import PhotoIndex, model_overrides
from ms_unireid.apps.search.nearest import nearest
from ms_unireid.apps.search.queries import Query, make_query, read_query_picture
from ms_unireid.checkpoints.checkpoint import checkpoint_digest
from ms_unireid.config import Config, config_from_dict
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import CheckpointError, QueryError
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator
from ms_unireid.evaluation.features import FeatureExtractor
from ms_unireid.models.rollout import attention_rollout
from ms_unireid.models.unireid import UNIReID


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Attributes:
        rank: From 1.
        score: Cosine similarity.
        row: Of the index.
        path: The photo.
        person: Who it shows, where a data set tells.
    """

    rank: int
    score: float
    row: int
    path: Path
    person: str | None = None


class Searcher:
    """Finds photos of an index; its methods may be called from several threads.

    Args:
        model: The model that the index was made with.
        index: The index, or its folder.
        approximate: Search its approximate index, which `build_approximate` made.

    Raises:
        DataError: If it is no index, or damaged; or has no approximate index of its present content.

    Attributes:
        index: The index.
        model: The model.
        config: The model's config.
    """

    def __init__(self, model: UNIReID, index: PhotoIndex | str | Path, approximate: bool = False):
        self.model = model
        self.index = index if isinstance(index, PhotoIndex) else PhotoIndex.open(index)
        self._nearest = (
            ApproximateIndex(self.index).nearest if approximate else functools.partial(nearest, self.index.features)
        )
        # A query is encoded alone: a batch of the usual size would take as many times as long.
        self.config = _config(self.index)
        self._extractor = FeatureExtractor(model, self.config)
        self._model_in_use = threading.Lock()

    @classmethod
    def open(
        cls,
        index: PhotoIndex | str | Path,
        checkpoint: str | Path | None = None,
        overrides: Sequence[str] = (),
        approximate: bool = False,
    ) -> "Searcher":
        """Open an index together with the model that it was made with.

        Args:
            index: The index, or its folder.
            checkpoint: Where the model's file lies; None for where it lay when the index was made.
            overrides: `runtime.key=value` strings, such as `runtime.device=CPU`.
            approximate: As above.

        Raises:
            DataError: If it is no index, or damaged.
            CheckpointError: If the checkpoint is not there, or another one.
        """
        index = index if isinstance(index, PhotoIndex) else PhotoIndex.open(index)
        made_by = index.about["checkpoint"]
        path = Path(checkpoint or made_by["path"])
        if not path.exists():
            raise CheckpointError(f"{path}: is not there, and {index.folder} was made with it; name it by --checkpoint")
        if checkpoint_digest(path) != made_by["sha256"]:
            raise CheckpointError(
                f"{path}: is not the checkpoint that made {index.folder} (sha256 {made_by['sha256'][:12]}...); give "
                "that one, or make another index with this one"
            )
        evaluator = CheckpointEvaluator(path, overrides=[*model_overrides(index.about), *overrides])
        return cls(evaluator.extractor.model, index, approximate)

    def search(
        self,
        text: str | Sequence[str] | None = None,
        sketch: str | Path | Image.Image | Sequence | None = None,
        photo: str | Path | Image.Image | int | None = None,
        weight: float = 0.5,
        top_k: int = 10,
    ) -> list[Hit]:
        """Find the photos that fit a description, a sketch, both, or a photo best.

        Args:
            text: A sentence, or several of the same person, whose features are averaged.
            sketch: A picture or its file, or several.
            photo: A picture, its file, or the row of an indexed photo; then neither text nor sketch.
            weight: How much the sketch counts against the text, 0 to 1; 0.5 adds both features, Section 4.1.
            top_k: Photos wanted.

        Raises:
            QueryError: If there is nothing to search for, or it cannot be read.
        """
        return self.search_all([make_query(text, sketch, photo, weight)], top_k)[0]

    def search_all(self, queries: Sequence[Query], top_k: int = 10) -> list[list[Hit]]:
        """Answer several queries in one pass over the index.

        Raises:
            QueryError: If one of them cannot be read; no other is answered then.
        """
        if top_k < 1:
            raise QueryError(f"top_k {top_k}: expected at least 1")
        if not queries:
            return []
        found = self._nearest(np.stack([self.encode(query) for query in queries]), top_k)
        return [self._hits(rows, scores) for rows, scores in zip(*found, strict=True)]

    def encode(self, query: Query) -> np.ndarray:
        """Encode a query as an un-normalised feature (D,) float32.

        Raises:
            QueryError: If a picture of it cannot be read, or its row is not in the index.
        """
        if isinstance(query.photo, int):
            return self._indexed(query.photo)
        if query.photo is not None:
            return self._picture(query.photo)
        text = np.mean([self._text(one) for one in query.texts], axis=0) if query.texts else None
        sketch = np.mean([self._picture(one) for one in query.sketches], axis=0) if query.sketches else None
        if text is None or sketch is None:
            return sketch if text is None else text
        share = np.float32(query.weight)
        return 2 * share * sketch + 2 * (1 - share) * text

    def heat_map(self, picture: Path | Image.Image) -> np.ndarray:
        """Tell where the model looks in a picture.

        Returns:
            (rows, columns) float32, one value a patch, adding up to 1: `attention_rollout`.

        Raises:
            QueryError: If the picture cannot be read.
        """
        pixels = self._pixels(picture)
        with self._model_in_use:
            return attention_rollout(self.model.base_model.visual, Tensor(pixels[None]))[0]

    def _pixels(self, picture: Path | Image.Image) -> np.ndarray:
        return evaluation_transform(read_query_picture(picture), self.config.model.image_size)

    def _indexed(self, row: int) -> np.ndarray:
        if not 0 <= row < self.index.count:
            raise QueryError(f"row {row}: the index has {self.index.count} photos")
        return np.asarray(self.index.features[row], np.float32)

    def _picture(self, picture: Path | Image.Image) -> np.ndarray:
        pixels = self._pixels(picture)
        with self._model_in_use:
            return self._extractor.image_encoder(Tensor(pixels[None])).asnumpy()[0]

    def _text(self, text: str) -> np.ndarray:
        with self._model_in_use:
            return self._extractor.captions([text])[0]

    def _hits(self, rows: np.ndarray, scores: np.ndarray) -> list[Hit]:
        index = self.index
        return [
            Hit(rank, float(score), int(row), index.path(int(row)), index.person(int(row)))
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
            if row >= 0  # an approximate search may find fewer
        ]


def _config(index: PhotoIndex) -> Config:
    return config_from_dict({"model": index.about["model"], "eval": {"batch_size": 1}}, str(index.folder))
