"""The description of exported files: what a program must know about their inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ms_unireid.apps.optional import versions
from ms_unireid.config import ModelConfig
from ms_unireid.data.tokenizer import VOCABULARY, VOCABULARY_SHA256, VOCABULARY_SIZE, Tokenizer
from ms_unireid.data.transforms import MEAN, STD
from ms_unireid.modalities import TEXT

FILE_NAME = "input_specification.json"
FORMAT_VERSION = 1
FORMATS = ("mindir", "onnx")
PRECISIONS = ("float32", "int8")
_PACKAGES = ("ms-unireid", "mindspore", "onnx", "onnxruntime", "numpy", "pillow", "tokenizers", "ftfy")
_CUT = "cut and ends in the end token"
_LONG = {
    "cut": _CUT,
    "split": "split at its sentences into several rows, as Tokenizer.pieces does with split=True, and its features are "
    "the mean of their un-normalised ones",
    "stretch": _CUT,
}


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        formats: One or both of `FORMATS`.
        precision: One of `PRECISIONS`; int8 needs ONNX and applies to the two encoders.
        normalized: Give features of unit length.
        redo: Replace an earlier export in the folder.
    """

    formats: tuple[str, ...] = FORMATS
    precision: str = "float32"
    normalized: bool = False
    redo: bool = False


def describe_model(model: ModelConfig) -> dict[str, Any]:
    """Describe the architecture and its sizes."""
    keys = ("architecture", "image_size", "context_length", "activation")
    values = asdict(model)
    return {key: values[key] for key in keys} | {
        "patch_stride": model.patch_stride,
        "feature_size": model.sizes.embed_dim,
    }


def feature_names(pictures: Sequence[str]) -> list[str]:
    """Return the names of the inputs of fusion, for modalities of pictures and text."""
    return [f"{name}_feats" for name in (*pictures, TEXT)]


def describe_inputs(model: ModelConfig, long_captions: str, pictures: Sequence[str]) -> dict[str, Any]:
    """Describe the inputs: pictures, token ids, with a rule of `DataConfig.long_captions`, and features."""
    height, width = model.image_size
    tokenizer = Tokenizer.of(model)
    merges = tokenizer.vocabulary_size - 514  # besides 2 * 256 bytes, start and end
    first = "" if tokenizer.vocabulary_size == VOCABULARY_SIZE else f"the first {merges} merges of "
    feats = {"dtype": "float32", "shape": ["batch", model.sizes.embed_dim]}
    return {
        "images": {
            "file": "image_encoder",
            "what": f"photos and {', '.join(('sketches', *pictures[1:]))} alike",
            "dtype": "float32",
            "shape": ["batch", 3, height, width],
            "layout": "NCHW",
            "channels": "RGB",
            "height": height,
            "width": width,
            "resize": "to exactly height x width, proportions not kept",
            "interpolation": "bilinear with antialiasing, Pillow's Image.Resampling.BILINEAR on 8-bit values",
            "value_range": [0.0, 1.0],
            "mean": [float(str(value)) for value in MEAN],
            "deviation": [float(str(value)) for value in STD],
            "formula": "(pixel / 255 - mean) / deviation",
        },
        "token_ids": {
            "file": "text_encoder",
            "dtype": "int32",
            "shape": ["batch", model.context_length],
            "length": model.context_length,
            "vocabulary": VOCABULARY.name,
            "vocabulary_sha256": VOCABULARY_SHA256,
            "vocabulary_size": tokenizer.vocabulary_size,
            "start_token": tokenizer.start_token,
            "end_token": tokenizer.end_token,
            "padding": 0,
            "row": f"start token, caption, end token, padding; a longer caption is {_LONG[long_captions]}",
            "encoding": f"{first}CLIP's byte-pair encoding of the lower-cased caption, behind ftfy.fix_text, "
            "html.unescape twice, and white space collapsed to single spaces",
        },
        **{
            name: {"file": "fusion", **feats, "what": "un-normalised features of image_encoder"}
            for name in feature_names(pictures)
        },
        f"{TEXT}_feats": {"file": "fusion", **feats, "what": "un-normalised features of text_encoder"},
    }


def describe_outputs(
    outputs: Mapping[str, tuple[str, ...]], normalized: bool, dim: int, pictures: Sequence[str]
) -> dict[str, Any]:
    """Describe the outputs: names by file, in order, and width of the features."""
    return {
        "files": {file: list(names) for file, names in outputs.items()},
        "dtype": "float32",
        "shape": ["batch", dim],
        "normalised": normalized,
        "fusion": f"{' + '.join(feature_names(pictures))}, of un-normalised features, each with weight 1"
        + "; zeros for what a query does not ask with" * (len(pictures) > 1),
        "ranking": "cosine similarity of query and photo: the dot product of features divided by their L2 norms",
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the files depend on."""
    return versions(_PACKAGES)
