"""What a file of tensors holds once it is open, and what a writer of one is given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Scalar = bool | int | float | str | None


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
        dtype: A type that `ms_unireid.conversion.dtypes` names.
        shape: Its shape.
        load: Returns the array, of exactly that type and shape.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "Entry":
        """Wrap an array that is at hand."""
        return cls(name, array.dtype, array.shape, lambda: array)

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def tensor_bytes(entry: Entry) -> np.ndarray:
    """Load an entry and return its elements' bytes in C order, (nbytes,) uint8.

    Raises:
        ValueError: If the array has not the type and shape that the entry declares.
    """
    array = entry.load()
    if array.dtype != entry.dtype or array.shape != entry.shape:
        raise ValueError(
            f"{entry.name!r} is declared as {entry.dtype} {entry.shape}, its array is {array.dtype} {array.shape}"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


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
