"""Open a file of tensors in any supported format. The content decides the format, not the file's name."""

import io
import re
from pathlib import Path
from typing import Any

from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, error_context, map_file, parse_json
from ms_unireid.checkpoints.formats.mindspore_file import looks_like_mindspore, read_mindspore
from ms_unireid.checkpoints.formats.safetensors_file import looks_like_safetensors, read_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Scalar, TensorFile
from ms_unireid.checkpoints.formats.torch_objects import MAX_REPEATED_BYTES
from ms_unireid.checkpoints.formats.torch_reader import read_torch
from ms_unireid.errors import CheckpointError, shown
from ms_unireid.files import sha256

# In order of preference.
WEIGHTS = (
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

    CheckpointError if the folder has no weights, or a file in it is missing, damaged or contradicts the index.
    """
    names = [name for name in WEIGHTS if (path / name).is_file()]
    with error_context(path):
        if not names:
            raise InvalidFile(f"is a folder without weights; expected one of {', '.join(WEIGHTS)}")
    opened = _read_shards(path, names[0]) if names[0].endswith(_INDEX) else _read_part(path / names[0])
    kind = f"Hugging Face folder ({opened.format})"
    return TensorFile(path, kind, opened.tensors, opened.values, opened.metadata, opened.parts)


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
                raise InvalidFile(f"repeats tensor {shown(min(twice))} of another shard; download the folder again")
        tensors |= shard.tensors
        values |= shard.values
        metadata |= shard.metadata
    for tensor, name in places.items():
        with error_context(folder / name):
            if tensor not in shards[name].tensors:
                raise InvalidFile(
                    f"has no tensor {shown(tensor)}, but {index} lists it here; download the folder again"
                )
    kind = f"{next(iter(shards.values())).format}, {len(shards)} shards"
    return TensorFile(folder, kind, tensors, values, metadata, tuple(folder / name for name in shards))


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor."""
    places = _read_json(index).get("weight_map")
    with error_context(index):
        if not isinstance(places, dict) or not places:
            raise InvalidFile('has no "weight_map" from tensors to shards; download it again')
        for shard in places.values():
            if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
                raise InvalidFile(f"names the shard {shown(shard)}; expected a plain .safetensors or .bin file name")
    return places


def json_beside(file: TensorFile, name: str) -> dict[str, Any] | None:
    """Return the JSON object of this name that a file stores, or that lies in its folder; None if there is none.

    CheckpointError for other JSON.
    """
    if name in file.metadata:
        with error_context(file.path):
            return parse_json(file.metadata[name], name)
    path = (file.path if file.path.is_dir() else file.path.parent) / name
    return _read_json(path) if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    with error_context(path):
        return parse_json(map_file(path).tobytes(), "content")


_HEAD = 64
_MOST_SHARED = 4  # a training state may hold its weights several times


def read_tensor_file(path: Path) -> TensorFile:
    """Open a PyTorch, safetensors or MindSpore file, or a Hugging Face folder; nothing in it is executed.

    CheckpointError if the path does not exist, or the file cannot be read, is damaged or has another format.
    """
    try:
        file = read_folder(path) if path.is_dir() else _read_file(path)
        size = sum(part.stat().st_size for part in file.parts)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    taken = sum(array.nbytes for array in file.tensors.values())
    if taken > _MOST_SHARED * size + MAX_REPEATED_BYTES:
        raise CheckpointError(
            f"{path}: its tensors share their storages too often: they take {taken:,} bytes, the file has {size:,}; "
            "save it again after tensor.contiguous()"
        )
    return file


def _read_file(path: Path) -> TensorFile:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint, such as RUN/best_average.ckpt")
    with error_context(path):
        head = map_file(path)[:_HEAD].tobytes()
    if looks_like_safetensors(head):
        return read_safetensors(path)
    return read_mindspore(path) if looks_like_mindspore(head) else read_torch(path)


def checkpoint_digest(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint; of a folder, that of its files' digests."""
    if not checkpoint.is_dir():
        return sha256(checkpoint.open("rb"))
    digests = [f"{sha256(file.open('rb'))} {file.name}\n" for file in sorted(checkpoint.iterdir()) if file.is_file()]
    return sha256(io.BytesIO("".join(digests).encode()))
