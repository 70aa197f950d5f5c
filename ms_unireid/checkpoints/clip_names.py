"""Names and shapes of the tensors of a dual encoder: ours (the authors'), OpenAI's CLIP, Hugging Face and open_clip.

Our name is CLIP's name with the prefix "base_model."; the logit scale has no prefix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import dtype_of
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.config_schema import Architecture, TowerSize

OUR_PREFIX = "base_model."
LOGIT_SCALE = "logit_scale"
VISUAL_POSITIONS = "base_model.visual.positional_embedding"
PATCH_EMBEDDING = "base_model.visual.conv1.weight"
TEXT_POSITIONS = "base_model.positional_embedding"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How another layout stores one of our tensors.

    The `sources` are names in that layout; several are joined along the first axis. `transposed` tells whether the
    joined matrix is the transpose of ours.
    """

    sources: tuple[str, ...]
    transposed: bool = False


def our_name(clip_name: str) -> str:
    """Return the name in our model and in the authors' checkpoints."""
    return clip_name if clip_name == LOGIT_SCALE else OUR_PREFIX + clip_name


def clip_name(our_name: str) -> str:
    """Return the name in OpenAI's CLIP."""
    return our_name.removeprefix(OUR_PREFIX)


def clip_shapes(architecture: Architecture, context_length: int, patches: int) -> dict[str, Shape]:
    """Return the shape of every tensor by CLIP's name; `patches` is the number of patches of a picture."""
    vision, text, embed = architecture.vision, architecture.text, architecture.embed_dim
    patch = architecture.patch_size
    return {
        LOGIT_SCALE: (),
        "positional_embedding": (context_length, text.width),
        "text_projection": (text.width, embed),
        "token_embedding.weight": (architecture.vocabulary_size, text.width),
        **_norm("ln_final", text.width),
        **dict(_blocks("transformer", text)),
        "visual.class_embedding": (vision.width,),
        "visual.positional_embedding": (patches + 1, vision.width),
        "visual.proj": (vision.width, embed),
        "visual.conv1.weight": (vision.width, 3, patch, patch),
        **_norm("visual.ln_pre", vision.width),
        **_norm("visual.ln_post", vision.width),
        **dict(_blocks("visual.transformer", vision)),
    }


def our_shapes(architecture: Architecture, context_length: int, patches: int) -> dict[str, Shape]:
    """Return the shape of every tensor by our name."""
    return {our_name(name): shape for name, shape in clip_shapes(architecture, context_length, patches).items()}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _blocks(name: str, size: TowerSize) -> Iterator[tuple[str, Shape]]:
    width = size.width
    for i in range(size.layers):
        block = f"{name}.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{block}.attn.out_proj", width, width).items()
        yield from _norm(f"{block}.ln_1", width).items()
        yield from _norm(f"{block}.ln_2", width).items()
        yield from _linear(f"{block}.mlp.c_fc", width, 4 * width).items()
        yield from _linear(f"{block}.mlp.c_proj", 4 * width, width).items()


_HUGGINGFACE = {
    LOGIT_SCALE: LOGIT_SCALE,
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # Hugging Face's spelling.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_HUGGINGFACE_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_HUGGINGFACE_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def clip_recipe(name: str) -> Recipe:
    """Return how OpenAI's CLIP stores our tensor `name`."""
    return Recipe((clip_name(name),))


def custom_text_recipe(name: str) -> Recipe:
    """Return how open_clip's CustomTextCLIP stores our tensor `name`: the text tower has the prefix "text."."""
    found = clip_name(name)
    return Recipe((found if found == LOGIT_SCALE or found.startswith("visual.") else f"text.{found}",))


def huggingface_recipe(name: str) -> Recipe:
    """Return how Hugging Face's CLIPModel stores our tensor `name`: q, k and v apart, projections as linear layers."""
    found = clip_name(name)
    if found in _HUGGINGFACE:
        return Recipe((_HUGGINGFACE[found],))
    if found in _HUGGINGFACE_TRANSPOSED:
        return Recipe((_HUGGINGFACE_TRANSPOSED[found],), transposed=True)
    tower, rest = found.split("transformer.resblocks.")
    index, inner = rest.split(".", 1)
    block = f"{'vision_model' if tower else 'text_model'}.encoder.layers.{index}"
    layer, kind = inner.replace("in_proj_", "in_proj.").rsplit(".", 1)
    if layer == "attn.in_proj":
        return Recipe(tuple(f"{block}.self_attn.{part}_proj.{kind}" for part in "qkv"))
    return Recipe((f"{block}.{_HUGGINGFACE_BLOCK[layer]}.{kind}",))


LAYOUTS = {"unireid": lambda name: Recipe((name,)), "clip": clip_recipe, "huggingface": huggingface_recipe}


def lay_out(entries: Mapping[str, Entry], layout: str, dtypes: Mapping[str, str]) -> list[Entry]:
    """Rename, split and transpose float32 tensors for a layout of `LAYOUTS`, and set their types.

    `entries` and `dtypes` are by our names; a tensor without a type stays float32.
    """
    laid_out = []
    for name, entry in entries.items():
        recipe = LAYOUTS[layout](name)
        dtype = dtypes.get(name, "float32")
        for index, target in enumerate(recipe.sources):
            laid_out.append(_part(entry, target, index, len(recipe.sources), recipe.transposed, dtype))
    return laid_out


def _part(entry: Entry, name: str, index: int, parts: int, transposed: bool, dtype: str) -> Entry:
    shape = entry.shape if parts == 1 else (entry.shape[0] // parts, *entry.shape[1:])

    def source() -> np.ndarray:
        array = entry.source()
        if parts > 1:
            array = array[index * shape[0] : (index + 1) * shape[0]]
        return array.T if transposed else array

    return Entry(name, dtype_of(dtype), shape[::-1] if transposed else shape, source)
