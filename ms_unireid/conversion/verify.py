"""Verify a conversion: features of fixed inputs in MindSpore beside those of the original file.

The original's come from PyTorch where it is installed, else from a stored fingerprint of a known file.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor

from ms_unireid.architectures import ARCHITECTURES
from ms_unireid.config import ModelConfig
from ms_unireid.conversion.dtypes import aligned, cast
from ms_unireid.conversion.torch_features import torch_features
from ms_unireid.errors import CheckpointError, EnvironmentProblem, UserError
from ms_unireid.files import write_json
from ms_unireid.models.unireid import build_model

TOLERANCE = 1e-5
FINGERPRINTS = Path(__file__).with_name("fingerprints.json")
_START, _END = 49406, 49407
_LEADING = 8


@dataclass(frozen=True)
class Original:
    """The file that was converted.

    Attributes:
        path: The file or folder.
        sha256: Its digest, in hexadecimal.
        grid: Rows and columns of its visual position table.
    """

    path: Path
    sha256: str
    grid: tuple[int, int]


@dataclass(frozen=True)
class Verification:
    """How far the converted model's features of the fixed inputs are from the original's.

    Attributes:
        against: Where the original's come from, in words.
        image_difference: Largest absolute difference of an image feature.
        text_difference: Largest absolute difference of a text feature.
        image_limit: What `image_difference` may be: TOLERANCE * max(1, largest absolute image feature).
        text_limit: The same for text.
    """

    against: str
    image_difference: float
    text_difference: float
    image_limit: float
    text_limit: float

    @property
    def ok(self) -> bool:
        """Whether both differences are within their limits; a NaN is not."""
        return self.image_difference <= self.image_limit and self.text_difference <= self.text_limit


@dataclass(frozen=True)
class Fingerprint:
    """What is stored of a known file's features of the fixed inputs.

    Attributes:
        name: The file, in words.
        image_size: Height and width of the pictures in pixels.
        stride: Distance between patches in pixels.
        context_length: Length of the captions in tokens.
        image: For each picture the feature's first 8 values and then its norm.
        text: The same for each caption.
    """

    name: str
    image_size: tuple[int, int]
    stride: int
    context_length: int
    image: list[list[float]]
    text: list[list[float]]


def verify(
    original: Original, config: ModelConfig, tensors: Mapping[str, np.ndarray], store: Path = FINGERPRINTS
) -> Verification:
    """Compare a converted model with the file it came from.

    Args:
        original: That file.
        config: The model it was converted for.
        tensors: The written file's tensors under our names; the logit scale is not needed.
        store: The file of fingerprints to use where PyTorch is not installed.

    Raises:
        CheckpointError: If PyTorch cannot read the original, or the converted tensors are no whole model.
        EnvironmentProblem: If PyTorch is not installed and no fingerprint fits.
    """
    images, token_ids = fixed_inputs(config.image_size, config.context_length)
    if importlib.util.find_spec("torch"):
        expected = torch_features(original.path, config, original.grid, images, token_ids)
        found = _converted_features(original, config, tensors, images, token_ids)
        differences = [float(np.abs(e - f).max()) for e, f in zip(expected, found, strict=True)]
        return _verification("PyTorch", differences, expected)
    fingerprint = _find(original, config, store)
    found = _converted_features(original, config, tensors, images, token_ids)
    differences = [
        _distance(known, feats) for known, feats in zip((fingerprint.image, fingerprint.text), found, strict=True)
    ]
    return _verification(f"fingerprint of {fingerprint.name}", differences, found)


def fixed_inputs(image_size: tuple[int, int], context_length: int, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw the inputs of every verification, the same on every machine.

    Returns:
        Images (count, 3, H, W) float32 in the range of normalised pictures, and token_ids (count, context_length)
        int32: start, words, end, then zeros.
    """
    # NumPy promises the raw stream of a bit generator for ever, but not a Generator's distributions.
    source = np.random.PCG64(0)
    pixels = source.random_raw(count * 3 * image_size[0] * image_size[1]) % 256
    images = ((pixels / 255 - 0.45) / 0.27).astype(np.float32).reshape(count, 3, *image_size)
    token_ids = (1 + source.random_raw(count * context_length) % (_START - 1)).astype(np.int32).reshape(count, -1)
    ends = 2 + source.random_raw(count) % (context_length - 2)
    token_ids[:, 0] = _START
    for row, end in zip(token_ids, ends.tolist(), strict=True):
        row[end], row[end + 1 :] = _END, 0
    return images, token_ids


def mindspore_features(
    tensors: Mapping[str, np.ndarray], config: ModelConfig, images: np.ndarray, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encode pictures and captions with our model.

    Args:
        tensors: Values of its parameters by name; the logit scale is not needed.
        config: The model.
        images: (B, 3, H, W) float32.
        token_ids: (B, L) int32.

    Returns:
        Un-normalised image and text features, each (B, D) float32.

    Raises:
        KeyError: If a parameter has no value.
    """
    model = build_model(config).set_train(False)
    for parameter in model.get_parameters():
        if parameter.name != "logit_scale":
            parameter.set_data(Tensor(aligned(cast(tensors[parameter.name], "float32"))))
    return model.encode_image(Tensor(images)).asnumpy(), model.encode_text(Tensor(token_ids)).asnumpy()


def read_fingerprints(store: Path = FINGERPRINTS) -> dict[str, list[Fingerprint]]:
    """Read a store: a file's SHA-256 to its fingerprints, one for each image size.

    Raises:
        UserError: If it is not a store of fingerprints.
    """
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
        return {
            sha256: [Fingerprint(**{**entry, "image_size": tuple(entry["image_size"])}) for entry in entries]
            for sha256, entries in content.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{store}: is not a file of fingerprints ({error}); make it anew where PyTorch is") from error


def record_fingerprint(original: Original, config: ModelConfig, name: str, store: Path) -> Fingerprint:
    """Compute the original's features with PyTorch and add their fingerprint to a store, which may be new.

    Raises:
        CheckpointError: If PyTorch cannot read the original.
        UserError: If the store cannot be read or written.
    """
    images, token_ids = fixed_inputs(config.image_size, config.context_length)
    feats = torch_features(original.path, config, original.grid, images, token_ids)
    image, text = (_digest(f) for f in feats)
    made = Fingerprint(name, tuple(config.image_size), _stride(config), config.context_length, image, text)
    entries = read_fingerprints(store) if store.exists() else {}
    others = [f for f in entries.get(original.sha256, []) if not _fits(f, config)]
    entries[original.sha256] = [*others, made]
    write_json(store, {sha256: [asdict(f) for f in kept] for sha256, kept in entries.items()})
    return made


def _digest(feats: np.ndarray) -> list[list[float]]:
    norms = np.linalg.norm(feats.astype(np.float64), axis=1, keepdims=True)
    return np.concatenate([feats[:, :_LEADING], norms], axis=1).tolist()


def _distance(known: list[list[float]], feats: np.ndarray) -> float:
    """Return the largest difference of a leading value, or of the norm per root of the number of values."""
    difference = np.abs(np.array(known) - np.array(_digest(feats)))
    difference[:, -1] /= feats.shape[1] ** 0.5
    return float(difference.max())


def _stride(config: ModelConfig) -> int:
    return ARCHITECTURES[config.architecture].patch_size if config.stride is None else config.stride


def _fits(fingerprint: Fingerprint, config: ModelConfig) -> bool:
    own = fingerprint.image_size, fingerprint.stride, fingerprint.context_length
    return own == (tuple(config.image_size), _stride(config), config.context_length)


def _find(original: Original, config: ModelConfig, store: Path) -> Fingerprint:
    entries = read_fingerprints(store).get(original.sha256, [])
    for fingerprint in entries:
        if _fits(fingerprint, config):
            return fingerprint
    sizes = ", ".join(f"{f.image_size} with stride {f.stride}" for f in entries)
    stored = f"its fingerprint is stored for image size {sizes} only" if entries else "no fingerprint of it is stored"
    raise EnvironmentProblem(
        f"{original.path}: there is nothing to verify it with: PyTorch is not installed and {stored}; pip install "
        "torch, or store one where PyTorch is, with --verify --fingerprints FILE, and bring that file"
    )


def _converted_features(
    original: Original, config: ModelConfig, tensors: Mapping[str, np.ndarray], images: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    try:
        return mindspore_features(tensors, config, images, ids)
    except KeyError as error:
        raise CheckpointError(
            f"{original.path}: its conversion lacks {error.args[0]}; only a whole model can be verified"
        ) from error


def _verification(against: str, differences: list[float], feats: tuple[np.ndarray, np.ndarray]) -> Verification:
    limits = [TOLERANCE * max(1.0, float(np.abs(f).max())) for f in feats]
    return Verification(against, *differences, *limits)
