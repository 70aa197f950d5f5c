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
_HUGGINGFACE_KEYS = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
_HEAD_WIDTH = 64  # open_clip's default
# The tensors do not show these; open_clip's defaults are CLIP's.
_SAME_AS_CLIP = {
    "vision_cfg": {"pool_type": "tok", "final_ln_after_pool": False},
    "text_cfg": {"pool_type": "argmax", "no_causal_mask": False},
}


@dataclass(frozen=True)
class PublishedConfig:
    """What a file beside the weights says.

    Attributes:
        name: Name of that file; empty if there is none.
        activation: As the file has it, such as "gelu"; None if there is no file.
        image_size: Height and width of the pictures; None if it is not said.
        sizes: Sizes by the keys of `architectures.Sizes`; None is not said.
    """

    name: str = ""
    activation: str | None = None
    image_size: tuple[int, int] | None = None
    sizes: Sizes = field(default_factory=dict)


def read_published(file: TensorFile, names: Sequence[str]) -> PublishedConfig:
    """Read the first of these files that a file of weights stores, or that lies beside it.

    Raises:
        CheckpointError: If it is damaged, or describes something other than a CLIP.
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
    keys = _HUGGINGFACE_KEYS.items()
    sizes = {f"{tower} {size}": _number(values, key) for tower, values in towers.items() for size, key in keys}
    rest = {
        "patch size": _number(towers["vision"], "patch_size"),
        "embed dim": _number(config, "projection_dim"),
        "vocabulary size": _number(towers["text"], "vocab_size"),
    }
    return PublishedConfig(HUGGINGFACE, " and ".join(sorted(acts)), _pair(towers["vision"], "image_size"), sizes | rest)


def _open_clip(config: dict[str, Any]) -> PublishedConfig:
    model = _section(config, "model_cfg")
    vision, text = (_section(model, f"{tower}_cfg") for tower in TOWERS)
    if not vision or not text:
        raise InvalidFile(f"{OPEN_CLIP} beside it has no model_cfg with vision_cfg and text_cfg; download it again")
    quick = model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise InvalidFile(f"{OPEN_CLIP} has quick_gelu {shown(quick)}; expected true or false")
    for section, same in _SAME_AS_CLIP.items():
        for key, value in same.items():
            if _section(model, section).get(key, value) != value:
                raise InvalidFile(f"is no CLIP of this project: {OPEN_CLIP} says {key} in {section} is not {value}")
    sizes = {
        f"{tower} {size}": _number(values, size)
        for tower, values in (("vision", vision), ("text", text))
        for size in ("width", "layers", "heads")
    }
    width, head = sizes["vision width"], _number(vision, "head_width") or _HEAD_WIDTH
    sizes["vision heads"] = None if width is None else max(1, width // head)
    patch = _pair(vision, "patch_size")
    if patch and patch[0] != patch[1]:
        raise InvalidFile(f"{OPEN_CLIP} has patches of {shown(patch)} pixels; expected squares")
    rest = {
        "patch size": patch and patch[0],
        "embed dim": _number(model, "embed_dim"),
        "vocabulary size": _number(text, "vocab_size"),
    }
    return PublishedConfig(OPEN_CLIP, "quick_gelu" if quick else "gelu", _pair(vision, "image_size"), sizes | rest)


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of the config; empty if it is missing or null."""
    found = config.get(key)
    if found is not None and not isinstance(found, dict):
        raise InvalidFile(f"has a config whose {key} is {shown(found)}; expected a table of values")
    return found or {}


def _number(section: dict[str, Any], key: str) -> int | None:
    found = section.get(key)
    if found is not None and not _is_size(found):
        raise InvalidFile(f"has a config whose {key} is {shown(found)}; expected a positive number")
    return found


def _pair(section: dict[str, Any], key: str) -> tuple[int, int] | None:
    """Return height and width, given as one number or as two."""
    found = section.get(key)
    if isinstance(found, list) and len(found) == 2 and all(map(_is_size, found)):
        return found[0], found[1]
    size = _number(section, key)
    return None if size is None else (size, size)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < _MAX_SIZE
