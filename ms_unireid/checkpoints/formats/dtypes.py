"""Element types of tensors by PyTorch's names, in plain numpy, with bfloat16."""

import numpy as np

# numpy has no bfloat16. A record with one field keeps the bits and the name, and supports views.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

_PLAIN = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _PLAIN} | {"bfloat16": BFLOAT16}
DTYPES = tuple(_DTYPES)
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
FLOATS = ("float64", "float32", "float16", "bfloat16")


def dtype_of(name: str) -> np.dtype:
    """Return the little-endian numpy type of this name; KeyError if it is not supported."""
    return _DTYPES[name]


def dtype_name(dtype: np.dtype) -> str:
    """Return the name of a numpy type, such as "bfloat16"; KeyError if it is not supported."""
    return _NAMES[np.dtype(dtype)]


def cast(array: np.ndarray, name: str) -> np.ndarray:
    """Convert an array to a named type, rounding ties to even. An array of that type is returned unchanged."""
    target = dtype_of(name)
    if array.dtype == target:
        return array
    if array.dtype == BFLOAT16:
        bits = np.left_shift(array["bfloat16"], 16, dtype=np.uint32)
        array = np.asarray(bits).view(np.float32)
    if target == BFLOAT16:
        return _to_bfloat16(array.astype(np.float32, copy=False))
    return array.astype(target, copy=False)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return an array that MindSpore 2.7 accepts: a copy if the elements of the mapped file are not aligned."""
    return np.require(array, requirements="A")


def _to_bfloat16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(array), quiet_nan, rounded).astype(np.uint16).view(BFLOAT16)
