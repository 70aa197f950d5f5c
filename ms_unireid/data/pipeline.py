"""Batches through `mindspore.dataset`: worker threads decode, augment and prefetch them, in a fixed order."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mindspore.dataset as ds
import numpy as np

from ms_unireid.config import RuntimeConfig
from ms_unireid.data.annotations import Pair
from ms_unireid.data.transforms import PixelLoader, TrainTransform, load_pixels
from ms_unireid.errors import UserError
from ms_unireid.runtime import ALONE, Processes


class TrainingSource:
    """The batches of one epoch (1-based) by index, independent of the worker that makes them and of the time.

    `batches` holds indices of `pairs`: `epoch_batches`, or this process's `shard` of them; `token_ids`, int32 (pairs,
    L), are those of each pair's caption. Seed, epoch and the pair's index decide the augmentation, not the number of
    processes. `load` returns a picture's pixels at the transform's size; None decodes the file. `extras`, arrays with a
    row for each pair, come last in a batch. Of several pictures of a modality one is drawn each time; the photo stands
    in for a missing one.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batches: Sequence[np.ndarray],
        transform: TrainTransform,
        token_ids: np.ndarray,
        seed: int,
        epoch: int,
        processes: Processes = ALONE,
        load: PixelLoader | None = None,
        extras: Mapping[str, np.ndarray] = MappingProxyType({}),
    ):
        self.count = 1 + len(pairs[0].pictures)  # pictures of a pair
        names = (f"pictures_{place}" for place in range(self.count))
        self.columns = (*names, "token_ids", *extras)
        self.pairs, self.batches = pairs, batches
        self.transform, self.token_ids, self.extras = transform, token_ids, extras
        self.seed, self.epoch, self.processes = seed, epoch, processes
        self.load = load or functools.partial(load_pixels, image_size=transform.image_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Return photos and other pictures, uint8 (B, 4, H, W): see `normalize`; and token ids, int32 (B, L)."""
        batch = self.batches[index]
        pictures = [np.zeros((len(batch), 4, *self.transform.image_size), np.uint8) for _ in range(self.count)]
        for place, out in enumerate(zip(*pictures, strict=True)):
            self._pictures(batch, place, out)
        return *pictures, self.token_ids[batch], *(of[batch] for of in self.extras.values())

    def drawn(self, batch: np.ndarray, place: int) -> tuple[list[Path], np.random.Generator]:
        """Return the pictures of a pair of a batch, the photo first, and what decides their augmentation."""
        number = int(batch[place])
        pair = self.pairs[number]
        # The place in the global batch tells repeats of one pair apart, which the `identity` sampler may draw.
        rng = np.random.default_rng((self.seed, self.epoch, number, self.processes.rank * len(batch) + place))
        given = [one or (pair.photo,) for one in pair.pictures]
        return [pair.photo, *(one[0] if len(one) == 1 else one[rng.integers(len(one))] for one in given)], rng

    def _pictures(self, batch: np.ndarray, place: int, out: Sequence[np.ndarray]) -> None:
        paths, rng = self.drawn(batch, place)
        self.transform([self.load(path) for path in paths], rng, out)


class PictureSource:
    """Batches of pictures for evaluation by index; the first picture of the last batch fills it up.

    `load` returns a picture's pixels at `image_size`; None decodes the file.
    """

    columns = ("pictures",)

    def __init__(
        self, paths: Sequence[Path], batch_size: int, image_size: tuple[int, int], load: PixelLoader | None = None
    ):
        self.paths, self.batch_size, self.image_size = paths, batch_size, image_size
        self.load = load or functools.partial(load_pixels, image_size=image_size)

    def __len__(self) -> int:
        return -(-len(self.paths) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        """Return uint8 (batch_size, 3, H, W)."""
        start = int(index) * self.batch_size
        paths = self.paths[start : start + self.batch_size]
        pictures = np.empty((self.batch_size, 3, *self.image_size), np.uint8)
        for path, out in zip(paths, pictures, strict=False):
            out[...] = self.load(path).transpose(2, 0, 1)
        pictures[len(paths) :] = pictures[0]
        return (pictures,)


class _Guarded:
    """Keeps a worker's error, which `mindspore.dataset` would hide in a long message."""

    def __init__(self, source: Any):
        self.source = source
        self.error: UserError | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.source[index]
        except UserError as error:
            self.error = error
            raise


def iterate(source: TrainingSource | PictureSource, runtime: RuntimeConfig) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield a source's batches in order while worker threads prepare the next; a damaged picture is a DataError."""
    guarded = _Guarded(source)
    ds.config.set_prefetch_size(runtime.prefetch)
    # MindSpore refuses more workers than the machine has cores.
    workers = max(1, min(runtime.workers, len(source), os.cpu_count() or 1))
    dataset = ds.GeneratorDataset(
        guarded, list(source.columns), shuffle=False, num_parallel_workers=workers, python_multiprocessing=False
    )
    try:
        with _sigterm_held_back():
            batches = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False)
            first = next(batches)
        yield first
        yield from batches
    except RuntimeError:
        if guarded.error is not None:
            raise guarded.error from None
        raise


@contextlib.contextmanager
def _sigterm_held_back() -> Iterator[None]:
    """Block SIGTERM within a `with` block, then restore Python's handler.

    The first batch of every iterator installs MindSpore's own handler, which ends the process with code 0 and saves
    nothing.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
