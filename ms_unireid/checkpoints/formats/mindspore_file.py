"""Read and write MindSpore's checkpoints (.ckpt) in plain numpy.

A file is one protobuf message: a list of values, one after the other. A value has a name (field 1) and a tensor
(field 2) with dimensions (1), element type (2) and content (3).
"""

import io
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import DTYPES, dtype_name, dtype_of
from ms_unireid.checkpoints.formats.mapped_file import MAX_ITEMS, MAX_NAME_LENGTH, error_context, map_file
from ms_unireid.checkpoints.formats.tensor_file import Entry, TensorFile, prefetched
from ms_unireid.errors import CheckpointError, shown

# MindSpore splits a larger tensor into consecutive values of the same name.
SLICE_BYTES = 512 * 1024 * 1024

_TYPES = {name: name.capitalize() for name in DTYPES} | {"bfloat16": "BFloat16", "uint8": "UInt8"}
_NAMES = {theirs: ours for ours, theirs in _TYPES.items()}
_STRING = "str"

# The first byte of a field is 8 * number + kind. Kind 0 is an integer, kind 2 is a length and that many bytes.
_VALUE = 0x0A
_NAME, _TENSOR, _MAP = 0x0A, 0x12, 0x1A
_DIM, _TYPE, _CONTENT = 0x08, 0x12, 0x1A
_MAX_STRING_BYTES = 1 << 25  # 4 bytes a character
_MAX_FIELDS = 34  # type, content and numpy's 32 dimensions

# save_checkpoint with crc_check, as here, appends this word and a big-endian CRC-32 in 10 bytes.
_CHECKSUM = b"crc_num"
_CHECKSUM_BYTES = 17
_CIPHERS = (b"\xd8\x5e\x3a\x7f", b"\xd9\x5e\x3a\x7f", b"\xda\x5e\x3a\x7f")  # AES-GCM, AES-CBC, SM4-CBC


@dataclass(frozen=True)
class _Value:
    name: str
    type: str
    dims: tuple[int, ...]
    content: slice


def looks_like_mindspore(head: bytes) -> bool:
    """Return whether the first bytes of a file (16 or more) are a MindSpore checkpoint's, plain or encrypted."""
    if head.startswith(_CIPHERS):
        return True
    data = memoryview(head)
    try:
        value, position = _number(data, 0, len(data))
        size, position = _number(data, position, len(data))
        name, position = _number(data, position, len(data))
        name_size, position = _number(data, position, len(data))
    except ValueError:
        return False
    after = head[position + name_size :][:1]
    return (value, name) == (_VALUE, _NAME) and name_size < size and after in (b"", bytes([_TENSOR]), bytes([_MAP]))


def read_mindspore(path: Path) -> TensorFile:
    """Open a checkpoint: memory-mapped tensors, strings as `metadata`.

    Numbers of append_dict are tensors of shape (), as in `mindspore.load_checkpoint`. A file that was cut exactly
    between two tensors is valid. One that cannot be read, is damaged, encrypted or of another kind raises a
    CheckpointError.
    """
    try:
        with error_context(path):
            data = _values_of(map_file(path).view(np.ndarray))
        tensors: dict[str, np.ndarray] = {}
        strings: dict[str, str] = {}
        room = _MAX_STRING_BYTES
        for name, values in itertools.groupby(_read_values(memoryview(data)), key=lambda value: value.name):
            if name in tensors or name in strings:
                raise ValueError(f"{shown(name)} occurs twice")
            first, *rest = values
            if first.type == _STRING and not rest:
                room -= first.content.stop - first.content.start
                if room < 0:
                    raise ValueError(f"its strings have more than {_MAX_STRING_BYTES} bytes")
                strings[name] = str(memoryview(data)[first.content], "utf-32-le").rstrip("\0")
            else:
                tensors[name] = _tensor(data, [first, *rest])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: cannot be read as a MindSpore checkpoint ({error}); copy or save it again, or use another file"
        ) from error
    return TensorFile(path, "MindSpore checkpoint", tensors, metadata=strings, parts=(path,))


def _values_of(data: np.ndarray) -> np.ndarray:
    """Return the bytes of the values. A checksum after them, if any, is checked."""
    if data[:4].tobytes() in _CIPHERS:
        raise ValueError("it is encrypted; expected one that was saved without enc_key")
    values, end = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:].tobytes()
    if not end.startswith(_CHECKSUM):
        return data
    if zlib.crc32(values) != int.from_bytes(end[len(_CHECKSUM) :], "big"):
        raise ValueError("its content does not match its checksum")
    return values


def _read_values(data: memoryview) -> Iterator[_Value]:
    for count, (_, span) in enumerate(_fields(data, slice(0, len(data)), (_VALUE,))):
        if count == MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} values")
        fields = _message(data, span, (_NAME, _TENSOR, _MAP))
        name = _text(data, _only(fields, _NAME, "name"))
        if any(key == _MAP for key, _ in fields):
            raise ValueError(f"{shown(name)} is a map parameter; expected only tensors and strings")
        fields = _message(data, _only(fields, _TENSOR, "tensor"), (_DIM, _TYPE, _CONTENT))
        type_name = _text(data, _only(fields, _TYPE, "element type"))
        dims = tuple(dim for key, dim in fields if key == _DIM)
        yield _Value(name, type_name, dims, _only(fields, _CONTENT, "content"))


def _message(data: memoryview, span: slice, allowed: Sequence[int]) -> list[tuple[int, int | slice]]:
    fields = list(itertools.islice(_fields(data, span, allowed), _MAX_FIELDS + 1))
    if len(fields) > _MAX_FIELDS:
        raise ValueError(f"the value at byte {span.start} has more than {_MAX_FIELDS} fields")
    return fields


def _fields(data: memoryview, span: slice, allowed: Sequence[int]) -> Iterator[tuple[int, int | slice]]:
    """Yield (key, integer) or (key, span of its bytes) for each field of the message at `span`."""
    position = span.start
    while position < span.stop:
        at = position
        key, position = _number(data, position, span.stop)
        if key not in allowed:
            raise ValueError(f"the field at byte {at} begins with {key:#x}, which is not allowed there")
        number, position = _number(data, position, span.stop)
        if key == _DIM:
            yield key, number
            continue
        if number > span.stop - position:
            raise ValueError(f"{number} bytes should follow byte {position}, but only {span.stop - position} do")
        yield key, slice(position, position + number)
        position += number


def _number(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Return a protobuf varint below 2^63 and the position after it."""
    number = 0
    for index, byte in enumerate(data[position : min(position + 9, end)]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, position + index + 1
    raise ValueError(f"the number at byte {position} is cut off, or is 2^63 or more")


def _only(fields: list[tuple[int, int | slice]], key: int, what: str) -> slice:
    found = [place for field, place in fields if field == key]
    if len(found) != 1:
        raise ValueError(f"a value has {len(found)} fields for its {what}; expected one")
    return found[0]


def _text(data: memoryview, place: slice) -> str:
    if place.stop - place.start > MAX_NAME_LENGTH:
        raise ValueError(f"the name at byte {place.start} has {place.stop - place.start} bytes")
    return str(data[place], "utf-8")


def _tensor(data: np.ndarray, slices: list[_Value]) -> np.ndarray:
    first = slices[0]
    if any((value.type, value.dims) != (first.type, first.dims) for value in slices):
        raise ValueError(f"{shown(first.name)} occurs twice, with different types or shapes")
    if first.type not in _NAMES:
        found = f"{shown(first.name)} has elements of type {shown(first.type)}"
        raise ValueError(f"{found}; expected one of {', '.join(_NAMES)}")
    dtype = dtype_of(_NAMES[first.type])
    found = sum(value.content.stop - value.content.start for value in slices)
    shape = () if first.dims == (0,) and found else first.dims  # as older versions write a scalar
    if math.prod(shape) * dtype.itemsize != found:
        raise ValueError(
            f"{shown(first.name)} has {found} bytes, which do not fit shape {shown(shape)} of {first.type}"
        )
    parts = [data[value.content] for value in slices]
    content = parts[0] if len(parts) == 1 else np.concatenate(parts)
    content.flags.writeable = False
    return content.view(dtype).reshape(shape)


def write_mindspore(file: Path, entries: Iterable[Entry], strings: Mapping[str, str]) -> None:
    """Write tensors, strings and a checksum, as `mindspore.save_checkpoint` with crc_check does, byte for byte.

    `strings` are the content of append_dict. An existing file is overwritten; the next tensor is loaded while one is
    written. ValueError if a name occurs twice, an array differs from its entry, or is empty, which MindSpore omits.
    """
    names = set(strings)
    with _SummedFile(io.FileIO(file, "wb")) as stream:
        for entry, chunks in prefetched(entries):
            if entry.name in names:
                raise ValueError(f"{entry.name!r} occurs twice")
            names.add(entry.name)
            _write_tensor(stream, entry, chunks)
        for name, text in strings.items():
            content = np.array(text).tobytes()
            stream.write(_head(name, (0,), _STRING, len(content)) + content)
        stream.write(_CHECKSUM + stream.checksum.to_bytes(_CHECKSUM_BYTES - len(_CHECKSUM), "big"))


class _SummedFile(io.BufferedWriter):
    """A file that computes the CRC-32 of what is written."""

    checksum = 0

    def write(self, content: bytes | np.ndarray) -> int:
        self.checksum = zlib.crc32(content, self.checksum)
        return super().write(content)


def _write_tensor(stream: BinaryIO, entry: Entry, chunks: Iterator[np.ndarray]) -> None:
    if not entry.nbytes:
        raise ValueError(f"{entry.name!r} is empty; a MindSpore checkpoint cannot store empty tensors")
    written = 0
    for chunk in chunks:
        while len(chunk):
            within = written % SLICE_BYTES
            if within == 0:
                size = min(SLICE_BYTES, entry.nbytes - written)
                stream.write(_head(entry.name, entry.shape, _TYPES[dtype_name(entry.dtype)], size))
            part, chunk = chunk[: SLICE_BYTES - within], chunk[SLICE_BYTES - within :]
            stream.write(part)
            written += len(part)


def _head(name: str, dims: Sequence[int], type_name: str, size: int) -> bytes:
    """Return a value up to its content of `size` bytes."""
    tensor = b"".join(bytes([_DIM]) + _encoded(dim) for dim in dims) + _field(_TYPE, type_name.encode())
    tensor += bytes([_CONTENT]) + _encoded(size)
    value = _field(_NAME, name.encode()) + bytes([_TENSOR]) + _encoded(len(tensor) + size) + tensor
    return bytes([_VALUE]) + _encoded(len(value) + size) + value


def _field(key: int, content: bytes) -> bytes:
    return bytes([key]) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
