"""From pictures and captions to features: the batching that evaluation, index, search and export share.

All batches have the same number of rows. Captions of similar length share a batch, which is cut after the longest, or
at the next length that the device has a graph for: causality hides the padding. Several processes take whole batches in
order, so each equals one of a single process.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_unireid.config import Config
from ms_unireid.data.evaluation_sets import EvaluationSet, Owners
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import PixelLoader
from ms_unireid.evaluation.exported_model import ExportedModel
from ms_unireid.evaluation.queries import Part, SplitFeatures
from ms_unireid.runtime import ALONE, Processes

if TYPE_CHECKING:
    from ms_unireid.models.unireid import UNIReID


def caption_batches(token_ids: np.ndarray, size: int, lengths: Sequence[int]) -> list[tuple[np.ndarray, int]]:
    """Group captions of similar length into batches of `size`; of token_ids (N, L) int32 the largest ends a caption.

    Returns each batch's rows (size,), the last batch filled up with its last row, and the tokens that it is cut to: one
    of `lengths`, which ascend to at least L, or L.
    """
    ends = token_ids.argmax(1) + 1
    rows = np.argsort(ends, kind="stable")
    blocks = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size)]).reshape(-1, size)
    return [(block, _cut_length(token_ids[block], lengths)) for block in blocks]


def _cut_length(token_ids: np.ndarray, lengths: Sequence[int]) -> int:
    """Return the number of tokens that a batch (B, L) is cut to."""
    end = int(token_ids.argmax(1).max()) + 1
    return min(next(length for length in lengths if length >= end), token_ids.shape[1])


class Encoder:
    """Encodes pictures and captions with a model, in MindSpore or exported; keep one: it compiles at first use.

    The processes share the work: each calls the same methods with the same arguments. `progress` is called with (done,
    total) batches of this process, equally often in every process, so that it may communicate. `load` returns a
    picture's pixels; None decodes its file.
    """

    def __init__(
        self,
        model: "UNIReID | ExportedModel",
        config: Config,
        progress: Callable[[int, int], None] | None = None,
        processes: Processes = ALONE,
        load: PixelLoader | None = None,
    ):
        self.config, self.progress, self.processes, self.load = config, progress, processes, load
        self.model = model
        if isinstance(model, ExportedModel):
            self.image_encoder, self.text_encoder, self.text_lengths = model.images, model.captions, (model.length,)
        else:
            from ms_unireid.models.encoders import ImageEncoder, TextEncoder

            self.image_encoder, self.text_encoder = ImageEncoder(model), TextEncoder(model)
            self.text_lengths = self.text_encoder.lengths
        self.tokenizer = Tokenizer.of(config.model, config.data.long_captions)

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """Encode pictures (B, 3, H, W), float32 normalised or uint8 pixels; un-normalised features (B, D) float32."""
        return self._run(self.image_encoder, images)

    def tokens(self, token_ids: np.ndarray) -> np.ndarray:
        """Encode one batch of token ids (B, L) int32; un-normalised features (B, D) float32."""
        length = _cut_length(token_ids, self.text_lengths)
        return self._run(self.text_encoder, token_ids[:, :length])

    def pictures(self, paths: Sequence[Path]) -> np.ndarray:
        """Encode photos or sketches; un-normalised features (N, D) float32 in the order given.

        DataError if a picture cannot be read.
        """
        from ms_unireid.data.pipeline import PictureSource, iterate

        own = paths[self._own_rows(len(paths))]
        source = PictureSource(own, self.config.eval.batch_size, self.config.model.image_size, self.load)
        batches = (batch for (batch,) in iterate(source, self.config.runtime)) if own else iter(())
        return self._encode(self.image_encoder, batches, len(paths))

    def captions(self, captions: Sequence[str]) -> np.ndarray:
        """Encode captions; un-normalised features (N, D) float32 in the order given.

        A caption that is split has the mean of its pieces' features.
        """
        size = self.config.eval.batch_size
        pieces = self.tokenizer.pieces(captions)
        token_ids = pieces.token_ids
        batches = caption_batches(token_ids, size, self.text_lengths)
        own = batches[self.processes.block(len(batches))]
        cut = (token_ids[rows, :length] for rows, length in own)
        encoded = self._encode(self.text_encoder, cut, len(batches) * size)
        feats = np.empty((len(token_ids), encoded.shape[1]), np.float32)
        feats[np.concatenate([rows for rows, _ in batches])] = encoded
        return pieces.average(feats)

    def caption(self, text: str) -> np.ndarray:
        """Encode a caption as `captions` does, its rows one by one; un-normalised features (D,) float32."""
        pieces = self.tokenizer.pieces([text])
        return pieces.average(np.concatenate([self.tokens(row[None]) for row in pieces.token_ids]))[0]

    def encode(self, data: EvaluationSet) -> SplitFeatures:
        """Encode every photo and sketch, and every distinct caption once; DataError if a picture cannot be read."""
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(data.captions))}
        width = self.config.model.sizes.embed_dim
        distinct = self.captions(list(rows)) if rows else np.zeros((0, width), np.float32)
        return SplitFeatures(
            photo=self.pictures(data.photos),
            sketch=self.pictures(data.sketches),
            text=distinct[[rows[caption] for caption in data.captions]] if rows else distinct,
            others={name: Part(self.pictures(one.paths), one.persons, one.photos) for name, one in data.others.items()},
            **{owned.name: getattr(data, owned.name) for owned in dataclasses.fields(Owners)},
        )

    def _own_rows(self, count: int) -> slice:
        """Return which rows are in this process's batches."""
        size = self.config.eval.batch_size
        batches = self.processes.block(-(-count // size))
        return slice(batches.start * size, batches.stop * size)

    def _run(self, encoder: Callable[[Any], Any], batch: np.ndarray) -> np.ndarray:
        if isinstance(self.model, ExportedModel):
            return encoder(batch)
        from ms_unireid.models.vision import to_device

        return encoder(to_device(batch)).asnumpy()

    def _encode(self, encoder: Callable[[Any], Any], batches: Iterator[np.ndarray], count: int) -> np.ndarray:
        size = self.config.eval.batch_size
        # The last processes may have fewer batches or none; their missing rows come last and are cut off.
        rounds = -(-count // (size * self.processes.size))
        feats = np.zeros((rounds * size, self.config.model.sizes.embed_dim), np.float32)
        for done in range(rounds):
            batch = next(batches, None)
            if batch is not None:
                feats[done * size : (done + 1) * size] = self._run(encoder, batch)
            if self.progress:
                self.progress(done + 1, rounds)
        if self.processes.size > 1:
            from ms_unireid.distributed import all_gather_rows

            feats = all_gather_rows(feats, self.processes)
        return feats[:count]
