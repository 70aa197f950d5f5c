"""Recognise the model in a file by its content, and give its tensors our names. Arrays are read when needed."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints import clip_names as names
from ms_unireid.checkpoints.architectures import TOWERS, choose_architecture, fits, sizes_of, text_of
from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.dtypes import cast
from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, error_context
from ms_unireid.checkpoints.formats.tensor_file import Entry, TensorFile
from ms_unireid.checkpoints.published_config import HUGGINGFACE, OPEN_CLIP, PublishedConfig, read_published
from ms_unireid.config import Config, ModelConfig, config_from_dict, load_config, to_dict, with_model
from ms_unireid.config_schema import VOCABULARY_SIZE, Architecture, TowerSize
from ms_unireid.data.findings import listed
from ms_unireid.errors import CheckpointError, escaped, shown
from ms_unireid.models.positions import model_grid, patch_grid

OURS = "ms_unireid"
KINDS = ("openai_clip", "huggingface_clip", "open_clip", "unireid", "irra", OURS)

_RecipeOf = Callable[[str], names.Recipe]

_CLIP_ANCHOR = "visual.conv1.weight"
_HUGGINGFACE_ANCHOR = "vision_model.embeddings.patch_embedding.weight"
_TOWERS = ("visual.", "transformer.", "text.", "vision_model.", "text_model.")
_BUFFERS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
_OPTIMIZER = ("optimizer.", "scheduler.", "scaler.", "exp_avg", "beta1_power", "beta2_power", "average.")
# What DataParallel, torch.compile, FSDP, activation checkpointing and Lightning's Fabric put into names.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_SIGLIP = ("logit_bias", "head.probe", "attn_pool.latent")
_SECOND_TABLE = re.compile(r"position\w*_res(\.weight)?$")
# Usual picture sizes (height, width) for a position table that is not square, the authors' first.
_USUAL_SIZES = ((384, 128), (256, 128))


@dataclass(frozen=True)
class Source:
    """A recognised file; its arrays are read when needed."""

    file: TensorFile
    kind: str  # one of `KINDS`
    entries: dict[str, Entry]  # the model's tensors that the file has, by our names
    origins: dict[str, tuple[str, ...]]  # the name or names of each in the file
    # Every other name in the file with its role: "buffer", "optimizer state", "tower" for a part of a tower that our
    # model does not have, or "extra".
    surplus: dict[str, str]
    model: ModelConfig  # of the file: architecture, picture size, stride, context length and activation
    activation: str | None  # that the file or the caller names; if None, `model` has the default
    patches: int  # rows of the position table, without the row of the class token
    grid: tuple[int, int] | None  # rows and columns of patches of that table; if None, `model` has the default size
    meta: dict[str, Any]  # the description in a file of ms_unireid; empty for other files

    @property
    def description(self) -> dict[str, Any]:
        """The description in the file, or one with the config of its model."""
        return self.meta or {"config": to_dict(with_model(Config(), self.model))}

    def config(self, overrides: Sequence[str] = (), files: Sequence[Path] | None = None) -> Config:
        """Return the config as `Checkpoint.config`, for which no array is read."""
        overrides = ["runtime.precision=fp32", *overrides]
        if files:
            return load_config(files, overrides)
        return config_from_dict(self.description["config"], str(self.file.path), overrides)

    def check_tokenizer(self) -> None:
        """Raise a CheckpointError if ms_unireid did not write the file and its tokenizer is not CLIP's."""
        rows = self.model.sizes.vocabulary_size
        if not self.meta and rows < VOCABULARY_SIZE:
            raise CheckpointError(
                f"{self.file.path}: has a token table of {rows} rows, another tokenizer's; expected {VOCABULARY_SIZE}"
            )


def open_source(
    path: str | Path | TensorFile,
    kind: str | None = None,
    image_size: tuple[int, int] | None = None,
    activation: str | None = None,
    architecture: str | Architecture | None = None,
) -> Source:
    """Open a file, or a Hugging Face folder, and recognise its kind and sizes by its content.

    `kind` and `activation` ("quick_gelu" or "gelu") override what is recognised. `image_size` is the height and width
    of the position table; its default is the file's own description, then a square, then the usual sizes of person
    re-identification. `architecture`, a registered name or sizes, is preferred if the tensors fit; they do not show the
    number of heads.

    CheckpointError if the file cannot be read, or does not contain a dual encoder of this project, or its tensors fit
    several architectures.
    """
    file = path if isinstance(path, TensorFile) else read_tensor_file(Path(path))
    meta = file.description()
    own = config_from_dict(meta["config"], str(file.path)).model if meta else None
    saved = _unwrapped(file.tensors)
    plain = replace(file, tensors={name: file.tensors[original] for name, original in saved.items()})
    _refuse_siglip(plain)
    _refuse_long_clip(plain)
    anchor, prefix = _find_anchor(plain, kind)
    recipe = _recipe_of(plain, anchor, prefix)
    kind = kind or _kind_of(plain, anchor, prefix, recipe, meta)
    published = _published(file, kind)
    architecture = _architecture(plain, recipe, own, architecture, published)
    entries, origins = _collect(plain, recipe, names.our_shapes(ModelConfig(architecture).sizes, 1, 1))
    patches = _rows(plain, entries, names.VISUAL_POSITIONS) - 1
    used = {name for group in origins.values() for name in group}
    surplus = {original: _what_is(name, prefix) for name, original in saved.items() if name not in used}
    origins = {name: tuple(saved[source] for source in sources) for name, sources in origins.items()}
    activation = activation or (own.activation if own else _activation(file, published))
    model = ModelConfig(architecture=architecture, activation=activation or ModelConfig.activation)
    if names.TEXT_POSITIONS in entries:
        model = replace(model, context_length=_rows(plain, entries, names.TEXT_POSITIONS))
    grid, model = _grid(file, model, patches, None if image_size else own, image_size or published.image_size)
    if (kind, published.name) == ("openai_clip", OPEN_CLIP):
        kind = "open_clip"
    return Source(file, kind, entries, origins, surplus, model, activation, patches, grid, meta)


def _unwrapped(tensors: Collection[str]) -> dict[str, str]:
    """Return each name by the name without the parts that PyTorch's wrappers put anywhere into it."""
    found = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in tensors}
    return found if len(found) == len(tensors) else {name: name for name in tensors}


def _refuse_siglip(file: TensorFile) -> None:
    if any(name.endswith(_SIGLIP) for name in file.tensors) and not any("class_embedding" in n for n in file.tensors):
        raise CheckpointError(
            f"{file.path}: is a SigLIP: it has no class token, but a logit bias or an attention pool, which UNIReID's "
            "towers do not have; use a CLIP"
        )


def _refuse_long_clip(file: TensorFile) -> None:
    if any(_SECOND_TABLE.search(name) for name in file.tensors):
        raise CheckpointError(
            f"{file.path}: is a Long-CLIP, with two position tables for captions, where UNIReID's towers have one; use "
            "a CLIP, whose table data.long_captions=stretch stretches"
        )


def _find_anchor(file: TensorFile, kind: str | None) -> tuple[str, str]:
    """Return the name that identifies the layout, and the prefix of the model's names."""
    wanted = (_HUGGINGFACE_ANCHOR,) if kind == "huggingface_clip" else (_CLIP_ANCHOR,)
    anchors = (_CLIP_ANCHOR, _HUGGINGFACE_ANCHOR) if kind is None else wanted
    weights = [name for name in file.tensors if not name.startswith(_OPTIMIZER)]
    found = [(a, n.removesuffix(a)) for n in weights for a in anchors if n == a or n.endswith("." + a)]
    if len(found) == 1:
        return found[0]
    if not found:
        some = ", ".join(map(escaped, list(file.tensors)[:3])) or "none"
        raise CheckpointError(
            f"{file.path}: is not a CLIP with a vision transformer: it has no tensor {' or '.join(anchors)} "
            f"({len(file.tensors)} tensors: {some}, ...); give a CLIP, UNIReID or IRRA checkpoint"
        )
    several = listed([shown(prefix) for _, prefix in found])
    raise CheckpointError(f"{file.path}: holds several models, with the prefixes {several}; save one of them alone")


def _kind_of(file: TensorFile, anchor: str, prefix: str, recipe: _RecipeOf, meta: dict[str, Any]) -> str:
    if meta:
        return OURS
    if file.format == "MindSpore checkpoint":
        raise CheckpointError(
            f"{file.path}: is a MindSpore checkpoint, but not a complete one of ms_unireid: it has no description; "
            "copy it again, or name its kind with --kind"
        )
    if anchor == _HUGGINGFACE_ANCHOR:
        return "huggingface_clip"
    if _owner(prefix) != prefix:
        return "unireid" if recipe(names.LOGIT_SCALE).sources[0] in file.tensors else "irra"
    if {"iteration", "num_epoch"} & file.values.keys():
        return "unireid"
    separate_text = f"{prefix}text.positional_embedding" in file.tensors
    return "open_clip" if separate_text or prefix.startswith("state_dict.") else "openai_clip"


def _owner(prefix: str) -> str:
    """Return the part of a prefix before "base_model."; the whole prefix if that is not in it."""
    start = f".{prefix}".rfind(f".{names.OUR_PREFIX}")
    return prefix if start < 0 else prefix[:start]


def _recipe_of(file: TensorFile, anchor: str, prefix: str) -> _RecipeOf:
    """Return the function from our name to its recipe, with the file's full names."""
    if anchor == _HUGGINGFACE_ANCHOR:
        recipe = names.huggingface_recipe
    elif f"{prefix}text.positional_embedding" in file.tensors:
        recipe = names.custom_text_recipe
    else:
        recipe = names.clip_recipe
    # The logit scale is beside "base_model.", or further out where only an inner model is wrapped. PEFT's own
    # "base_model.model." holds it inside.
    owner = prefix if anchor == _HUGGINGFACE_ANCHOR else _owner(prefix)
    parts = owner.split(".")[:-1]
    places = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]
    places += [prefix] if prefix != owner + names.OUR_PREFIX else []
    scale_prefix = next((place for place in places if place + names.LOGIT_SCALE in file.tensors), owner)

    def with_prefix(name: str) -> names.Recipe:
        found, before = recipe(name), scale_prefix if name == names.LOGIT_SCALE else prefix
        return replace(found, sources=tuple(before + source for source in found.sources))

    return with_prefix


def _published(file: TensorFile, kind: str) -> PublishedConfig:
    if kind == "huggingface_clip":
        return read_published(file, (HUGGINGFACE, OPEN_CLIP))
    if kind not in ("openai_clip", "open_clip") or file.format == "TorchScript archive":
        return PublishedConfig()
    # A lone file may lie beside the config.json of anything.
    whole = file.path.is_dir() or HUGGINGFACE in file.metadata
    return read_published(file, (OPEN_CLIP, HUGGINGFACE) if whole else (OPEN_CLIP,))


def _collect(
    file: TensorFile, recipe: _RecipeOf, our_names: Iterable[str]
) -> tuple[dict[str, Entry], dict[str, tuple[str, ...]]]:
    entries, origins = {}, {}
    for name in our_names:
        found = recipe(name)
        if all(source in file.tensors for source in found.sources):
            parts = [file.tensors[source] for source in found.sources]
            entries[name] = _entry(name, parts, found.transposed)
            origins[name] = found.sources
    return entries, origins


def _architecture(
    file: TensorFile,
    recipe: _RecipeOf,
    own: ModelConfig | None,
    wanted: str | Architecture | None,
    published: PublishedConfig,
) -> str | Architecture:
    heads = {tower: published.sizes.get(f"{tower} heads") for tower in TOWERS}
    layers = {"vision": _layers(file, recipe, "visual.transformer"), "text": _layers(file, recipe, "transformer")}
    of_depth = Architecture(*(TowerSize(1, layers[tower] or 0, 1) for tower in TOWERS), patch_size=1, embed_dim=1)
    entries, _ = _collect(file, recipe, names.our_shapes(of_depth, 1, 1))
    shapes = {name: entry.shape for name, entry in entries.items()}
    with error_context(file.path):
        found = sizes_of(shapes, layers, heads)
        for key, value in published.sizes.items():
            if value is not None and found[key] not in (None, value):
                raise InvalidFile(
                    f"has {key} {found[key]}, but {published.name} beside it says {value}; put the files of one model "
                    "together, or move that file away"
                )
        if own is None:
            return choose_architecture(found, shapes, wanted)
        if not fits(found, own.sizes):
            raise InvalidFile(f"has {text_of(found)}, but its description says {own.architecture}; copy the file again")
        return own.architecture


def _layers(file: TensorFile, recipe: _RecipeOf, tower: str) -> int | None:
    """Count the blocks of a tower by their attention weights."""
    name = recipe(names.our_name(f"{tower}.resblocks.0.attn.in_proj_weight")).sources[0]
    before, after = map(re.escape, name.rsplit(".0.", 1))
    pattern = re.compile(rf"{before}\.(\d{{1,3}})\.{after}", re.ASCII)
    indices = [int(match[1]) for match in map(pattern.fullmatch, file.tensors) if match]
    return max(indices) + 1 if indices else None


def _entry(name: str, parts: list[np.ndarray], transposed: bool) -> Entry:
    if name == names.LOGIT_SCALE and parts[0].shape == (1,):
        return Entry.of(name, parts[0].reshape(()))
    if len(parts) == 1:
        return Entry.of(name, parts[0].T if transposed else parts[0])
    if len({part.dtype for part in parts}) > 1:
        parts = [cast(part, "float32") for part in parts]
    if len({part.shape[1:] for part in parts}) > 1 or parts[0].ndim == 0:
        return Entry.of(name, parts[0])  # `fit` refuses its shape
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return Entry(name, parts[0].dtype, shape, lambda: np.concatenate(parts))


def _rows(file: TensorFile, entries: dict[str, Entry], table: str) -> int:
    shape = entries[table].shape if table in entries else None
    if shape is None or len(shape) != 2 or shape[0] < 2:
        found = "none" if shape is None else f"one of shape {shape}"
        table = names.clip_name(table)
        raise CheckpointError(f"{file.path}: expected a position table {table} with a row per position, found {found}")
    return shape[0]


def _what_is(name: str, prefix: str) -> str:
    if name.startswith(_OPTIMIZER):
        return "optimizer state"
    if name.endswith(_BUFFERS):
        return "buffer"
    inner = name.removeprefix(prefix)
    return "tower" if name.startswith(prefix) and inner.startswith(_TOWERS) else "extra"


def _activation(file: TensorFile, published: PublishedConfig) -> str | None:
    if published.activation not in (None, "quick_gelu", "gelu"):
        found = escaped(published.activation)
        raise CheckpointError(
            f"{file.path}: {published.name} has hidden_act {found}; expected quick_gelu or gelu in both towers"
        )
    return published.activation


def _grid(
    file: TensorFile, model: ModelConfig, patches: int, own: ModelConfig | None, given: tuple[int, int] | None
) -> tuple[tuple[int, int] | None, ModelConfig]:
    """Return the patch grid of the position table, and the model with the picture size and stride of this grid."""
    patch = model.sizes.patch_size
    if own:
        grid = model_grid(own)
        if grid[0] * grid[1] != patches:
            raise CheckpointError(
                f"{file.path}: its position table has {patches} patches, but its description says {grid}; copy it again"
            )
        return grid, replace(model, image_size=own.image_size, stride=own.stride)
    for size in (given,) if given else _candidates(patch, patches):
        for stride in range(patch, 0, -1):
            grid = patch_grid(size, patch, stride)
            if grid[0] * grid[1] == patches and min(grid) > 0:
                return grid, replace(model, image_size=tuple(size), stride=None if stride == patch else stride)
    if given:
        raise CheckpointError(
            f"{file.path}: its position table has {patches} patches of {patch} pixels, which pictures of "
            f"{given[0]}x{given[1]}, as given or in a config beside it, do not give at any stride; correct "
            "--source-image-size"
        )
    return None, model


def _candidates(patch: int, patches: int) -> Iterator[tuple[int, int]]:
    if math.isqrt(patches) ** 2 == patches:
        yield math.isqrt(patches) * patch, math.isqrt(patches) * patch
    yield from _USUAL_SIZES
