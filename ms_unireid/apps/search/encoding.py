"""Encodes new photos batch by batch: in this process, or in turns with the other processes of msrun."""

import io
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ms_unireid.apps.export.cache import open_exported_model, plain_config
from ms_unireid.apps.search.index_writer import Batch
from ms_unireid.apps.search.manifest import Photo, Skipped
from ms_unireid.apps.search.photo_facts import photo_facts
from ms_unireid.apps.search.scanning import New
from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.config import Config
from ms_unireid.data import pictures as picture_files
from ms_unireid.data.pipeline import iterate
from ms_unireid.data.transforms import resize
from ms_unireid.distributed import broadcast_value, start
from ms_unireid.errors import DataError, escaped
from ms_unireid.evaluation.encoder import Encoder
from ms_unireid.evaluation.similarity import normalize_rows
from ms_unireid.files import open_regular, sha256, status_of
from ms_unireid.runtime import prepare


def open_encoder(checkpoint: Path, config: Config) -> Encoder:
    """Open the model of a checkpoint, in every process of msrun."""
    exported = config.runtime.encoder != "mindspore"
    prepare((plain_config(config) if exported else config).runtime)
    processes = start()  # msrun's scheduler stays there, without the weights
    model = open_exported_model(checkpoint, config) if exported else read_checkpoint(checkpoint).build(config)
    return Encoder(model, config, processes=processes)


def encode_together(
    encoder: Encoder, index: Path, folders: Mapping[int, Path] = MappingProxyType({}), new: Sequence[New] = ()
) -> Generator[Batch, None, None]:
    """Yield all batches in order in every process; the processes take turns to encode them.

    The first process names the photos. Each batch equals that of a single process.
    """
    processes, size = encoder.processes, encoder.config.eval.batch_size
    folders, new = broadcast_value((dict(folders), new), 0, processes)
    batches = [new[first : first + size] for first in range(0, len(new), size)]
    own = encode_batches(encoder, index, folders, batches[processes.rank :: processes.size])
    for first in range(0, len(batches), processes.size):
        batch = next(own, None)
        for source in range(min(processes.size, len(batches) - first)):
            yield broadcast_value(batch, source, processes)


def encode_batches(
    encoder: Encoder, index: Path, folders: Mapping[int, Path], batches: Sequence[Sequence[New]]
) -> Generator[Batch, None, None]:
    """Yield batches of new photos, encoded, while threads read the next ones.

    DataError, which names the index, if the features are not finite.
    """
    config = encoder.config
    photos = NewPhotos(folders, batches, config.eval.batch_size, config.model.image_size)
    for number, (pictures,) in enumerate(iterate(photos, config.runtime) if batches else ()):
        found = photos.found.pop(number)
        good = [place for place, one in enumerate(found) if isinstance(one, Photo)]
        feats = _features(encoder, pictures, index)[good] if good else np.empty(0)
        yield Batch(found, feats, photos.damaged.pop(number))


def _features(encoder: Encoder, pictures: np.ndarray, index: Path) -> np.ndarray:
    try:
        return normalize_rows(encoder.pixels(pictures))
    except ValueError as error:
        raise DataError(f"{index}: nothing was added ({error}); use another checkpoint") from error


class NewPhotos:
    """Random access to batches of new photos; each file is read once, hashed and decoded.

    Attributes:
        found: Batch number to a `Photo` or `Skipped` for each of its files.
        damaged: Batch number to the damage inside those of its files that are encoded all the same, by file.
    """

    columns = ("pictures",)

    def __init__(
        self,
        folders: Mapping[int, Path],
        batches: Sequence[Sequence[New]],
        batch_size: int,
        image_size: tuple[int, int],
    ):
        self.folders, self.batches = folders, batches
        self.batch_size, self.image_size = batch_size, image_size
        self.found: dict[int, list[Photo | Skipped]] = {}
        self.damaged: dict[int, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        """Return (batch_size, 3, H, W) uint8; zeros for unreadable photos and after the last one."""
        index = int(index)
        pictures = np.zeros((self.batch_size, 3, *self.image_size), np.uint8)
        damaged = self.damaged[index] = {}
        self.found[index] = [
            self._read(*one, pictures[place], damaged) for place, one in enumerate(self.batches[index])
        ]
        return (pictures,)

    def _read(
        self, source: int, name: str, person: str | None, target: np.ndarray, damaged: dict[str, str]
    ) -> Photo | Skipped:
        size = changed = 0
        try:
            with open_regular(self.folders[source] / name) as file:
                size, changed = status_of(file)
                content = file.read(picture_files.MAX_BYTES + 1)
            picture = picture_files.decode_picture(io.BytesIO(content))
            target[...] = resize(picture, self.image_size).transpose(2, 0, 1)
        except picture_files.DECODE_ERRORS as error:
            return Skipped(source, name, size, changed, picture_files.describe(error))
        try:
            picture_files.jpeg_grey(content)
        except ValueError as error:
            damaged[str(self.folders[source] / name)] = escaped(str(error))
        digest, facts = bytes.fromhex(sha256(io.BytesIO(content))), photo_facts(io.BytesIO(content), name)
        return Photo(source, name, size, changed, digest, person, *facts)
