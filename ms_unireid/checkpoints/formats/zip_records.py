"""Read the records of an uncompressed zip archive as checked views of the memory-mapped file."""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ms_unireid.checkpoints.formats.mapped_file import MAX_ITEMS, InvalidFile, truncated
from ms_unireid.errors import shown

MAGIC = b"PK\x03\x04"

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_LONGEST_DIRECTORY = 1 << 24
_STORED = 0
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class _Record:
    raw_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    stored_size: int
    header: int


class ZipRecords:
    """The records of an archive with one folder, as PyTorch writes it; `content` is the whole file, (bytes,) uint8."""

    def __init__(self, content: np.ndarray):
        self._content = content
        self._directory, size, count = _find_directory(content)
        self._records: dict[str, _Record] = {}
        folder = None
        for record in _entries(content[self._directory : self._directory + size].tobytes(), count):
            top, name = _split(record.raw_name)
            if folder not in (None, top):
                raise InvalidFile(f"is a zip archive with folders {shown(folder)} and {shown(top)}; PyTorch writes one")
            if name in self._records:
                raise InvalidFile(f"has the record {shown(name)} twice; download or save it again")
            folder = top
            self._records[name] = record
        self._check_places()

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def _check_places(self) -> None:
        records = self._records.values()
        places = sorted((r.header, r.header + _LOCAL.size + len(r.raw_name) + r.stored_size) for r in records)
        if any(end > start for (_, end), (start, _) in itertools.pairwise([*places, (self._directory, 0)])):
            raise InvalidFile("has records that overlap or reach outside of it; download or save it again")

    def read(self, name: str) -> np.ndarray:
        """Return a record by its name without the folder, such as "data/0", as a read-only view, (bytes,) uint8."""
        record = self._records.get(name)
        if record is None:
            raise InvalidFile(f"has no record {shown(name)}; download or save it again")
        if record.flags & _ENCRYPTED:
            raise InvalidFile(f"has the encrypted record {shown(name)}; save it again without a password")
        if record.method != _STORED or record.stored_size != record.size:
            raise InvalidFile(
                f"has the compressed record {shown(name)}; PyTorch stores them uncompressed, save it again"
            )
        start = self._data_start(name, record)
        if start + record.size > self._directory:
            raise InvalidFile(f"has the record {shown(name)}, which reaches outside its place; download it again")
        data = self._content[start : start + record.size]
        # PyTorch stores 0 when checksums are switched off.
        if record.crc and zlib.crc32(data) != record.crc:
            raise InvalidFile(
                f"is damaged: the checksum of record {shown(name)} does not fit; download or copy it again"
            )
        return data

    def _data_start(self, name: str, record: _Record) -> int:
        header = self._content[record.header : record.header + _LOCAL.size].tobytes()
        if record.header + _LOCAL.size > self._directory or not header.startswith(MAGIC):
            raise InvalidFile(f"is damaged: no header for the record {shown(name)}; download or copy it again")
        *_, name_length, extra_length = _LOCAL.unpack(header)
        start = record.header + _LOCAL.size
        if self._content[start : start + name_length].tobytes() != record.raw_name:
            raise InvalidFile(f"is damaged: the record {shown(name)} has two names; download or copy it again")
        return start + name_length + extra_length


def _find_directory(content: np.ndarray) -> tuple[int, int, int]:
    """Return offset, size and number of entries of the archive's directory."""
    tail_start = max(0, len(content) - _END.size - _LONGEST_COMMENT)
    tail = content[tail_start:].tobytes()
    end = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if end < 0:
        raise truncated("the directory of a zip archive")
    _, *disks, _, count, size, offset, comment = _END.unpack_from(tail, end)
    end += tail_start
    if end + _END.size + comment != len(content):
        raise InvalidFile("has bytes after the end of the zip archive; download or copy it again")
    locator = content[max(0, end - _END64_LOCATOR.size) : end].tobytes()
    if locator.startswith(b"PK\x06\x07"):
        end, disks, size, count, offset = _find_directory64(content, locator)
    if any(disks) or offset + size > end:
        raise _damaged_directory()
    if count > MAX_ITEMS or size > _LONGEST_DIRECTORY:
        raise InvalidFile(f"is a zip archive of {count} records; expected at most {MAX_ITEMS}; save only the weights")
    return offset, size, count


def _find_directory64(content: np.ndarray, locator: bytes) -> tuple[int, list[int], int, int, int]:
    if len(locator) != _END64_LOCATOR.size:
        raise _damaged_directory()
    _, _, end, _ = _END64_LOCATOR.unpack(locator)
    record = content[end : end + _END64.size].tobytes()
    if len(record) != _END64.size or not record.startswith(b"PK\x06\x06"):
        raise _damaged_directory()
    *_, disk, first_disk, _, count, size, offset = _END64.unpack(record)
    return end, [disk, first_disk], size, count, offset


def _entries(directory: bytes, count: int) -> Iterator[_Record]:
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            raise _damaged_directory()
        magic, _, _, flags, method, _, _, crc, stored_size, size, *lengths, disk, _, _, header = _ENTRY.unpack_from(
            directory, position
        )
        name_end = position + _ENTRY.size + lengths[0]
        extra_end = name_end + lengths[1]
        position = extra_end + lengths[2]
        if magic != b"PK\x01\x02" or disk or position > len(directory):
            raise _damaged_directory()
        name = directory[name_end - lengths[0] : name_end]
        sizes = _widened([size, stored_size, header], directory[name_end:extra_end])
        yield _Record(name, flags, method, crc, *sizes)
    if position != len(directory):
        raise _damaged_directory()


def _widened(values: list[int], extra: bytes) -> list[int]:
    """Replace each value that does not fit 32 bits by its 64-bit value in the zip64 extra field."""
    wide = iter(_zip64_values(extra))
    try:
        return [next(wide) if value == 0xFFFFFFFF else value for value in values]
    except StopIteration:
        raise _damaged_directory() from None


def _zip64_values(extra: bytes) -> list[int]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            return [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
    return []


def _split(raw_name: bytes) -> tuple[str, str]:
    """Return the top folder of a record and the rest of its name."""
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidFile(f"has a record whose name {shown(raw_name)} is no UTF-8; download or save it again") from None
    top, slash, rest = name.partition("/")
    parts = name.removesuffix("/").split("/")
    if "\\" in name or "\0" in name or _DRIVE.match(name) or any(part in ("", ".", "..") for part in parts):
        raise InvalidFile(f"has the record {shown(name)}, whose name leaves the archive; do not use this file")
    if not slash:
        raise InvalidFile(f"is a zip archive with {shown(name)} outside of a folder; PyTorch writes one folder")
    return top, rest


def _damaged_directory() -> InvalidFile:
    return InvalidFile("is damaged: its zip directory is inconsistent; download or copy it again")
