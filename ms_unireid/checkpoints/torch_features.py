"""Features that PyTorch computes from an original CLIP file, to check a conversion.

Only this module of the library imports torch, inside its functions. It shares no reader, name table or model with the
conversion, so that both cannot have the same error.
"""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_unireid.config import ModelConfig
from ms_unireid.errors import CheckpointError, EnvironmentProblem

if TYPE_CHECKING:
    import torch

_FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
}
# What torch, pickle, zipfile and json raise for a damaged file.
_READ_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
# The names of the parts of CLIP in OpenAI's and in Hugging Face's files.
_NAMES = {
    "patches": ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    "class": ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    "image_positions": ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    "ln_pre": ("visual.ln_pre", "vision_model.pre_layrnorm"),  # Hugging Face's spelling
    "image_blocks": ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    "ln_post": ("visual.ln_post", "vision_model.post_layernorm"),
    "image_projection": ("visual.proj", "visual_projection.weight"),
    "tokens": ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    "text_positions": ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    "text_blocks": ("transformer.resblocks", "text_model.encoder.layers"),
    "ln_final": ("ln_final", "text_model.final_layer_norm"),
    "text_projection": ("text_projection", "text_projection.weight"),
    # Within a block:
    "ln_1": ("ln_1", "layer_norm1"),
    "qkv": (["attn.in_proj_"], ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]),
    "out": ("attn.out_proj.", "self_attn.out_proj."),
    "ln_2": ("ln_2", "layer_norm2"),
    "fc": ("mlp.c_fc.", "mlp.fc1."),
    "proj": ("mlp.c_proj.", "mlp.fc2."),
}
_HUGGING_FACE = 1


def torch_features(
    path: Path, config: ModelConfig, source_grid: tuple[int, int], images: np.ndarray, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encode images (B, 3, H, W) and token_ids (B, L) with the CLIP in a file: un-normalised features (B, D) float32.

    The file is one of `torch.save` or `torch.jit.save`, of safetensors, or a Hugging Face folder. `config` gives heads,
    stride and activation; all other sizes are those of the file's tensors. The rows and columns of its visual position
    table, `source_grid`, are resized to the grid of the images.

    CheckpointError if PyTorch cannot read the file, or it is no complete CLIP; EnvironmentProblem if PyTorch, or
    safetensors for a file of that format, cannot be imported.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(f"PyTorch cannot be imported ({error}); pip install torch") from error
    net = _Net(path, _read(path), config.activation)
    with torch.inference_mode():
        image = _image_features(net, config, source_grid, torch.from_numpy(images))
        text = _text_features(net, config, torch.from_numpy(token_ids.astype(np.int64)))
    return image.numpy(), text.numpy()


class _Net:
    """The file's weights by its own names, and the layers of both towers."""

    def __init__(self, path: Path, tensors: Mapping[str, "torch.Tensor"], activation: str):
        self.path, self.activation = path, activation
        self.family, self.prefix = _recognise(path, tensors)
        self.names = {part: names[self.family] for part, names in _NAMES.items()}
        apart = f"{self.prefix}text."  # prefix of the text tower in open_clip's CustomTextCLIP
        self.tensors = {
            self.prefix + name.removeprefix(apart) if name.startswith(apart) else name: tensor
            for name, tensor in tensors.items()
        }

    def weight(self, name: str) -> "torch.Tensor":
        try:
            return self.tensors[self.prefix + name].float()
        except KeyError as error:
            missing = self.prefix + name
            raise CheckpointError(
                f"{self.path}: has no tensor {missing}; only a complete CLIP can be checked"
            ) from error

    def part(self, role: str) -> "torch.Tensor":
        return self.weight(self.names[role])

    def norm(self, name: str, x: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import layer_norm

        return layer_norm(x, x.shape[-1:], self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), eps=1e-5)

    def linear(self, name: str, x: "torch.Tensor") -> "torch.Tensor":
        return x @ self.weight(f"{name}weight").T + self.weight(f"{name}bias")

    def project(self, role: str, x: "torch.Tensor") -> "torch.Tensor":
        matrix = self.part(role)
        return x @ (matrix.T if self.family == _HUGGING_FACE else matrix)

    def transformer(self, role: str, heads: int, x: "torch.Tensor", mask: "torch.Tensor | float") -> "torch.Tensor":
        for index in count():
            block = f"{self.names[role]}.{index}."
            if not any(name.startswith(self.prefix + block) for name in self.tensors):
                return x
            normed = self.norm(block + self.names["ln_1"], x)
            # Three matrices or one packed matrix, as in the file.
            qkv = [self.linear(block + name, normed) for name in self.names["qkv"]]
            x = x + self.linear(block + self.names["out"], _attend(qkv, heads, mask))
            hidden = self.activate(self.linear(block + self.names["fc"], self.norm(block + self.names["ln_2"], x)))
            x = x + self.linear(block + self.names["proj"], hidden)

    def activate(self, x: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import gelu

        return x * (1.702 * x).sigmoid() if self.activation == "quick_gelu" else gelu(x)


def _attend(qkv: list["torch.Tensor"], heads: int, mask: "torch.Tensor | float") -> "torch.Tensor":
    import torch

    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in torch.cat(qkv, -1).chunk(3, -1))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask  # (B, heads, L, L)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _image_features(
    net: _Net, config: ModelConfig, source_grid: tuple[int, int], images: "torch.Tensor"
) -> "torch.Tensor":
    import torch

    size = config.sizes
    stride = size.patch_size if config.stride is None else config.stride
    patches = torch.conv2d(images, net.part("patches"), stride=stride)
    positions = _resized(net.part("image_positions"), source_grid, patches.shape[2:])
    first = net.part("class").expand(len(images), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1) + positions
    x = net.transformer("image_blocks", size.vision.heads, net.norm(net.names["ln_pre"], x), 0.0)
    return net.project("image_projection", net.norm(net.names["ln_post"], x[:, 0]))


def _text_features(net: _Net, config: ModelConfig, token_ids: "torch.Tensor") -> "torch.Tensor":
    import torch

    length = token_ids.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = net.part("tokens")[token_ids] + net.part("text_positions")[:length]
    x = net.transformer("text_blocks", config.sizes.text.heads, x, mask)
    ends = x[torch.arange(len(x)), token_ids.argmax(-1)]
    return net.project("text_projection", net.norm(net.names["ln_final"], ends))


def _resized(table: "torch.Tensor", source_grid: tuple[int, int], grid: tuple[int, int]) -> "torch.Tensor":
    import torch
    from torch.nn.functional import interpolate

    # float32 coordinates would add an error of 2e-6.
    square = table[1:].double().T.reshape(1, -1, *source_grid)
    resized = interpolate(square, size=tuple(grid), mode="bilinear", align_corners=False, antialias=False)
    return torch.cat([table[:1], resized[0].flatten(1).T.float()])


def _recognise(path: Path, tensors: Mapping[str, "torch.Tensor"]) -> tuple[int, str]:
    """Return which names the file uses, and their prefix."""
    for name in tensors:
        for family, mark in enumerate(_NAMES["class"]):
            if name == mark or name.endswith(f".{mark}"):
                return family, name.removesuffix(mark)
    raise CheckpointError(f"{path}: PyTorch finds no CLIP in it; only a complete CLIP can be checked")


def _read(path: Path) -> dict[str, "torch.Tensor"]:
    """Read the tensors of a file or folder; the keys of nested containers are joined by dots."""
    if path.is_dir():
        found = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(
                f"{path}: has none of {', '.join(_FOLDER_FILES)}; only a complete CLIP can be checked"
            )
        path = found[0]
    try:
        if path.suffix == ".json":
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: tensor for shard in shards for name, tensor in _read_file(path.with_name(shard)).items()}
        return _read_file(path)
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: PyTorch cannot read it ({reason}); convert without --verify") from error


def _read_file(path: Path) -> dict[str, "torch.Tensor"]:
    import torch

    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return dict(_flattened(_ScriptUnpickler(archive).load()))
    return dict(_flattened(torch.load(path, map_location="cpu", weights_only=True)))


def _read_safetensors(path: Path) -> dict[str, "torch.Tensor"]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EnvironmentProblem(f"{path}: PyTorch needs a package to read it; pip install safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, "torch.Tensor"]]:
    import torch

    if isinstance(value, _ScriptObject):
        value = vars(value)
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flattened(item, f"{prefix}.{key}" if prefix else str(key))


class _ScriptObject:
    """A module of a TorchScript archive: its attributes, no behaviour."""


class _ScriptUnpickler(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive; torch.jit.load would run the program in it."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self.root}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module.split(".")[0] == "__torch__":
            return _ScriptObject
        if module == "torch" and name in _STORAGES:
            return getattr(torch, _STORAGES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a CLIP")

    def persistent_load(self, saved: tuple) -> "torch.Tensor":
        import torch

        _, dtype, key, _, _ = saved
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}/data/{key}")), dtype=dtype)
