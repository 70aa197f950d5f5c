"""The three exported networks: image encoder, text encoder and fusion, in forms that export with any batch size.

They share the parameters of `UNIReID` and give the same numbers. Two steps differ, because MindSpore's exporters would
write the batch size into the file: the class token is added by padding instead of tiling, and the class and end-of-text
tokens are picked without slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_unireid.apps.export.samples import Samples
from ms_unireid.apps.export.specification import feature_names
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.models.unireid import UNIReID

_LEAST_NORM = 1e-12


class _Output(nn.Cell):
    """Un-normalised features, or features divided by their L2 norm."""

    def __init__(self, normalized: bool):
        super().__init__()
        self.normalized = normalized
        self.sum = ops.ReduceSum(keep_dims=True)

    def construct(self, feats: Tensor) -> Tensor:
        if not self.normalized:
            return feats
        return feats / ops.maximum(ops.sqrt(self.sum(feats * feats, -1)), _LEAST_NORM)


class ExportedImageEncoder(nn.Cell):
    """The encoder of photos and all other pictures; `normalized` adds the un-normalised features as a second output."""

    def __init__(self, model: UNIReID, normalized: bool = False):
        super().__init__(auto_prefix=False)
        self.tower, self.normalized = model.base_model.visual, normalized
        self.pad_first = ops.Pad(((0, 0), (1, 0), (0, 0)))
        self.first = Tensor(0, ms.int32)
        self.output = _Output(normalized)

    def construct(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode images (B, 3, H, W) float32 as features (B, D) float32."""
        tower = self.tower
        positions = tower.positional_embedding
        class_token = tower.class_embedding.reshape(1, -1) + positions[:1]
        x = self.pad_first(tower.conv1(images)) + ops.concat((class_token, positions[1:]), 0)
        x = tower.transformer(tower.ln_pre(x))
        feats = tower.pool(ops.gather(x, self.first, 1), x)
        return (self.output(feats), feats) if self.normalized else feats


class ExportedTextEncoder(nn.Cell):
    """The encoder of captions; outputs as in `ExportedImageEncoder`."""

    def __init__(self, model: UNIReID, normalized: bool = False):
        super().__init__(auto_prefix=False)
        self.clip, self.normalized = model.base_model, normalized
        length = self.clip.positional_embedding.shape[0]
        self.positions = Tensor(np.arange(length, dtype=np.int32)[None])
        self.pick = ops.BatchMatMul()
        self.output = _Output(normalized)

    def construct(self, token_ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode token_ids (B, L) int32 as features (B, D) float32."""
        clip = self.clip
        x = clip.transformer(clip.embed(token_ids))
        end = clip.eot_index(token_ids)
        at_end = (self.positions == end.expand_dims(1)).astype("float32").expand_dims(1)  # (B, 1, L), a one in each row
        feats = clip.pool(self.pick(at_end, x).squeeze(1), x, end)
        return (self.output(feats), feats) if self.normalized else feats


class ExportedFusion(nn.Cell):
    """The fusion of un-normalised features of the modalities that the model was trained for."""

    def __init__(self, model: UNIReID, normalized: bool = False):
        super().__init__(auto_prefix=False)
        self.model = model
        self.output = _Output(normalized)

    def construct(self, *feats: Tensor) -> Tensor:
        """Fuse features (B, D) float32; zeros stand for what a query does not ask with."""
        return self.output(self.model.fuse(*feats))


FEATS, NORMALIZED = "feats", "normalized_feats"


@dataclass(frozen=True)
class Part:
    """One exported network.

    Attributes:
        name: Stem of its files.
        cell: The network.
        inputs: Sample inputs by name, N rows each.
        outputs: Output names, in order.
        expected: The checkpoint's outputs for the samples, (N, D) float32 each.
    """

    name: str
    cell: nn.Cell
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    expected: tuple[np.ndarray, ...]


def make_parts(
    model: UNIReID, samples: Samples, normalized: bool, pictures: Sequence[str] = ("sketch",)
) -> tuple[Part, ...]:
    """Build the three networks; fusion joins each caption with another picture of the samples for each modality."""
    images = model.encode_image(Tensor(samples.images)).asnumpy()
    texts = model.encode_text(Tensor(samples.token_ids)).asnumpy()
    rolled = [np.roll(images, len(images) // 2 + place, 0) for place in range(len(pictures))]
    fusion_inputs = dict(zip(feature_names(pictures), [*rolled, texts], strict=True))
    fused = model.fuse(*map(Tensor, fusion_inputs.values())).asnumpy()
    return (
        _part("image_encoder", ExportedImageEncoder, model, {"images": samples.images}, images, normalized),
        _part("text_encoder", ExportedTextEncoder, model, {"token_ids": samples.token_ids}, texts, normalized),
        _part("fusion", ExportedFusion, model, fusion_inputs, fused, normalized),
    )


def input_placeholders(part: Part, batch: int | None) -> list[Tensor]:
    """Return inputs of type and shape, without values, for the exporter; None leaves the batch size open."""
    types = {"float32": ms.float32, "int32": ms.int32}
    return [Tensor(shape=(batch, *a.shape[1:]), dtype=types[a.dtype.name]) for a in part.inputs.values()]


def _part(
    name: str,
    kind: type[nn.Cell],
    model: UNIReID,
    inputs: dict[str, np.ndarray],
    feats: np.ndarray,
    normalized: bool,
) -> Part:
    cell = kind(model, normalized).set_train(False)
    outputs = {NORMALIZED: normalize_rows(feats)} if normalized else {}
    if not normalized or name != "fusion":
        outputs[FEATS] = feats
    return Part(name, cell, inputs, tuple(outputs), tuple(outputs.values()))
