"""Open a file of tensors in any supported format. The content decides the format, not the file's name."""

import json
import re
from pathlib import Path
from typing import Any

from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, error_context, map_file, quoted
from ms_unireid.checkpoints.formats.mindspore_file import looks_like_mindspore, read_mindspore
from ms_unireid.checkpoints.formats.safetensors_file import looks_like_safetensors, read_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Scalar, TensorFile
from ms_unireid.checkpoints.formats.torch_reader import read_torch
from ms_unireid.errors import CheckpointError

CONFIG = "config.json"
MAX_JSON_BYTES = 100_000_000

# In order of preference.
_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_INDEX = ".index.json"
_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)")


def read_folder(path: Path) -> TensorFile:
    """Open a folder of weights. Safetensors are preferred to pickles, and an index to a single file.

    The text of `config.json`, if the file exists, becomes `metadata["config.json"]`.

    Raises:
        CheckpointError: If the folder has no weights, or a file in it is missing, damaged or contradicts the index.
    """
    names = [name for name in _WEIGHTS if (path / name).is_file()]
    with error_context(path):
        if not names:
            raise InvalidFile(f"is a folder without weights; expected one of {', '.join(_WEIGHTS)}")
    config = {CONFIG: _read_json(path / CONFIG)[0]} if (path / CONFIG).exists() else {}
    opened = _read_shards(path, names[0]) if names[0].endswith(_INDEX) else _read_part(path / names[0])
    kind = f"Hugging Face folder ({opened.format})"
    return TensorFile(path, kind, opened.tensors, opened.values, opened.metadata | config, opened.parts)


def _read_part(path: Path) -> TensorFile:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


def _read_shards(folder: Path, index: str) -> TensorFile:
    """Read all shards. Tensors that the index does not name are kept."""
    places = _weight_map(folder / index)
    shards = {name: _read_part(folder / name) for name in dict.fromkeys(places.values())}
    tensors: dict[str, Any] = {}
    values: dict[str, Scalar] = {}
    metadata: dict[str, str] = {}
    for name, shard in shards.items():
        with error_context(folder / name):
            if twice := shard.tensors.keys() & tensors.keys():
                raise InvalidFile(f"repeats tensor {quoted(min(twice))} of another shard; download the folder again")
        tensors |= shard.tensors
        values |= shard.values
        metadata |= shard.metadata
    for tensor, name in places.items():
        with error_context(folder / name):
            if tensor not in shards[name].tensors:
                raise InvalidFile(
                    f"has no tensor {quoted(tensor)}, but {index} lists it here; download the folder again"
                )
    kind = f"{next(iter(shards.values())).format}, {len(shards)} shards"
    return TensorFile(folder, kind, tensors, values, metadata, tuple(folder / name for name in shards))


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor."""
    content = _read_json(index)[1]
    places = content.get("weight_map") if isinstance(content, dict) else None
    with error_context(index):
        if not isinstance(places, dict) or not places:
            raise InvalidFile('has no "weight_map" from tensors to shards; download it again')
        for shard in places.values():
            if not isinstance(shard, str):
                raise InvalidFile('has a "weight_map" with a shard that is not a file name; download it again')
            if not _SHARD.fullmatch(shard):
                raise InvalidFile(f"names the shard {quoted(shard)}; expected a plain .safetensors or .bin file name")
    return places


def _read_json(path: Path) -> tuple[str, Any]:
    with error_context(path):
        content = map_file(path)
        if len(content) > MAX_JSON_BYTES:
            raise InvalidFile(f"has {len(content)} bytes; expected a small JSON file")
        try:
            text = content.tobytes().decode("utf-8")
            return text, json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidFile("is not valid JSON; download it again") from error


_HEAD = 64


def read_tensor_file(path: Path) -> TensorFile:
    """Open a PyTorch, safetensors or MindSpore file, or a Hugging Face folder; nothing in it is executed.

    Raises:
        CheckpointError: If the path does not exist, or the file cannot be read, is damaged or has another format.
    """
    try:
        if path.is_dir():
            return read_folder(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if looks_like_safetensors(head):
            return read_safetensors(path)
        if looks_like_mindspore(head):
            return read_mindspore(path)
        return read_torch(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected a checkpoint, such as RUN/best_average.ckpt") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
