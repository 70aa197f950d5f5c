"""Features of a split: each distinct photo, sketch and caption encoded once, in batches of one shape.

Several processes share the batches, whole and in order, so that each is the batch that one process would encode.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from ms_unireid.architectures import ARCHITECTURES
from ms_unireid.config import Config
from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.data.pipeline import PictureSource, iterate
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.distributed import all_gather_rows
from ms_unireid.evaluation.questions import SplitFeatures
from ms_unireid.models.unireid import UNIReID
from ms_unireid.processes import ALONE, Processes


class _ImageEncoder(nn.Cell):
    """`encode_image` as a cell of its own, so that graph mode compiles it once."""

    def __init__(self, model: UNIReID):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


class _TextEncoder(nn.Cell):
    """`encode_text` as a cell of its own."""

    def __init__(self, model: UNIReID):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, token_ids: Tensor) -> Tensor:
        return self.model.encode_text(token_ids)


class FeatureExtractor:
    """Encodes pictures and captions with a model; keep one per model, its graphs compile at first use.

    Args:
        model: The trained model.
        config: Image size, context length, batch size and workers.
        progress: Called with (done, total) batches of what is being encoded, as seen by this process; equally often
            in every process, so that it may talk to the others.
        processes: Those that share the work; each calls the same methods with the same arguments.
    """

    def __init__(
        self,
        model: UNIReID,
        config: Config,
        progress: Callable[[int, int], None] | None = None,
        processes: Processes = ALONE,
    ):
        self.config, self.progress, self.processes = config, progress, processes
        self.model = model
        self.image_encoder, self.text_encoder = _ImageEncoder(model), _TextEncoder(model)
        self.tokenizer = Tokenizer(config.model.context_length)

    def pictures(self, paths: Sequence[Path]) -> np.ndarray:
        """Encode photos or sketches; un-normalised features (N, D) float32 in the order given.

        Raises:
            DataError: If a picture cannot be read.
        """
        own = paths[self._own_rows(len(paths))]
        source = PictureSource(own, self.config.eval.batch_size, self.config.model.image_size)
        batches = (batch for (batch,) in iterate(source, self.config.runtime)) if own else iter(())
        return self._encode(self.image_encoder, batches, len(paths))

    def captions(self, captions: Sequence[str]) -> np.ndarray:
        """Encode captions; un-normalised features (N, D) float32 in the order given."""
        size = self.config.eval.batch_size
        token_ids = self.tokenizer(captions)
        filled = np.concatenate([token_ids, np.repeat(token_ids[:1], -len(token_ids) % size, axis=0)])
        own = filled[self._own_rows(len(filled))]
        return self._encode(self.text_encoder, (own[i : i + size] for i in range(0, len(own), size)), len(captions))

    def encode(self, data: EvaluationSet) -> SplitFeatures:
        """Encode every photo and sketch, and every distinct caption once.

        Raises:
            DataError: If a picture cannot be read.
        """
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(data.captions))}
        width = ARCHITECTURES[self.config.model.architecture].embed_dim
        distinct = self.captions(list(rows)) if rows else np.zeros((0, width), np.float32)
        return SplitFeatures(
            photo=self.pictures(data.photos),
            sketch=self.pictures(data.sketches),
            text=distinct[[rows[caption] for caption in data.captions]] if rows else distinct,
            person_ids=data.person_ids,
            caption_photos=data.caption_photos,
            caption_persons=data.caption_persons,
            sketch_persons=data.sketch_persons,
            cameras=data.cameras,
            trials=data.trials,
        )

    def _own_rows(self, count: int) -> slice:
        """Return which rows are in this process's batches."""
        size = self.config.eval.batch_size
        batches = self.processes.block(-(-count // size))
        return slice(batches.start * size, batches.stop * size)

    def _encode(self, encoder: nn.Cell, batches: Iterator[np.ndarray], count: int) -> np.ndarray:
        encoder.set_train(False)
        size = self.config.eval.batch_size
        # Processes at the end may have fewer batches or none; their missing rows come last and are cut off.
        rounds = -(-count // (size * self.processes.size))
        feats = np.zeros((rounds * size, ARCHITECTURES[self.config.model.architecture].embed_dim), np.float32)
        for done in range(rounds):
            batch = next(batches, None)
            if batch is not None:
                feats[done * size : (done + 1) * size] = encoder(Tensor(batch)).asnumpy()
            if self.progress:
                self.progress(done + 1, rounds)
        return all_gather_rows(feats, self.processes)[:count]
