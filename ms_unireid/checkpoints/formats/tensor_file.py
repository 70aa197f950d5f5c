"""An opened file of tensors (`TensorFile`) and a tensor to write (`Entry`)."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import FLOATS, cast, dtype_name, dtype_of
from ms_unireid.errors import CheckpointError

META = "ms_unireid"  # the key of the description (a checkpoint's `meta`) in files of ms_unireid
Scalar = bool | int | float | str | None
_CHUNK = 1 << 20  # elements; the allocator reuses a buffer of this size, but not a larger one


@dataclass(frozen=True)
class TensorFile:
    """An opened file, or a folder of shards.

    Attributes:
        format: Kind of file, in words.
        tensors: Read-only arrays, views of the memory-mapped file where possible. The keys of nested containers are
            joined by dots: "model.base_model.visual.proj".
        values: Numbers and strings among the tensors, named the same way, such as "epoch".
        metadata: Strings that the format stores apart from the tensors.
        parts: The files that were read.
    """

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    values: dict[str, Scalar] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()

    def description(self) -> dict[str, Any]:
        """Return the description that ms_unireid stored in the file, with at least `config`; empty for other files.

        Raises:
            CheckpointError: If it is damaged.
        """
        # MindSpore and safetensors files store it as metadata, PyTorch files among the tensors.
        text = self.metadata.get(META) or self.values.get(META)
        if text is None:
            return {}
        meta = self.parse_json(text, META)
        if not isinstance(meta.get("config"), dict):
            raise CheckpointError(f"{self.path}: its description has no config; copy the file again or use another")
        return meta

    def parse_json(self, text: Any, what: str) -> dict[str, Any]:
        """Return a JSON object that the file holds as text; CheckpointError if it is not one."""
        try:
            found = json.loads(text)
        except (TypeError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.path}: its {what} is not a JSON object; copy the file again")
        return found


@dataclass(frozen=True)
class Entry:
    """A tensor to write. `source` makes its array when it is needed, so that memory holds one at a time.

    Attributes:
        name: Name in the file.
        dtype: One of the types in `ms_unireid.checkpoints.formats.dtypes`.
        source: Returns an array of this shape and of any of those types.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    source: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "Entry":
        """Return the entry of an array in memory."""
        return cls(name, array.dtype, array.shape, lambda: array)

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def as_float32(self, path: Path) -> "Entry":
        """Return the same tensor as float32; CheckpointError, naming the file, if it is not floating-point."""
        if dtype_name(self.dtype) not in FLOATS:
            found = f"{path}: {self.name} is {dtype_name(self.dtype)}"
            raise CheckpointError(f"{found}; expected floating-point weights, not quantised weights")
        return Entry(self.name, dtype_of("float32"), self.shape, self.source)

    def load(self) -> np.ndarray:
        """Return the whole array, cast to `dtype`.

        Raises:
            ValueError: If the array's shape is not `shape`.
        """
        return cast(self._array(), dtype_name(self.dtype))

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the array's bytes in C order, uint8, a few MiB at a time. An empty array gives one empty chunk.

        Raises:
            ValueError: If the array's shape is not `shape`.
        """
        flat = np.ascontiguousarray(self._array()).reshape(-1)
        for start in range(0, max(1, flat.size), _CHUNK):
            yield cast(flat[start : start + _CHUNK], dtype_name(self.dtype)).view(np.uint8)

    def _array(self) -> np.ndarray:
        array = self.source()
        if array.shape != self.shape:
            raise ValueError(f"{self.name!r} is declared as {self.shape}, but its array is {array.shape}")
        return array


def prefetched(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Iterator[np.ndarray]]]:
    """Yield each entry with its chunks, while a thread prepares the next chunk. Consume the chunks in order."""
    pieces = ((index, entry, chunk) for index, entry in enumerate(entries) for chunk in entry.chunks())
    for _, group in itertools.groupby(_prefetch(pieces), key=lambda piece: piece[0]):
        first = next(group)
        yield first[1], (chunk for _, _, chunk in itertools.chain([first], group))


def _prefetch(items: Iterator[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def check_unique(names: Iterable[str]) -> None:
    """Raise ValueError for the first name that occurs twice."""
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} occurs twice")
        seen.add(name)
