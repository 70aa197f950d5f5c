"""What a file of tensors holds once it is open, and what a writer of one is given."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import cast, name_of

Scalar = bool | int | float | str | None
_CHUNK = 1 << 20  # elements; a buffer of this size is used again and again, a larger one is fetched anew each time


@dataclass(frozen=True)
class TensorFile:
    """An opened file, or a folder of shards.

    Attributes:
        path: Where it is.
        format: Which kind of file, in words.
        tensors: Name to read-only array; a view of the memory-mapped file wherever its bytes allow one. Nested
            containers are flattened, their keys joined by dots: "model.base_model.visual.proj".
        values: Numbers and strings beside the tensors by the same names, such as "epoch".
        metadata: Strings that the format keeps apart from the tensors.
        parts: The files it consists of.
    """

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    values: dict[str, Scalar] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A tensor to be written; its array is made when its turn comes, so that one at a time is in memory.

    Attributes:
        name: Its name in the file.
        dtype: A type that `ms_unireid.checkpoints.formats.dtypes` names.
        shape: Its shape.
        source: Returns the array, of that shape and of any of those types.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    source: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "Entry":
        """Wrap an array that is at hand."""
        return cls(name, array.dtype, array.shape, lambda: array)

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def load(self) -> np.ndarray:
        """Return the whole array, in the entry's type.

        Raises:
            ValueError: If it has not the declared shape.
        """
        return cast(self._array(), name_of(self.dtype))

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the array's bytes in C order, uint8, a few MiB at a time; one empty chunk for an empty array.

        Raises:
            ValueError: If it has not the declared shape.
        """
        flat = np.ascontiguousarray(self._array()).reshape(-1)
        for start in range(0, max(1, flat.size), _CHUNK):
            yield cast(flat[start : start + _CHUNK], name_of(self.dtype)).view(np.uint8)

    def _array(self) -> np.ndarray:
        array = self.source()
        if array.shape != self.shape:
            raise ValueError(f"{self.name!r} is declared as {self.shape}, its array is {array.shape}")
        return array


def contents(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Iterator[np.ndarray]]]:
    """Yield each entry with its chunks, to be used up before the next; a thread prepares one chunk ahead."""
    pieces = ((index, entry, chunk) for index, entry in enumerate(entries) for chunk in entry.chunks())
    for _, group in itertools.groupby(_one_ahead(pieces), key=lambda piece: piece[0]):
        first = next(group)
        yield first[1], (chunk for _, _, chunk in itertools.chain([first], group))


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are given twice.

    Raises:
        ValueError: Naming the first of them.
    """
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} is given twice")
        seen.add(name)
