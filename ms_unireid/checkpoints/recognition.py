"""Recognise what an opened file holds, and give its tensors CLIP's names; nothing is read until it is asked for."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.dtypes import cast
from ms_unireid.checkpoints.formats.tensor_file import Entry, TensorFile
from ms_unireid.config import ModelConfig, config_from_dict
from ms_unireid.config_schema import ARCHITECTURES, Architecture
from ms_unireid.errors import CheckpointError
from ms_unireid.models.positions import model_grid, patch_grid

OURS = "ms_unireid"
KINDS = ("openai_clip", "huggingface_clip", "open_clip", "unireid", "irra", OURS)
META = "ms_unireid"

_CLIP_ANCHOR = "visual.conv1.weight"
_HUGGINGFACE_ANCHOR = "vision_model.embeddings.patch_embedding.weight"
_TOWERS = ("visual.", "transformer.", "text.", "vision_model.", "text_model.")
_BUFFERS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
_OPTIMIZER = ("optimizer.", "scheduler.", "scaler.", "exp_avg", "beta1_power", "beta2_power", "average.")
# Picture sizes (height, width) in use where a position table is not square, the authors' first.
_USUAL_SIZES = ((384, 128), (256, 128))


@dataclass(frozen=True)
class Source:
    """A recognised file.

    Attributes:
        file: The opened file.
        kind: One of `KINDS`.
        entries: CLIP's name to tensor, for every tensor of a CLIP that the file has.
        origins: CLIP's name to the name or names in the file.
        surplus: Every other name in the file, and what it seems to be: "buffer", "optimizer state", "tower" for
            a part of the towers that our model lacks, or "extra".
        model: Architecture, picture size, stride, context length and activation of the file.
        activation: The activation that the file names or the caller gave; None if nobody said, and `model` has the
            usual one.
        patches: Rows of its position table, without the class token's.
        grid: Rows and columns of patches it is for; None if its own description, a square and the usual sizes do not
            tell, and `model` has the default picture size.
        meta: What a file of ours says about itself, else empty.
    """

    file: TensorFile
    kind: str
    entries: dict[str, Entry]
    origins: dict[str, tuple[str, ...]]
    surplus: dict[str, str]
    model: ModelConfig
    activation: str | None
    patches: int
    grid: tuple[int, int] | None
    meta: dict[str, Any]


def open_source(
    path: str | Path,
    kind: str | None = None,
    image_size: tuple[int, int] | None = None,
    activation: str | None = None,
) -> Source:
    """Open a file and recognise its kind and sizes by its content.

    Args:
        path: A file, or a Hugging Face folder.
        kind: Overrides the recognised kind.
        image_size: Height and width that its position table is for; else its own word for it, a square if the
            table allows one, or the usual sizes of person re-identification.
        activation: "quick_gelu" or "gelu"; overrides the file's own word for it.

    Raises:
        CheckpointError: If it cannot be read or is no dual encoder that this project knows.
    """
    file = read_tensor_file(Path(path))
    meta = _meta(file)
    anchor, prefix = _find_anchor(file, kind)
    kind = kind or _kind_of(file, anchor, prefix, meta)
    architecture = _architecture(file, prefix + anchor)
    entries, origins = _collect(file, anchor, prefix, ARCHITECTURES[architecture])
    patches = _rows(file, entries, names.VISUAL_POSITIONS) - 1
    used = {name for group in origins.values() for name in group}
    surplus = {name: _what_is(name, prefix) for name in file.tensors if name not in used}
    activation = activation or _activation(file, meta)
    model = ModelConfig(architecture=architecture, activation=activation or ModelConfig.activation)
    if "positional_embedding" in entries:
        model = replace(model, context_length=_rows(file, entries, "positional_embedding"))
    grid, model = _grid(file, model, patches, image_size, meta)
    return Source(file, kind, entries, origins, surplus, model, activation, patches, grid, meta)


def _meta(file: TensorFile) -> dict[str, Any]:
    # A MindSpore or safetensors file keeps our description apart, a PyTorch file beside the tensors.
    text = file.metadata.get(META) or file.values.get(META)
    if text is None:
        return {}
    meta = _json_object(file, text, META)
    if not isinstance(meta.get("config"), dict):
        raise CheckpointError(f"{file.path}: its description has no config; copy the file again or take another")
    return meta


def _json_object(file: TensorFile, text: Any, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file.path}: its {what} is damaged, it is no JSON object; copy the file again")
    return found


def _find_anchor(file: TensorFile, kind: str | None) -> tuple[str, str]:
    """Return the name that marks the layout, and the prefix it stands behind."""
    wanted = (_HUGGINGFACE_ANCHOR,) if kind == "huggingface_clip" else (_CLIP_ANCHOR,)
    anchors = (_CLIP_ANCHOR, _HUGGINGFACE_ANCHOR) if kind is None else wanted
    weights = [name for name in file.tensors if not name.startswith(_OPTIMIZER)]
    found = [(a, n.removesuffix(a)) for n in weights for a in anchors if n == a or n.endswith("." + a)]
    if len(found) == 1:
        return found[0]
    if not found:
        some = ", ".join(list(file.tensors)[:3]) or "none"
        raise CheckpointError(
            f"{file.path}: is no CLIP with a vision transformer: nothing is called {' or '.join(anchors)} "
            f"({len(file.tensors)} tensors: {some}, ...); give a CLIP, UNIReID or IRRA checkpoint"
        )
    several = ", ".join(repr(prefix) for _, prefix in found)
    raise CheckpointError(f"{file.path}: holds several models, behind {several}; save one of them alone")


def _kind_of(file: TensorFile, anchor: str, prefix: str, meta: dict[str, Any]) -> str:
    if meta:
        return OURS
    if file.format == "MindSpore checkpoint":
        raise CheckpointError(
            f"{file.path}: is a MindSpore checkpoint, but not a whole one of ms_unireid: its description lacks; "
            "copy it again, or say what it is with --kind"
        )
    if anchor == _HUGGINGFACE_ANCHOR:
        return "huggingface_clip"
    owner = _owner(prefix)
    if owner != prefix:
        return "unireid" if owner + names.LOGIT_SCALE in file.tensors else "irra"
    if {"iteration", "num_epoch"} & file.values.keys():
        return "unireid"
    separate_text = f"{prefix}text.positional_embedding" in file.tensors
    return "open_clip" if separate_text or prefix.startswith("state_dict.") else "openai_clip"


def _owner(prefix: str) -> str:
    return prefix.removesuffix(names.OUR_PREFIX)


def _architecture(file: TensorFile, conv_name: str) -> str:
    shape = file.tensors[conv_name].shape
    for name, size in ARCHITECTURES.items():
        if shape == (size.vision.width, 3, size.patch_size, size.patch_size):
            return name
    raise CheckpointError(
        f"{file.path}: its visual tower is not one of {', '.join(ARCHITECTURES)}: {conv_name} is {shape}; "
        "take the file of one of these models"
    )


def _recipes(file: TensorFile, anchor: str, prefix: str, clip_names: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield each of CLIP's names with its recipe, in the file's own full names."""
    if anchor == _HUGGINGFACE_ANCHOR:
        recipe = names.huggingface_recipe
    elif f"{prefix}text.positional_embedding" in file.tensors:
        recipe = names.custom_text_recipe
    else:
        recipe = names.plain_recipe
    for name in clip_names:
        found = recipe(name)
        before = _owner(prefix) if name == names.LOGIT_SCALE else prefix
        yield name, replace(found, sources=tuple(before + source for source in found.sources))


def _collect(
    file: TensorFile, anchor: str, prefix: str, size: Architecture
) -> tuple[dict[str, Entry], dict[str, tuple[str, ...]]]:
    entries, origins = {}, {}
    for name, recipe in _recipes(file, anchor, prefix, iter(names.clip_shapes(size, 1, 1))):
        if all(source in file.tensors for source in recipe.sources):
            parts = [file.tensors[source] for source in recipe.sources]
            entries[name] = _entry(name, parts, recipe.transposed)
            origins[name] = recipe.sources
    return entries, origins


def _entry(name: str, parts: list[np.ndarray], transposed: bool) -> Entry:
    if len(parts) == 1:
        return Entry.of(name, parts[0].T if transposed else parts[0])
    if len({part.dtype for part in parts}) > 1:
        parts = [cast(part, "float32") for part in parts]
    if len({part.shape[1:] for part in parts}) > 1 or parts[0].ndim == 0:
        return Entry.of(name, parts[0])  # its shape is then refused like any other wrong one
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return Entry(name, parts[0].dtype, shape, lambda: np.concatenate(parts))


def _rows(file: TensorFile, entries: dict[str, Entry], table: str) -> int:
    shape = entries[table].shape if table in entries else None
    if shape is None or len(shape) != 2 or shape[0] < 2:
        found = "none" if shape is None else f"one of shape {shape}"
        raise CheckpointError(f"{file.path}: expected a position table {table} with a row per place, found {found}")
    return shape[0]


def _what_is(name: str, prefix: str) -> str:
    if name.startswith(_OPTIMIZER):
        return "optimizer state"
    if name.endswith(_BUFFERS):
        return "buffer"
    inner = name.removeprefix(prefix)
    return "tower" if name.startswith(prefix) and inner.startswith(_TOWERS) else "extra"


def _huggingface_config(file: TensorFile, tower: str = "vision") -> dict[str, Any]:
    config = _json_object(file, file.metadata.get("config.json", "{}"), "config.json")
    section = config.get(f"{tower}_config")
    return section if isinstance(section, dict) else {}


def _activation(file: TensorFile, meta: dict[str, Any]) -> str | None:
    if meta:
        return _own_model(file, meta).activation
    if "config.json" not in file.metadata:
        return None
    # Left out of the file, it is the default of Hugging Face's CLIP.
    found = {_huggingface_config(file, tower).get("hidden_act", "quick_gelu") for tower in ("vision", "text")}
    if found not in ({"quick_gelu"}, {"gelu"}):
        raise CheckpointError(
            f"{file.path}: config.json has hidden_act {' and '.join(sorted(map(str, found)))}; expected quick_gelu or "
            "gelu in both towers"
        )
    return found.pop()


def _own_model(file: TensorFile, meta: dict[str, Any]) -> ModelConfig:
    return config_from_dict(meta["config"], str(file.path)).model


def _grid(
    file: TensorFile, model: ModelConfig, patches: int, image_size: tuple[int, int] | None, meta: dict[str, Any]
) -> tuple[tuple[int, int] | None, ModelConfig]:
    """Return the patch grid of the position table, and the model with the picture size and stride that give it."""
    patch = model.sizes.patch_size
    if image_size is None and meta:
        own = _own_model(file, meta)
        grid = model_grid(own)
        if grid[0] * grid[1] != patches:
            raise CheckpointError(
                f"{file.path}: its position table has {patches} patches, its description says {grid}; copy it again"
            )
        return grid, replace(model, image_size=own.image_size, stride=own.stride)
    for size in (image_size,) if image_size else _candidates(file, patch, patches):
        for stride in range(patch, 0, -1):
            grid = patch_grid(size, patch, stride)
            if grid[0] * grid[1] == patches and min(grid) > 0:
                return grid, replace(model, image_size=tuple(size), stride=None if stride == patch else stride)
    if image_size:
        raise CheckpointError(
            f"{file.path}: its position table has {patches} patches of {patch} pixels, which pictures of "
            f"{image_size[0]}x{image_size[1]} do not give at any stride; correct --source-image-size"
        )
    return None, model


def _candidates(file: TensorFile, patch: int, patches: int) -> Iterator[tuple[int, int]]:
    side = _huggingface_config(file).get("image_size")
    if isinstance(side, int):
        yield side, side
    if math.isqrt(patches) ** 2 == patches:
        yield math.isqrt(patches) * patch, math.isqrt(patches) * patch
    yield from _USUAL_SIZES
