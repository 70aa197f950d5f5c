"""Writer of safetensors files in plain numpy, one tensor in memory at a time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ms_unireid.conversion.dtypes import name_of
from ms_unireid.conversion.tensor_file import Entry, check_names, contents

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
_METADATA = "__metadata__"


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
