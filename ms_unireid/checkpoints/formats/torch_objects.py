"""The objects that a PyTorch pickle may build: inert descriptions of tensors and storages."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import DTYPES, dtype_of
from ms_unireid.checkpoints.formats.mapped_file import InvalidFile
from ms_unireid.checkpoints.formats.pickle_interpreter import AllowedName, Instance, put
from ms_unireid.errors import shown

# A view may repeat its storage (torch.Tensor.expand). Copying a view larger than this could exhaust the memory.
MAX_REPEATED_BYTES = 1 << 26
_MAX_DIMENSIONS = 32
_MAX_INDEX = 1 << 60

STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
_STORAGE_TYPES = {f"torch.{kind}Storage": dtype for kind, dtype in STORAGES.items()} | {
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}
# Types that numpy does not have are refused later, when the error can name their tensor.
_ELEMENT_TYPES = (
    *DTYPES,
    *("complex32", "complex64", "complex128", "uint16", "uint32", "uint64", "qint8", "quint8", "qint32"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


@dataclass(frozen=True, eq=False)
class Storage:
    """Consecutive elements of a storage in the file."""

    key: str  # name of the storage
    dtype: str
    whole: int  # number of its elements
    start: int  # first of these elements
    length: int


@dataclass(frozen=True, eq=False)
class TensorView:
    """A tensor as a pickle describes it, in elements. `array` checks the description."""

    storage: Storage
    dtype: str
    offset: Any
    shape: Any
    strides: Any

    def array(self, content: np.ndarray) -> np.ndarray:
        """Return the tensor as a view of its storage's `content`, (bytes,) uint8; InvalidFile if it is none."""
        itemsize = dtype_of(self.storage.dtype).itemsize
        start, length = self.storage.start * itemsize, self.storage.length * itemsize
        if start + length > len(content) or self.storage.whole != len(content) // itemsize:
            taken = max(start + length, self.storage.whole * itemsize)
            raise InvalidFile(f"takes {taken} bytes of a storage of {len(content)}; download or save it again")
        return self._view(content[start : start + length])

    def _view(self, content: np.ndarray) -> np.ndarray:
        dtype = dtype_of(self.dtype)
        shape, strides = self.shape, self.strides
        _check_layout(self.offset, shape, strides)
        if 0 in shape:
            shape, strides, last = _small(shape), (0,) * len(shape), -1
        else:
            last = self.offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if (last + 1) * dtype.itemsize > len(content):
            raise InvalidFile(f"reaches element {last} of a storage of {len(content)} bytes; download or save it again")
        if math.prod(shape) * dtype.itemsize > max(len(content), MAX_REPEATED_BYTES):
            raise InvalidFile("repeats its storage too often; save it again after tensor.contiguous()")
        steps = tuple(step * dtype.itemsize for step in strides)
        offset = self.offset * dtype.itemsize if last >= 0 else 0
        return np.ndarray(shape, dtype, content, offset, steps)


def _check_layout(offset: Any, shape: Any, strides: Any) -> None:
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise InvalidFile("has no valid shape; download or save it again")
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidFile(f"has {len(shape)} dimensions; at most {_MAX_DIMENSIONS} can be read")
    if not all(_is_index(number) for number in (offset, *shape, *strides)):
        raise InvalidFile("has a negative or impossible offset, size or stride; download or save it again")


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_INDEX


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    if max(shape) > MAX_REPEATED_BYTES or math.prod(size for size in shape if size) > _MAX_INDEX // 8:
        raise InvalidFile("is empty, with impossible sizes; download or save it again")
    return shape


def parse_storage(reference: Any, parts: int = 5) -> Storage:
    """Return the storage, or the part of one, that a persistent id of 5 parts, before PyTorch 1.6 of 6, describes."""
    if type(reference) is not tuple or len(reference) != parts:
        raise InvalidFile("is damaged: a reference to something that is not a storage; download or save it again")
    tag, kind, key, _, length, *view = reference
    dtype = _STORAGE_TYPES.get(kind.name) if type(kind) is AllowedName else None
    if type(tag) is not str or tag != "storage" or dtype is None or type(key) is not str or not _is_index(length):
        raise InvalidFile("is damaged: a reference to an unknown storage; download or save it again")
    if not view or view[0] is None:
        return Storage(key, dtype, length, 0, length)
    if type(view[0]) is not tuple or len(view[0]) != 3 or not all(_is_index(number) for number in view[0][1:]):
        raise InvalidFile("is damaged: a reference to an unknown part of a storage; download or save it again")
    return Storage(key, dtype, length, *view[0][1:])


def _rebuild(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = False, hooks: Any = None, metadata: Any = None
) -> TensorView:
    if type(storage) is not Storage:
        raise InvalidFile("is damaged: a tensor without a storage; download or save it again")
    if type(grad) is not bool or not (metadata is None or type(metadata) is dict):
        raise InvalidFile("is damaged: a tensor with a wrong state; download or save it again")
    if metadata and any(metadata.values()):  # "neg": PyTorch negates the stored values when it reads them
        raise InvalidFile("has a tensor that is negated or conjugated lazily; save it again after tensor.resolve_neg()")
    return TensorView(storage, storage.dtype, offset, shape, strides)


def _rebuild_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> TensorView:
    if type(dtype) is not AllowedName:
        raise InvalidFile("is damaged: a tensor without an element type; download or save it again")
    return replace(
        _rebuild(storage, offset, shape, strides, grad, hooks, *rest), dtype=dtype.name.removeprefix("torch.")
    )


def _parameter(data: Any, *_: Any) -> TensorView:
    if type(data) is not TensorView:
        raise InvalidFile("is damaged: a parameter that is no tensor; download or save it again")
    return data


def _first(value: Any, *_: Any) -> Any:
    return value


def _dictionary(items: Any = (), *_: Any) -> dict[str, Any]:
    """Return a dictionary from another one, or from a list of pairs (Python 2)."""
    if type(items) is dict:
        return items
    result: dict[str, Any] = {}
    for pair in items:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise InvalidFile("is damaged: a dictionary whose items are not pairs; download or save it again")
        put(result, *pair)
    return result


def _device(kind: Any, index: Any = None) -> str:
    return kind if type(kind) is str else "unknown"


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_qtensor": lambda *view: _rebuild(*view[:4]),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _first,
    "torch.device": _device,
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda factory=None: {},
}
_LISTS = ("intlist", "doublelist", "boollist", "tensorlist")
_SCRIPT_BUILDERS: dict[str, Callable[..., Any]] = {
    **{f"torch.jit._pickle.build_{kind}": _first for kind in _LISTS},
    "torch.jit._pickle.restore_type_tag": _first,
}
_PLAIN = ("dict", "list", "int", "float", "str", "bool")
_MENTIONED = {
    *_STORAGE_TYPES,
    *(f"torch.{name}" for name in _ELEMENT_TYPES),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _PLAIN),
    "torch.per_tensor_affine",
    "torch.per_channel_affine",
}


def find_name(name: str) -> AllowedName | None:
    """Return the object for a name in the pickle of a state dict; None if the name is not allowed."""
    if name in _BUILDERS:
        return AllowedName(name, _BUILDERS[name])
    return AllowedName(name) if name in _MENTIONED else None


def find_script_name(name: str) -> AllowedName | None:
    """Return the object for a name in a TorchScript archive, also for its own classes; None if not allowed."""
    if name.startswith("__torch__."):
        return AllowedName(name, Instance)
    if name in _SCRIPT_BUILDERS:
        return AllowedName(name, _SCRIPT_BUILDERS[name])
    return find_name(name)


def check_type(name: str, dtype: str) -> None:
    """Raise InvalidFile if a tensor's type is not one of `ms_unireid.checkpoints.formats.dtypes`."""
    try:
        dtype_of(dtype)
    except KeyError:
        raise InvalidFile(
            f"tensor {shown(name)} has type {dtype}, which cannot be read; save it as float32, or leave it out"
        ) from None
