"""Check a conversion: compare features of fixed inputs in MindSpore with PyTorch's from the original file."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor

from ms_unireid.checkpoints.formats.dtypes import aligned, cast
from ms_unireid.checkpoints.torch_features import torch_features
from ms_unireid.config import ModelConfig
from ms_unireid.config_schema import VOCABULARY_SIZE
from ms_unireid.errors import CheckpointError, EnvironmentProblem
from ms_unireid.models.unireid import UNIReID

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences between the features of the converted model and of the original.

    Each limit is TOLERANCE * max(1, largest absolute feature).
    """

    image_difference: float
    text_difference: float
    image_limit: float
    text_limit: float

    @property
    def ok(self) -> bool:
        """Whether both differences are within their limits; NaN is not."""
        return self.image_difference <= self.image_limit and self.text_difference <= self.text_limit


def verify(
    original: Path, grid: tuple[int, int], config: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> Verification:
    """Compare a converted model, its tensors by our names, with its original file or folder.

    `grid` are the rows and columns of the original's visual position table; the logit scale may be missing. If PyTorch
    cannot read the original or the model is not complete, a CheckpointError; without PyTorch an EnvironmentProblem.
    """
    if not importlib.util.find_spec("torch"):
        raise EnvironmentProblem(f"{original}: --verify needs PyTorch; pip install torch, or leave it out")
    inputs = fixed_inputs(config.image_size, config.context_length, config.sizes.vocabulary_size)
    expected = torch_features(original, config, grid, *inputs)
    try:
        found = mindspore_features(tensors, config, *inputs)
    except KeyError as error:
        raise CheckpointError(
            f"{original}: its conversion has no {error.args[0]}; only a complete model can be checked"
        ) from error
    limits = [TOLERANCE * max(1.0, float(np.abs(e).max())) for e in expected]
    return Verification(*(float(np.abs(e - f).max()) for e, f in zip(expected, found, strict=True)), *limits)


def fixed_inputs(
    image_size: tuple[int, int], context_length: int, vocabulary_size: int = VOCABULARY_SIZE, count: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the inputs of a verification, equal on every machine.

    Images (count, 3, H, W) float32 are in the range of normalised pictures; token_ids (count, context_length) int32 are
    start, words, end, zeros.
    """
    # NumPy keeps the raw stream of a bit generator stable, but not the distributions of a Generator.
    source, end_token = np.random.PCG64(0), min(vocabulary_size, VOCABULARY_SIZE) - 1
    pixels = source.random_raw(count * 3 * image_size[0] * image_size[1]) % 256
    images = ((pixels / 255 - 0.45) / 0.27).astype(np.float32).reshape(count, 3, *image_size)
    token_ids = (1 + source.random_raw(count * context_length) % (end_token - 2)).astype(np.int32).reshape(count, -1)
    ends = 2 + source.random_raw(count) % (context_length - 2)
    token_ids[:, 0] = end_token - 1
    for row, end in zip(token_ids, ends.tolist(), strict=True):
        row[end], row[end + 1 :] = end_token, 0
    return images, token_ids


def mindspore_features(
    tensors: Mapping[str, np.ndarray], config: ModelConfig, images: np.ndarray, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encode images (B, 3, H, W) float32 and token_ids (B, L) int32 with our model: un-normalised features (B, D).

    A parameter other than the logit scale that has no tensor raises a KeyError.
    """
    model = UNIReID(config).set_train(False)
    for parameter in model.get_parameters():
        if parameter.name != "logit_scale":
            parameter.set_data(Tensor(aligned(cast(tensors[parameter.name], "float32"))))
    return model.encode_image(Tensor(images)).asnumpy(), model.encode_text(Tensor(token_ids)).asnumpy()
