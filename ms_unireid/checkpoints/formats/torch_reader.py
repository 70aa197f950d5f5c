"""Read PyTorch files without PyTorch: zip archives, TorchScript archives and the format before PyTorch 1.6.

Nothing in a file is imported or run: see `ms_unireid.checkpoints.formats.pickle_interpreter` and
`ms_unireid.checkpoints.formats.torch_objects`.
"""

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats import zip_records
from ms_unireid.checkpoints.formats.dtypes import dtype_of
from ms_unireid.checkpoints.formats.mapped_file import (
    MAX_ITEMS,
    MAX_NAME_LENGTH,
    InvalidFile,
    error_context,
    map_file,
    truncated,
)
from ms_unireid.checkpoints.formats.pickle_interpreter import AllowedName, ByteStream, Instance, load
from ms_unireid.checkpoints.formats.tensor_file import Scalar, TensorFile
from ms_unireid.checkpoints.formats.torch_objects import (
    Storage,
    TensorView,
    check_type,
    find_name,
    find_script_name,
    parse_storage,
)
from ms_unireid.errors import shown

MAX_DEPTH = 100

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PICKLED_MAGIC = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_PICKLED_MAGIC_END = 32

_Contents = Callable[[str], np.ndarray]


def read_torch(path: Path) -> TensorFile:
    """Open a file of `torch.save` or `torch.jit.save`. The tensors are read-only views of the memory-mapped file.

    The name of a tensor or value is its keys, indices and attributes joined by dots. Byte strings are left out. A file
    that is damaged, of another kind, has a tensor of an unknown type, or contains anything other than tensors and plain
    containers raises a CheckpointError.
    """
    with error_context(path):
        content = map_file(path)
        head = content[:_PICKLED_MAGIC_END].tobytes()
        if head.startswith(zip_records.MAGIC):
            kind, leaves, contents = _open_zip(content)
        elif _PICKLED_MAGIC in head:
            kind, leaves, contents = _open_legacy(content)
        elif any(start.startswith(head) for start in (zip_records.MAGIC, b"\x80\x02" + _PICKLED_MAGIC)):
            raise truncated("its first record")
        else:
            raise InvalidFile("is not a checkpoint of a known format; expected a file of torch.save or torch.jit.save")
        tensors = {name: _array(name, view, contents) for name, view in leaves.views.items()}
    return TensorFile(path, kind, tensors, leaves.values, parts=(path,))


def _array(name: str, view: TensorView, contents: _Contents) -> np.ndarray:
    content = contents(view.storage.key)
    try:
        return view.array(content)
    except InvalidFile as error:
        raise InvalidFile(f"tensor {shown(name)} {error}") from None


def _open_zip(content: np.ndarray) -> tuple[str, "_Leaves", _Contents]:
    records = zip_records.ZipRecords(content)
    if "data.pkl" not in records:
        raise InvalidFile("is a zip archive without data.pkl, not one of PyTorch; expected a file of torch.save")
    if "byteorder" in records and records.read("byteorder").tobytes() != b"little":
        raise _big_endian()
    script = "constants.pkl" in records and any(name.startswith("code/") for name in records)
    find = find_script_name if script else find_name
    stream = ByteStream(records.read("data.pkl"))
    leaves = _Leaves(load(stream, find, parse_storage))
    contents = functools.cache(lambda key: records.read(f"data/{key}"))
    return ("TorchScript archive" if script else "PyTorch zip archive"), leaves, contents


def _open_legacy(content: np.ndarray) -> tuple[str, "_Leaves", _Contents]:
    stream = ByteStream(content)
    _check_legacy_header(stream)
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Storage:
        storage = parse_storage(reference, parts=6)
        if storages.setdefault(storage.key, storage).dtype != storage.dtype:
            raise InvalidFile("is damaged: a storage with two element types; download or save it again")
        return storage

    leaves = _Leaves(load(stream, find_name, persistent))
    return "PyTorch file of the format before 1.6", leaves, _legacy_contents(content, stream, storages).__getitem__


def _check_legacy_header(stream: ByteStream) -> None:
    magic, protocol, system = (load(stream, lambda _: None, parse_storage) for _ in range(3))
    if type(magic) is not int or magic != _LEGACY_MAGIC or type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise InvalidFile("is a PyTorch file of an unknown format; load it with PyTorch and save it again")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise _big_endian()


def _legacy_contents(content: np.ndarray, stream: ByteStream, storages: dict[str, Storage]) -> dict[str, np.ndarray]:
    """Return the storages, which follow the list of their keys: a number of elements, then the elements."""
    keys = load(stream, lambda _: None, parse_storage)
    texts = [key for key in keys if type(key) is str] if type(keys) is list else []
    if sorted(texts) != sorted(storages) or len(texts) != len(keys):
        raise InvalidFile("is damaged: its list of storages does not match its tensors; download or save it again")
    found = {}
    position = stream.tell()
    for key in keys:
        if position + 8 > len(content):
            raise truncated(f"storage {shown(key)} (at byte {len(content)})")
        (count,) = struct.unpack("<q", content[position : position + 8].tobytes())
        check_type(f"storage {key}", storages[key].dtype)
        end = position + 8 + count * dtype_of(storages[key].dtype).itemsize
        if count < 0:
            raise InvalidFile(f"is damaged: storage {shown(key)} has {count} elements; download or save it again")
        if end > len(content):
            raise truncated(f"the end of storage {shown(key)} (at byte {len(content)} of {end} or more)")
        found[key] = content[position + 8 : end]
        position = end
    return found


def _big_endian() -> InvalidFile:
    return InvalidFile("was written on a big-endian machine; load it there and save it as safetensors")


class _Leaves:
    """The leaves of a pickled value by name, in the order of the file. Too many or too deep leaves are an error."""

    def __init__(self, tree: Any):
        self.views: dict[str, TensorView] = {}
        self.values: dict[str, Scalar] = {}
        self._items = 0
        self._add("", tree, 0)

    def _add(self, name: str, value: Any, depth: int) -> None:
        self._check_size(name, depth)
        if isinstance(value, Instance):
            value = value.state
        if isinstance(value, dict):
            self._add_all(name, value.items(), depth)
        elif isinstance(value, list | tuple):
            self._add_all(name, enumerate(value), depth)
        elif isinstance(value, TensorView):
            check_type(name, value.dtype)
            check_type(name, value.storage.dtype)
            self._put(self.views, name, value, depth)
        elif isinstance(value, bool | int | float | str | None | AllowedName):
            self._put(self.values, name, value.name if isinstance(value, AllowedName) else value, depth)
        elif not isinstance(value, bytes):
            raise InvalidFile(f"has a {type(value).__name__} at {shown(name)}; save only the weights, a state dict")

    def _check_size(self, name: str, depth: int) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise InvalidFile(f"holds more than {MAX_ITEMS} items; save only the weights, a state dict")
        if depth > MAX_DEPTH or len(name) > MAX_NAME_LENGTH:
            raise InvalidFile(f"is nested too deeply, or contains itself, at {shown(name)}; save only the state dict")

    def _add_all(self, name: str, items: Any, depth: int) -> None:
        for key, value in items:
            self._add(f"{name}.{key}" if depth else str(key), value, depth + 1)

    def _put(self, target: dict[str, Any], name: str, value: Any, depth: int) -> None:
        if not depth:
            raise InvalidFile("holds a single value without a name; expected a state dict")
        if name in self.views or name in self.values:
            raise InvalidFile(f"has two values named {shown(name)}; save only the state dict")
        target[name] = value
