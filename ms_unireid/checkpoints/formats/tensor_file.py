"""An opened file of tensors (`TensorFile`) and a tensor to write (`Entry`)."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.dtypes import FLOATS, cast, dtype_name, dtype_of
from ms_unireid.checkpoints.formats.mapped_file import InvalidFile, error_context, parse_json
from ms_unireid.data.findings import listed
from ms_unireid.errors import CheckpointError, escaped, shown
from ms_unireid.files import check_form

META = "ms_unireid"  # the key of the description (a checkpoint's `meta`) in files of ms_unireid
Scalar = bool | int | float | str | None
_CHUNK = 1 << 20  # elements; the allocator reuses a buffer of this size, but not a larger one


@dataclass(frozen=True)
class TensorFile:
    """An opened file, or a folder of shards.

    The tensors are read-only, and views of the memory-mapped file where possible. The keys of nested containers are
    joined by dots: "model.base_model.visual.proj".
    """

    path: Path
    format: str  # in words
    tensors: dict[str, np.ndarray]
    values: dict[str, Scalar] = field(default_factory=dict)  # numbers and strings among the tensors, such as "epoch"
    metadata: dict[str, str] = field(default_factory=dict)  # strings that the format stores apart from the tensors
    parts: tuple[Path, ...] = ()  # the files that were read

    def description(self) -> dict[str, Any]:
        """Return the description that ms_unireid stored in the file, with at least `config`; empty for other files.

        A damaged one raises a CheckpointError.
        """
        # MindSpore and safetensors files store it as metadata, PyTorch files among the tensors.
        text = self.metadata.get(META) or self.values.get(META)
        if text is None:
            return {}
        with error_context(self.path):
            meta = parse_json(str(text), "description")
            _check_description(meta)
        return meta


def _check_description(meta: dict[str, Any]) -> None:
    """Check what is read of a description; a config is checked in full where a model is made of it."""
    try:
        check_form(meta, {"config": {str: {}}, **_present(_DESCRIBED, meta)}, "its description")
        check_form(meta.get("source", {}), _present(_ORIGIN, meta.get("source", {})), "its source")
    except ValueError as error:
        raise InvalidFile(f"cannot be used: {error}; copy the file again or use another") from error


def _present(forms: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return {key: form for key, form in forms.items() if key in values}


_DESCRIBED = {"epoch": int, "done": int, "step": int, "loss_scale": {str: float}, "source": {}, "about": {}}
_ORIGIN = {
    "file": str,
    "known_as": (str, None),
    "sha256": [str],
    "missing": [str],
    "dtypes": {str: set(FLOATS)},
    "shapes": {str: [int]},
}


@dataclass(frozen=True)
class Entry:
    """A tensor to write. `source` makes its array when it is needed, so that memory holds one at a time."""

    name: str
    dtype: np.dtype  # one of those in `ms_unireid.checkpoints.formats.dtypes`
    shape: tuple[int, ...]
    source: Callable[[], np.ndarray]  # returns an array of this shape and of any of those types

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
            found = f"{path}: {escaped(self.name)} is {dtype_name(self.dtype)}"
            raise CheckpointError(f"{found}; expected floating-point weights, not quantised weights")
        return Entry(self.name, dtype_of("float32"), self.shape, self.source)

    def load(self) -> np.ndarray:
        """Return the whole array, cast to `dtype`; InvalidFile if a finite value becomes infinite."""
        return self._cast(self._array())

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the bytes of `load` in C order, uint8, a few MiB at a time. An empty array gives one empty chunk."""
        flat = np.ascontiguousarray(self._array()).reshape(-1)
        for start in range(0, max(1, flat.size), _CHUNK):
            yield self._cast(flat[start : start + _CHUNK]).view(np.uint8)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        name = dtype_name(self.dtype)
        with np.errstate(over="ignore"):
            found = cast(array, name)
        if found.itemsize < array.itemsize and np.isinf(cast(found, "float32")).sum() > np.isinf(array).sum():
            raise InvalidFile(f"has a value in {shown(self.name)} that is too large for {name}; choose float32")
        return found

    def _array(self) -> np.ndarray:
        array = self.source()
        if array.shape != self.shape:
            raise ValueError(f"{shown(self.name)} is declared as {self.shape}, but its array is {array.shape}")
        return array


def check_finite(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Raise CheckpointError, with counts, if a value in a named floating-point array is NaN or infinite."""
    broken = [
        f"{shown(name)}: {int(np.isnan(array).sum()):,} NaN, {int(np.isinf(array).sum()):,} infinite"
        for name, array in arrays
        if array.size and not (np.isfinite(array.max()) and np.isfinite(array.min()))
    ]
    if broken:
        raise CheckpointError(
            f"{path}: has values that are not finite in {len(broken)} tensors ({listed(broken, separator='; ')}); the "
            "training that wrote it failed, use an earlier checkpoint"
        )


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
