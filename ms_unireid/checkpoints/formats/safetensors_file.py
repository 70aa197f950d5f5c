"""The safetensors format: a JSON header, then the tensors' bytes in order without gaps."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import dtype_of, name_of
from ms_unireid.checkpoints.formats.mapped_file import Refusal, map_file, naming, shown, truncated
from ms_unireid.checkpoints.formats.tensor_file import Entry, TensorFile, check_names, contents

MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 32
_MAX_DIGITS = 18
_PREFIX = 8
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_METADATA = "__metadata__"


def looks_like_safetensors(head: bytes) -> bool:
    """Tell whether a file's first bytes (9 or more) are a possible header length and the start of a JSON object."""
    return head[_PREFIX : _PREFIX + 1] == b"{" and int.from_bytes(head[:_PREFIX], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file; its tensors are read-only views of the memory-mapped file.

    Raises:
        CheckpointError: If it is damaged, is no safetensors file, or has a tensor of an unknown type.
    """
    with naming(path):
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
        raise Refusal("is no safetensors file: it does not start with a header; check the file or download it again")
    end = _PREFIX + int.from_bytes(content[:_PREFIX].tobytes(), "little")
    if end > len(content):
        raise truncated(f"the end of its header (at byte {len(content)} of {end})")
    try:
        text = content[_PREFIX:end].tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise _damaged("no valid JSON") from error
    return header, content[end:]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _damaged("a name occurs twice")
    return table


def _number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _damaged("a number is impossibly large")
    return int(digits)


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Check one tensor's entry and return where its bytes begin and end."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise _damaged(f"tensor {shown(name)} has no dtype")
    if entry["dtype"] not in _DTYPES:
        dtype = shown(entry["dtype"])
        raise Refusal(f"tensor {shown(name)} is of {dtype}, which cannot be read; save it as F32, or leave it out")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(f"tensor {shown(name)} has no valid shape and offsets")
    size = math.prod(shape) * dtype_of(_DTYPES[entry["dtype"]]).itemsize
    if offsets[1] - offsets[0] != size:
        raise _damaged(f"tensor {shown(name)} takes {size} bytes, its offsets span {offsets[1] - offsets[0]}")
    return offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_order(spans: dict[str, tuple[int, int]], size: int) -> None:
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise _damaged(f"tensor {shown(name)} begins at {begin}, the one before it ends at {position}")
        if end > size:
            raise truncated(f"the end of tensor {shown(name)} (byte {end} of the data, {size} are there)")
        position = end
    if position != size:
        raise _damaged(f"{size - position} bytes follow the last tensor")


def _array(name: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    try:
        return np.ndarray(entry["shape"], dtype_of(_DTYPES[entry["dtype"]]), data)
    except ValueError as error:  # An empty tensor may still have sizes that numpy cannot hold.
        raise _damaged(f"tensor {shown(name)} has an impossible shape") from error


def _damaged(what: str) -> Refusal:
    return Refusal(f"is damaged: in its header, {what}; download or copy it again")


# In the order in which the safetensors package lays tensors out: wide elements first, so that all are aligned.
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
_ORDER = list(_CODES)


def write_safetensors(file: Path, entries: Sequence[Entry], metadata: Mapping[str, str] = {}) -> None:
    """Write tensors as the safetensors package does, byte for byte: sorted by type, widest first, then by name.

    Args:
        file: Where; an existing file is overwritten.
        entries: The tensors, in any order; each is loaded once.
        metadata: Strings for the file's header.

    Raises:
        ValueError: If names are given twice, or an array is not what its entry declares.
        OSError: If the file cannot be written.
    """
    check_names([_METADATA, *(entry.name for entry in entries)])
    ordered = sorted(entries, key=lambda entry: (_ORDER.index(name_of(entry.dtype)), entry.name))
    with file.open("wb") as stream:
        stream.write(_header(ordered, metadata))
        for _, chunks in contents(ordered):
            stream.writelines(chunks)


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    header = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {
            "dtype": _CODES[name_of(entry.dtype)],
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
