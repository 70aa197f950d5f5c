"""The three networks of an export, each with its inputs of the comparison and what the checkpoint makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.export.cells import Fusion, ImageEncoder, TextEncoder
from ms_unireid.export.samples import Samples
from ms_unireid.models.unireid import UNIReID

FEATS, NORMALIZED = "feats", "normalized_feats"


@dataclass(frozen=True)
class Part:
    """One network.

    Attributes:
        name: Of its files, without the suffix.
        cell: What is exported.
        inputs: Name to sample, rows first.
        outputs: Names, in order.
        expected: What the checkpoint's own model gives for the samples, (N, D) float32 for each output.
    """

    name: str
    cell: nn.Cell
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    expected: tuple[np.ndarray, ...]


def make_parts(model: UNIReID, samples: Samples, normalized: bool) -> tuple[Part, ...]:
    """Set up the three networks; the samples' second half of pictures are the sketches of the fusion."""
    images = model.encode_image(Tensor(samples.images)).asnumpy()
    texts = model.encode_text(Tensor(samples.token_ids)).asnumpy()
    sketches = np.roll(images, len(images) // 2, 0)
    fused = model.fuse(Tensor(sketches), Tensor(texts)).asnumpy()
    fusion_inputs = {"sketch_feats": sketches, "text_feats": texts}
    return (
        _part("image_encoder", ImageEncoder(model, normalized), {"images": samples.images}, images, normalized),
        _part("text_encoder", TextEncoder(model, normalized), {"token_ids": samples.token_ids}, texts, normalized),
        _part("fusion", Fusion(model, normalized), fusion_inputs, fused, normalized),
    )


def open_inputs(part: Part, batch: int | None) -> list[Tensor]:
    """Return what the exporter takes for inputs: types and shapes, without values; None leaves the batch size open."""
    types = {"float32": ms.float32, "int32": ms.int32}
    return [Tensor(shape=(batch, *a.shape[1:]), dtype=types[a.dtype.name]) for a in part.inputs.values()]


def _part(name: str, cell: nn.Cell, inputs: dict[str, np.ndarray], feats: np.ndarray, normalized: bool) -> Part:
    cell.set_train(False)
    outputs = {NORMALIZED: normalize_rows(feats)} if normalized else {}
    if not normalized or name != "fusion":
        outputs[FEATS] = feats
    return Part(name, cell, inputs, tuple(outputs), tuple(outputs.values()))
