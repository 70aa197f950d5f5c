"""What `config.json` of Hugging Face or `open_clip_config.json` says of the weights beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_unireid.checkpoints.architectures import TOWERS, Sizes
from ms_unireid.checkpoints.formats.any_file import json_beside
from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, error_context
from ms_unireid.checkpoints.formats.tensor_file import TensorFile
from ms_unireid.errors import shown

HUGGINGFACE, OPEN_CLIP = "config.json", "open_clip_config.json"
_MAX_SIZE = 1 << 24
# The keys of a tower's width, layers and heads, and of the embedding's size.
_KEYS = {
    HUGGINGFACE: ("hidden_size", "num_hidden_layers", "num_attention_heads", "projection_dim"),
    OPEN_CLIP: ("width", "layers", "heads", "embed_dim"),
}
_HEAD_WIDTH = 64  # open_clip's default
# The tensors do not show these; open_clip's defaults are CLIP's.
_SAME_AS_CLIP = {
    "vision": {"pool_type": "tok", "final_ln_after_pool": False},
    "text": {"pool_type": "argmax", "no_causal_mask": False},
}


@dataclass(frozen=True)
class PublishedConfig:
    """What a file beside the weights says; None is not said."""

    name: str = ""  # of that file; empty if there is none
    activation: str | None = None  # as the file has it, such as "gelu"
    image_size: tuple[int, int] | None = None  # height and width of the pictures
    sizes: Sizes = field(default_factory=dict)


def read_published(file: TensorFile, names: Sequence[str]) -> PublishedConfig:
    """Read the first of these files that a file of weights stores, or that lies beside it.

    CheckpointError if it is damaged, or describes something other than a CLIP.
    """
    for name in names:
        found = json_beside(file, name)
        if found is not None:
            with error_context(file.path):
                return (_huggingface if name == HUGGINGFACE else _open_clip)(found)
    return PublishedConfig()


def _huggingface(config: dict[str, Any]) -> PublishedConfig:
    # Older files repeat a tower's values under "..._config_dict", which wins.
    towers = {t: _section(config, f"{t}_config") | _section(config, f"{t}_config_dict") for t in TOWERS}
    if not any(towers.values()):
        return PublishedConfig()  # of something other than a CLIP
    found = [tower.get("hidden_act", "quick_gelu") for tower in towers.values()]  # Hugging Face's default
    acts = {act if isinstance(act, str) else shown(act) for act in found}
    return _published(HUGGINGFACE, config, towers, " and ".join(sorted(acts)))


def _open_clip(config: dict[str, Any]) -> PublishedConfig:
    model = _section(config, "model_cfg")
    towers = {tower: _section(model, f"{tower}_cfg") for tower in TOWERS}
    if not all(towers.values()):
        raise InvalidFile(f"{OPEN_CLIP} beside it has no model_cfg with vision_cfg and text_cfg; download it again")
    quick = model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise InvalidFile(f"{OPEN_CLIP} has quick_gelu {shown(quick)}; expected true or false")
    for tower, same in _SAME_AS_CLIP.items():
        for key, value in same.items():
            if towers[tower].get(key, value) != value:
                raise InvalidFile(f"is no CLIP of this project: {OPEN_CLIP} says {key} in {tower}_cfg is not {value}")
    found = _published(OPEN_CLIP, model, towers, "quick_gelu" if quick else "gelu")
    if width := found.sizes["vision width"]:
        found.sizes["vision heads"] = max(1, width // (_number(towers["vision"], "head_width") or _HEAD_WIDTH))
    return found


def _published(name: str, model: dict[str, Any], towers: dict[str, dict[str, Any]], activation: str) -> PublishedConfig:
    *keys, embed = _KEYS[name]
    places = zip(("width", "layers", "heads"), keys, strict=True)
    sizes = {f"{tower} {size}": _number(towers[tower], key) for size, key in places for tower in TOWERS}
    patch = _pair(towers["vision"], "patch_size")
    if patch and patch[0] != patch[1]:
        raise InvalidFile(f"{name} has patches of {shown(patch)} pixels; expected squares")
    sizes["patch size"] = patch and patch[0]
    sizes["embed dim"], sizes["vocabulary size"] = _number(model, embed), _number(towers["text"], "vocab_size")
    return PublishedConfig(name, activation, _pair(towers["vision"], "image_size"), sizes)


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of the config; empty if it is missing or null."""
    found = config.get(key)
    if found is not None and not isinstance(found, dict):
        raise InvalidFile(f"has a config whose {key} is {shown(found)}; expected a table of values")
    return found or {}


def _number(section: dict[str, Any], key: str) -> int | None:
    found = section.get(key)
    if found is not None and not (type(found) is int and 0 < found < _MAX_SIZE):
        raise InvalidFile(f"has a config whose {key} is {shown(found)}; expected a positive number")
    return found


def _pair(section: dict[str, Any], key: str) -> tuple[int, int] | None:
    """Return height and width, given as one number or as two."""
    found = section.get(key)
    both = found if isinstance(found, list) and len(found) == 2 else [found, found]
    height, width = (_number({key: size}, key) for size in both)
    return None if height is None or width is None else (height, width)
