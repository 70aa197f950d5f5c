"""Write PyTorch checkpoints (.pth) in plain numpy, one tensor in memory at a time.

The file is a zip archive: `data.pkl` describes the objects; `data/0`, `data/1`, ... hold the elements of the tensors.
"""

import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import dtype_name
from ms_unireid.checkpoints.formats.tensor_file import Entry, Scalar, check_unique, prefetched
from ms_unireid.checkpoints.formats.torch_objects import STORAGES

_KINDS = {dtype: kind for kind, dtype in STORAGES.items()}
_FOLDER = "archive"
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_ZIP64_FIELD = 20
_FIELD_HEADER = 4


def write_torch(
    file: Path, entries: Sequence[Entry], wrap: str | None = None, values: Mapping[str, Scalar] = {}
) -> None:
    """Write a state dict that `torch.load` reads, also with weights_only and mmap. Equal content gives equal bytes.

    The file, an existing one is overwritten, holds {wrap: state dict, **values}; with None the bare state dict, and no
    numbers and strings as values. Each tensor is loaded once. ValueError if a name occurs twice, values have no `wrap`,
    or an array differs from its entry.
    """
    check_unique(entry.name for entry in entries)
    if wrap is None and values:
        raise ValueError(f"values ({', '.join(values)}) need a wrap key; a bare state dict has no room for them")
    if wrap in values:
        raise ValueError(f"{wrap!r} occurs twice")
    with file.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        _write_text(archive, stream, "data.pkl", _content(entries, wrap, values))
        _write_text(archive, stream, "byteorder", b"little")
        for index, (entry, chunks) in enumerate(prefetched(entries)):
            _write_record(archive, stream, f"data/{index}", entry.nbytes, chunks)
        _write_text(archive, stream, "version", b"3\n")


def _write_text(archive: zipfile.ZipFile, stream: BinaryIO, name: str, content: bytes) -> None:
    _write_record(archive, stream, name, len(content), [content])


def _write_record(
    archive: zipfile.ZipFile, stream: BinaryIO, name: str, size: int, chunks: Iterable[bytes | np.ndarray]
) -> None:
    """Write a record whose content starts at a multiple of 64 bytes, so that it can be memory-mapped."""
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    info.create_system = 3  # otherwise the bytes differ on Windows
    large = size > zipfile.ZIP64_LIMIT
    start = stream.tell() + _LOCAL_HEADER + len(info.filename) + (_ZIP64_FIELD if large else 0)
    info.extra = _padding(-start % _ALIGNMENT)
    with archive.open(info, "w", force_zip64=large) as record:
        for chunk in chunks:
            record.write(chunk)
    info.extra = b""  # no padding in the archive's directory


def _padding(size: int) -> bytes:
    """Return an extra field ("FB", as in PyTorch) of `size` bytes, or one alignment more if its header does not fit."""
    if size == 0:
        return b""
    if size < _FIELD_HEADER:
        size += _ALIGNMENT
    return b"FB" + struct.pack("<H", size - _FIELD_HEADER) + bytes(size - _FIELD_HEADER)


def _content(entries: Sequence[Entry], wrap: str | None, values: Mapping[str, Scalar]) -> bytes:
    """Return the pickle, protocol 2. The functions below return the opcodes that push one object."""
    pushed = _ordered_dict((entry.name, _tensor(index, entry)) for index, entry in enumerate(entries))
    if wrap is not None:
        pushed = b"}" + _items([(wrap, pushed), *((name, _scalar(value)) for name, value in values.items())])
    return b"\x80\x02" + pushed + b"."


def _tensor(index: int, entry: Entry) -> bytes:
    count = entry.nbytes // entry.dtype.itemsize
    kind = _global("torch", f"{_KINDS[dtype_name(entry.dtype)]}Storage")
    storage = _tuple([_text("storage"), kind, _text(str(index)), _text("cpu"), _integer(count)]) + b"Q"
    shape, strides = (_tuple(map(_integer, numbers)) for numbers in (entry.shape, _strides(entry.shape)))
    requires_grad, hooks = _scalar(False), _ordered_dict([])
    arguments = _tuple([storage, _integer(0), shape, strides, requires_grad, hooks])
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Return the strides of a contiguous tensor in elements. PyTorch counts an empty axis as 1."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


def _ordered_dict(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    return _global("collections", "OrderedDict") + b")R" + _items(pairs)


def _items(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    return b"(" + b"".join(_text(name) + pushed for name, pushed in pairs) + b"u"


def _tuple(pushed: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(pushed) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _scalar(value: Scalar) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    raise ValueError(f"{value!r} is neither a number nor a string")


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded
