"""Read and write safetensors: a JSON header, then the bytes of the tensors without gaps."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import dtype_name, dtype_of
from ms_unireid.checkpoints.formats.mapped_file import (
    MAX_ITEMS,
    InvalidFile,
    error_context,
    map_file,
    parse_json,
    truncated,
)
from ms_unireid.checkpoints.formats.tensor_file import Entry, TensorFile, check_unique, prefetched
from ms_unireid.errors import shown

MAX_HEADER_BYTES = 100_000_000  # of the format; `parse_json` reads less
_MAX_DIMENSIONS = 32
_MAX_SIZE = 10**18
_PREFIX = 8
_METADATA = "__metadata__"
# The safetensors package writes wide elements first, so that all tensors are aligned.
_CODES = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: name for name, code in _CODES.items()}
_ORDER = list(_CODES)


def looks_like_safetensors(head: bytes) -> bool:
    """Return whether the first bytes of a file (9 or more) are a header length and the start of a JSON object."""
    return head[_PREFIX : _PREFIX + 1] == b"{" and int.from_bytes(head[:_PREFIX], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file. The tensors are read-only views of the memory-mapped file.

    A file that is damaged, of another kind, or has a tensor of an unknown type raises a CheckpointError.
    """
    with error_context(path):
        content = map_file(path)
        header, data = _split(content)
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise _damaged(f"{_METADATA} is not a table of strings")
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_order(spans, len(data))
        tensors = {name: _array(name, header[name], data[slice(*span)]) for name, span in spans.items()}
    return TensorFile(path, "safetensors", tensors, metadata=metadata, parts=(path,))


def _split(content: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the parsed header and the bytes after it."""
    if not looks_like_safetensors(content[: _PREFIX + 1].tobytes()):
        raise InvalidFile("is not a safetensors file: it does not start with a header; download it again")
    end = _PREFIX + int.from_bytes(content[:_PREFIX].tobytes(), "little")
    if end > len(content):
        raise truncated(f"the end of its header (at byte {len(content)} of {end})")
    header = parse_json(content[_PREFIX:end].tobytes(), "header")
    if len(header) > MAX_ITEMS:
        raise InvalidFile(f"holds more than {MAX_ITEMS} tensors; save only the weights")
    return header, content[end:]


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Check the header entry of a tensor. Return where its bytes begin and end."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise _damaged(f"tensor {shown(name)} has no dtype")
    if entry["dtype"] not in _DTYPES:
        dtype = shown(entry["dtype"])
        raise InvalidFile(
            f"tensor {shown(name)} has type {dtype}, which cannot be read; save it as F32, or leave it out"
        )
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(f"tensor {shown(name)} has no valid shape and offsets")
    size = math.prod(shape) * dtype_of(_DTYPES[entry["dtype"]]).itemsize
    if offsets[1] - offsets[0] != size:
        raise _damaged(f"tensor {shown(name)} takes {size} bytes, but its offsets span {offsets[1] - offsets[0]}")
    return offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < _MAX_SIZE for number in value)


def _check_order(spans: dict[str, tuple[int, int]], size: int) -> None:
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise _damaged(f"tensor {shown(name)} begins at {begin}, but the one before it ends at {position}")
        if end > size:
            raise truncated(f"the end of tensor {shown(name)} (byte {end} of the data, which has {size})")
        position = end
    if position != size:
        raise _damaged(f"{size - position} bytes follow the last tensor")


def _array(name: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    try:
        return np.ndarray(entry["shape"], dtype_of(_DTYPES[entry["dtype"]]), data)
    except ValueError as error:  # an empty tensor with sizes that numpy cannot hold
        raise _damaged(f"tensor {shown(name)} has an impossible shape") from error


def _damaged(what: str) -> InvalidFile:
    return InvalidFile(f"is damaged: in its header, {what}; download or copy it again")


def write_safetensors(file: Path, entries: Sequence[Entry], metadata: Mapping[str, str] = {}) -> None:
    """Write tensors as the safetensors package does, byte for byte: sorted by type, widest first, then by name.

    `metadata` goes to the header. An existing file is overwritten; each tensor is loaded once. ValueError if a name
    occurs twice, or an array differs from its entry.
    """
    check_unique([_METADATA, *(entry.name for entry in entries)])
    ordered = sorted(entries, key=lambda entry: (_ORDER.index(dtype_name(entry.dtype)), entry.name))
    with file.open("wb") as stream:
        stream.write(_header(ordered, metadata))
        for _, chunks in prefetched(ordered):
            stream.writelines(chunks)


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    header = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {
            "dtype": _CODES[dtype_name(entry.dtype)],
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
