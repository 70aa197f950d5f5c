"""Search of an index by text, sketches, photos and marks."""

import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ms_unireid.apps.export.cache import open_exported_model, plain_config
from ms_unireid.apps.search.engines.opening import open_store
from ms_unireid.apps.search.engines.store import PhotoStore
from ms_unireid.apps.search.filters import Filter
from ms_unireid.apps.search.folding import Card, fold_ranking
from ms_unireid.apps.search.index_model import config_of, encoder_of, find_checkpoint
from ms_unireid.apps.search.manifest import DEFAULT_ENCODER, model_overrides
from ms_unireid.apps.search.queries import Hit, Query, make_query, read_query_picture
from ms_unireid.apps.search.query_checks import check_modalities, read_sketch, task_of_query
from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.checkpoints.thresholds import Thresholds, read_thresholds
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import DataError, QueryError
from ms_unireid.evaluation.exported_model import ExportedModel
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.modalities import pictures_of
from ms_unireid.runtime import load_mindspore

if TYPE_CHECKING:  # MindSpore is imported after all that can be refused without it
    from ms_unireid.models.unireid import UNIReID

# Relevance feedback (Rocchio 1971): weights of the query, of the mean of what is more like it, and of what is less; the
# values of Manning, Raghavan and Schuetze, Introduction to Information Retrieval, chapter 9.
ROCCHIO = (1.0, 0.75, -0.15)
COMPILED, UNCOMPILED = "runtime.graph_mode=true", "runtime.graph_mode=false"
MAX_FOLDED = 1000  # photos of a folded list, all of which are compared with one another


class Searcher:
    """Finds photos of an index; safe to call from several threads.

    Args:
        model: The model that made the index, in MindSpore or exported.
        index: What `open_store` opened, or its folder or address.
        approximate: Search a folder through the faiss index that `build_approximate` built.
        thresholds: Those of the model, to mark hits of persons who are probably not there.
        modalities: Pictures that the model may be asked with, besides photos.

    Attributes:
        model: The model.
        config: The model's config.

    Raises:
        DataError: If the index is missing, damaged or empty, or its approximate index is missing or out of date.
    """

    def __init__(
        self,
        model: "UNIReID | ExportedModel",
        index: PhotoStore | str | Path,
        approximate: bool = False,
        thresholds: Thresholds | None = None,
        modalities: Sequence[str] = ("sketch",),
    ):
        self.model, self.thresholds, self.modalities = model, thresholds, tuple(modalities)
        self.index = _opened(index, approximate)
        self.config = config_of(self.index)
        from ms_unireid.evaluation.encoder import Encoder

        self._encoder = Encoder(model, self.config)
        self._model_lock = threading.Lock()
        self._checkpoint: Path | None = None

    @classmethod
    def open(
        cls,
        index: PhotoStore | str | Path,
        checkpoint: str | Path | None = None,
        overrides: Sequence[str] = (),
        approximate: bool = False,
    ) -> "Searcher":
        """Open an index and the model that made it.

        On a CPU the model is not compiled: that takes as long as many queries (12 s of a ViT-B/16's captions, of which
        one takes 0.3 s then and 0.13 s compiled). With `COMPILED` among the overrides it is.

        Args:
            index: As in the class.
            checkpoint: The model's file, if it has been moved since the index was made.
            overrides: `runtime.key=value` strings, such as `runtime.device=CPU`.
            approximate: As in the class.

        Raises:
            DataError: If the index is missing, damaged or empty.
            CheckpointError: If the checkpoint is missing, or is not the one that made the index.
            UserError: If the thresholds beside the checkpoint are damaged.
        """
        index = _opened(index, approximate)
        config_of(index)
        path = find_checkpoint(index, checkpoint)
        thresholds = read_thresholds(path)
        checkpoint, made_by = read_checkpoint(path), [*model_overrides(index.about), *encoder_of(index)]
        config = checkpoint.config([*made_by, *overrides])
        modalities, device = pictures_of(config.objective.tasks), config.runtime.device
        if config.runtime.encoder != "mindspore":
            model = open_exported_model(path, config)
        else:
            if (load_mindspore().get_context("device_target") if device == "auto" else device) == "CPU":
                config = checkpoint.config([*made_by, UNCOMPILED, *overrides])
            model = checkpoint.build(config)
        searcher = cls(model, index, thresholds=thresholds, modalities=modalities)
        searcher._checkpoint = path
        return searcher

    def renew_thresholds(self) -> None:
        """Read the thresholds beside the checkpoint again; a UserError for damaged ones keeps the earlier."""
        if self._checkpoint is not None:
            self.thresholds = read_thresholds(self._checkpoint)

    def refresh(self) -> bool:
        """Open the index again if it has changed; return whether it had.

        Raises:
            UserError: If it cannot be opened, or another model has made it; then the earlier state is kept.
        """
        if not self.has_changed():
            return False
        old, index = self.index.about, self.index.reopened()
        config_of(index)
        if any(index.about[key] != old[key] for key in ("checkpoint", "model", "preprocessing")):
            raise DataError(f"{index.place}: another model has made it; start again")
        self.index = index
        return True

    def has_changed(self) -> bool:
        """Whether there is a newer state of the index than the one that is searched; takes milliseconds.

        UserError if that cannot be told.
        """
        return self.index.has_changed()

    def search(
        self,
        text: str | Sequence[str] | None = None,
        sketch: str | Path | Image.Image | Sequence | None = None,
        photo: str | Path | Image.Image | int | Sequence | None = None,
        weight: float = 0.5,
        top_k: int = 10,
        include_self: bool = False,
        as_is: bool = False,
        more: int | str | Path | Sequence = (),
        less: int | str | Path | Sequence = (),
        where: Filter | None = None,
        fold: float | None = None,
        pictures: Mapping[str, str | Path | Image.Image | Sequence] = MappingProxyType({}),
    ) -> list[Hit]:
        """Find the photos that best match a description, sketches, photos, or all of them.

        Args:
            text: One description, or several of the same person, whose features are averaged.
            sketch: A picture or its file, or several.
            photo: A picture, its file, or the row of an indexed photo, or several.
            weight: Weight of all pictures, 0 to 1; the text has the rest. 0.5 adds both features (Section 4.1).
            top_k: As in `search_all`.
            include_self: Whether an indexed photo that is searched by its row is among the results.
            as_is: Whether sketches are searched without `prepare_sketch`, even blank ones.
            more: Row or path of an indexed photo that the person looks more like, or several.
            less: The same, less like.
            where: As in `search_all`.
            fold: As in `search_all`.
            pictures: Pictures by modality, such as {"pencil": "drawn.png"}, each as `sketch`; the features of several
                modalities are added.

        Raises:
            QueryError: If there is nothing to search for, a picture cannot be read, or a sketch is blank; or as in
                `search_all`.
        """
        how = {"include_self": include_self, "as_is": as_is, "more": more, "less": less, "pictures": pictures}
        query = make_query(text, sketch, photo, weight, **how)
        return self.search_all([query], top_k, where, fold)[0]

    def search_all(
        self, queries: Sequence[Query], top_k: int = 10, where: Filter | None = None, fold: float | None = None
    ) -> list[list[Hit]]:
        """Answer several queries in one pass over the index.

        Args:
            queries: The queries.
            top_k: Number of photos, or of cards after folding.
            where: Which photos are searched. An approximate search with a filter is exact.
            fold: Cosine of two features, above 0 to 1, from which on a photo is folded into a better one; needs a
                `top_k` of at most `MAX_FOLDED`.

        Raises:
            QueryError: If one of the queries cannot be read, and then none is answered; if no photo passes the filter;
                if a number is out of range.
        """
        if top_k < 1:
            raise QueryError(f"top_k {top_k}: expected at least 1")
        if fold is not None and not 0 < fold <= 1:
            raise QueryError(f"fold {fold}: expected a cosine of more than 0 and at most 1")
        index = self.index
        count = index.chosen(where) if where else index.count
        limits = [self._threshold(query, count) for query in queries]
        if min(top_k, count) > index.most:
            raise QueryError(f"top_k {top_k:,}: {index.place} finds at most {index.most:,} photos; ask for fewer")
        count = min(count, index.most)
        if fold is not None and min(top_k, count) > MAX_FOLDED:
            raise QueryError(f"top_k {top_k}: expected at most {MAX_FOLDED:,} when photos are folded")
        if not queries:
            return []
        feats = np.stack([self._encode(query, index) for query in queries])
        own = [frozenset(p for p in one.photos if isinstance(p, int) and not one.include_self) for one in queries]
        if fold is None:
            found = zip(*index.search(feats, min(top_k + max(map(len, own)), count), where), strict=True)
            lists = [_ranked(*one, left_out, top_k) for one, left_out in zip(found, own, strict=True)]
        else:
            shown = min(top_k, count)
            lists = [
                fold_ranking(_one_query(index, feat, where), index.features_of, fold, shown, count, left_out)
                for feat, left_out in zip(feats, own, strict=True)
            ]
        return [
            [_hit(index, rank, *card, limit) for rank, card in enumerate(cards, 1)]
            for cards, limit in zip(lists, limits, strict=True)
        ]

    def encode(self, query: Query) -> np.ndarray:
        """Encode a query as an un-normalised feature (D,) float32.

        A photo of the index has only a direction. Therefore every photo counts with the mean length of the query's
        other features. It is averaged with the sketches.

        QueryError if a picture cannot be read, the index has no such photo, or the model does not know a modality.
        """
        return self._encode(query, self.index)

    def _encode(self, query: Query, index: PhotoStore) -> np.ndarray:
        check_modalities(query, self.modalities)
        texts = [self._encode_text(one) for one in query.texts]
        sketches = [self._encode_picture(self.read_sketch(query, one)[0]) for one in query.sketches]
        others = [[self._encode_picture(one) for one in query.others[name]] for name in sorted(query.others)]
        if query.photos:
            feats = [*texts, *sketches, *itertools.chain(*others)]
            length = np.mean(np.linalg.norm(feats, axis=1)) if feats else 1
            photos = [
                _feature_at(index, one) if isinstance(one, int) else self._encode_picture(one) for one in query.photos
            ]
            sketches += list(length * normalize_rows(np.stack(photos)))
        feature = _fuse(texts, [sketches, *others], query.weight)
        if not query.more and not query.less:
            return feature
        given = [[] if feature is None else [feature]]
        given += [[_feature_at(index, one) for one in marks] for marks in (query.more, query.less)]
        means = [np.mean(normalize_rows(np.stack(feats)), axis=0) if feats else np.zeros(index.dim) for feats in given]
        return np.asarray(np.array(ROCCHIO) @ np.array(means), np.float32)

    def notes(self, query: Query) -> list[str]:
        """Say how a query was understood where that may surprise, what its threshold is, and if the index is not whole.

        Mostly empty.
        """
        told = [note for text in query.texts for note in self._encoder.tokenizer.notes(text)]
        told += [note for sketch in query.sketches for note in self.read_sketch(query, sketch)[1]]
        return told + self._encoder_notes() + self._threshold_notes(query) + self.index.notes

    def _encoder_notes(self) -> list[str]:
        """Tell that the photos were encoded otherwise than this query is."""
        model = self.model
        own = f"{model.encoder} {model.precision}" if isinstance(model, ExportedModel) else DEFAULT_ENCODER
        made_by = self.index.about["preprocessing"].get("encoder", DEFAULT_ENCODER)
        return [] if own == made_by else [f"the index was made with {made_by}, the query is encoded with {own}"]

    def _threshold(self, query: Query, photos: int) -> float | None:
        task = task_of_query(query)
        known = self.thresholds is not None and task is not None and self.thresholds.fits(self.index.about)
        return self.thresholds.threshold(task, photos) if known else None

    def _threshold_notes(self, query: Query) -> list[str]:
        if self.thresholds is None:
            return []
        if not self.thresholds.fits(self.index.about):
            return [self.thresholds.misfit(self.index.about)]
        if self._threshold(query, self.index.count) is None:
            return ["whether the person is here is not judged: there are no thresholds for such queries"]
        return [self.thresholds.describe(task_of_query(query), self.index.count)]

    def read_sketch(self, query: Query, sketch: Path | Image.Image) -> tuple[Image.Image, list[str]]:
        """Read a sketch of a query as it is searched, mode RGB, and say what `prepare_sketch` did to it.

        QueryError if it cannot be read, or is blank.
        """
        return read_sketch(query, sketch, self.config.model.image_size)

    def heat_map(self, picture: Path | Image.Image) -> np.ndarray:
        """Compute which patches of a picture the model attends to, by `attention_rollout`.

        Returns:
            (rows, columns) float32, one value per patch; the sum is 1.

        Raises:
            QueryError: If the picture cannot be read.
        """
        pixels = self._pixels(picture)
        with self._model_lock:
            from mindspore import Tensor

            from ms_unireid.apps.search.rollout import attention_rollout

            return attention_rollout(self._plain_model.base_model.visual, Tensor(pixels[None]))[0]

    @functools.cached_property
    def _plain_model(self) -> "UNIReID":
        """The model in MindSpore, whose attention an exported one does not give."""
        if not isinstance(self.model, ExportedModel):
            return self.model
        checkpoint = read_checkpoint(self.model.checkpoint)
        return checkpoint.build(plain_config(checkpoint.config(model_overrides(self.index.about))))

    def _pixels(self, picture: Path | Image.Image) -> np.ndarray:
        return evaluation_transform(read_query_picture(picture), self.config.model.image_size)

    def _encode_picture(self, picture: Path | Image.Image) -> np.ndarray:
        pixels = self._pixels(picture)
        with self._model_lock:
            return self._encoder.pixels(pixels[None])[0]

    def _encode_text(self, text: str) -> np.ndarray:
        with self._model_lock:
            return self._encoder.caption(text)


def _feature_at(index: PhotoStore, photo: int | Path) -> np.ndarray:
    """Return the feature (D,) float32 of an indexed photo."""
    row = photo if isinstance(photo, int) else index.row(photo)
    if not index.has(row):
        raise QueryError(f"row {row}: the index has {index.count} photos, and none of this row")
    return np.asarray(index.features_of([row])[0], np.float32)


def _fuse(texts: Sequence[np.ndarray], pictures: Sequence[Sequence], weight: float) -> np.ndarray | None:
    """Return the weighted sum of the means of un-normalised features (D,), pictures by modality; None without any."""
    text = np.mean(texts, axis=0) if texts else None
    means = [np.mean(feats, axis=0) for feats in pictures if feats]
    picture = functools.reduce(np.add, means) if means else None
    if text is None or picture is None:
        return picture if text is None else text
    weight = np.float32(weight)
    return 2 * weight * picture + 2 * (1 - weight) * text


def _one_query(
    index: PhotoStore, feature: np.ndarray, where: Filter | None
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def search(k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = index.search(feature[None], k, where)
        return rows[0], scores[0]

    return search


def _ranked(rows: np.ndarray, scores: np.ndarray, left_out: frozenset[int], top_k: int) -> list[Card]:
    """Make cards of the rows, without those left out, and -1, with which an approximate search fills up."""
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return [Card(row, score, []) for row, score in pairs if row >= 0 and row not in left_out][:top_k]


def _hit(index: PhotoStore, rank: int, row: int, score: float, same: Sequence[int], threshold: float | None) -> Hit:
    known = index.person(row), index.taken(row), index.camera(row)
    return Hit(rank, score, row, index.path(row), *known, tuple(same), threshold)


def _opened(index: PhotoStore | str | Path, approximate: bool) -> PhotoStore:
    return index if isinstance(index, PhotoStore) else open_store(index, approximate)
