"""Tensor element types under PyTorch's names, bfloat16 included, in plain numpy."""

import numpy as np

# numpy has no bfloat16; a record of one field keeps its bits, its name and all of numpy's view mechanics.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

_DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "float64": "<f8",
        "float32": "<f4",
        "float16": "<f2",
        "int64": "<i8",
        "int32": "<i4",
        "int16": "<i2",
        "int8": "i1",
        "uint8": "u1",
        "bool": "?",
    }.items()
} | {"bfloat16": BFLOAT16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
FLOATS = ("float64", "float32", "float16", "bfloat16")


def dtype_of(name: str) -> np.dtype:
    """Return the little-endian numpy type that holds elements of a named type.

    Raises:
        KeyError: If the type is not supported.
    """
    return _DTYPES[name]


def name_of(dtype: np.dtype) -> str:
    """Return a type's name, such as "bfloat16".

    Raises:
        KeyError: If the type is not supported.
    """
    return _NAMES[np.dtype(dtype)]


def cast(array: np.ndarray, name: str) -> np.ndarray:
    """Convert an array to a named type, rounding to the nearest value, ties to even; itself if it has that type."""
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
    """Return an array that MindSpore 2.7 accepts: a copy if its elements lie at odd addresses of a mapped file."""
    return np.require(array, requirements="A")


def _to_bfloat16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(array), quiet_nan, rounded).astype(np.uint16).view(BFLOAT16)
