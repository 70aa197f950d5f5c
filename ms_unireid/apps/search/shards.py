"""Shares of the photos for separate jobs, and the merging of their indexes into one."""

import contextlib
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_unireid.apps.search.index_writer import IndexWriter
from ms_unireid.apps.search.manifest import Manifest, Photo, Skipped, Source, read_features
from ms_unireid.errors import ConfigError, DataError, shown
from ms_unireid.files import replacing_folder
from ms_unireid.installation import job_command

_AT_ONCE = 1 << 14  # photos
_MADE_HERE = ("id", "file", "changes", "left", "shard")  # what `about` tells of one index, not of its features


class Shard(NamedTuple):
    """One of `of` equal shares of the photos; a photo's name decides, so that it stays in its share."""

    number: int = 1  # from 1
    of: int = 1

    def holds(self, name: str) -> bool:
        """Whether a photo belongs to it."""
        return zlib.crc32(name.encode(errors="surrogateescape")) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


ALL = Shard()


def shard_of(text: str) -> Shard:
    """Read a shard as 2/8; ConfigError if it is none."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text) if isinstance(text, str) else None
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {shown(text)}: expected a number and how many there are, as 1/8 to 8/8")
    return Shard(int(match[1]), int(match[2]))


def merge_indexes(
    folders: Sequence[Path], output: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Make one index of several, such as those of all shards, without encoding a photo.

    The rows are those that one run over all folders would have made. A photo that is in several indexes is taken once;
    so is one content (SHA-256) in several folders, where the first folder counts. Copies inside one folder stay, as in
    every index. All features are held in memory, as for a search.

    Args:
        folders: The indexes.
        output: Folder of the new index.
        progress: Called with (done, total) photos.

    Returns:
        Numbers of photos, doubles that were left out, skipped photos, and photos that are left to encode.

    Raises:
        ConfigError: If `output` exists, or a shard is missing.
        DataError: If an index is damaged, or their features cannot be compared.
        UserError: If the new index cannot be written; then there is none.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: exists, and a merged index is a new one; remove it, or choose another --output")
    parts = [_read(folder) for folder in folders]
    _check_comparable(parts)
    _check_shards(parts)
    numbers: dict[Source, int] = {}
    for part in parts:
        for source in part.sources.values():
            numbers.setdefault(source, len(numbers) + 1)
    chosen, doubles = _choose(parts, numbers)
    indexed = {(photo.source, photo.name) for photo, *_ in chosen}
    skipped = [one._replace(source=numbers[part.sources[one.source]]) for part in parts for one in part.skipped]
    skipped = list({(one.source, one.name): one for one in skipped}.values())
    skipped = [one for one in skipped if (one.source, one.name) not in indexed]
    about = {key: value for key, value in parts[0].about.items() if key not in _MADE_HERE}
    left = sum(part.about["left"] for part in parts)
    with replacing_folder(output) as fresh, contextlib.closing(IndexWriter(fresh, about)) as writer:
        with writer.manifest.transaction():
            for source in numbers:
                writer.manifest.add_source(source)
            writer.manifest.add_skipped(skipped)
        for start in range(0, len(chosen), _AT_ONCE):
            block = chosen[start : start + _AT_ONCE]
            writer.append([photo for photo, *_ in block], _gather(parts, block))
            if progress:
                progress(start + len(block), len(chosen))
        with writer.manifest.transaction():
            writer.manifest.set_about(left=left)
    return {"photos": len(chosen), "doubles": doubles, "skipped": len(skipped), "left": left}


class _Part(NamedTuple):
    """What an index has."""

    folder: Path
    about: dict[str, Any]
    sources: dict[int, Source]
    photos: list[Photo]
    skipped: list[Skipped]
    features: np.ndarray


_Chosen = tuple[Photo, int, int]  # with its number in the new index; the part, and the row in it


def _read(folder: Path) -> _Part:
    manifest = Manifest(folder)
    with contextlib.closing(manifest), manifest.transaction(write=False):
        about = manifest.about()
        features = read_features(folder, about, manifest.count())
        manifest.named_features(features)  # damage gets no new checksum
        return _Part(folder, about, manifest.sources(), manifest.photos(), manifest.skipped(), features)


def _check_comparable(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts:
        if part.about["checkpoint"]["sha256"] != first.about["checkpoint"]["sha256"]:
            raise DataError(
                f"{part.folder}: was made with another checkpoint ({part.about['checkpoint']['path']}) than "
                f"{first.folder} ({first.about['checkpoint']['path']}), and their features cannot be compared"
            )
        for key in ("model", "preprocessing", "dtype", "dim"):
            if part.about[key] != first.about[key]:
                raise DataError(
                    f"{part.folder}: was made with {key} {part.about[key]}, {first.folder} with {first.about[key]}; "
                    "make one of them anew"
                )
        for key in ("reader", "facts"):
            if part.about.get(key) != first.about.get(key) or key not in part.about:
                raise DataError(
                    f"{part.folder}: an earlier version made it; bring it up to date with "
                    f"{job_command('search')} index --output {part.folder}"
                )


def _check_shards(parts: Sequence[_Part]) -> None:
    """Check that no shard is missing, without which photos would be missing silently."""
    shards = {shard_of(part.about["shard"]): part.folder for part in parts if "shard" in part.about}
    for shard, folder in shards.items():
        wanted = [Shard(number, shard.of) for number in range(1, shard.of + 1)]
        if missing := [str(one) for one in wanted if one not in shards]:
            raise ConfigError(f"{folder}: is shard {shard}, and {missing[0]} is missing; give all {shard.of} shards")


def _choose(parts: Sequence[_Part], numbers: dict[Source, int]) -> tuple[list[_Chosen], int]:
    """Return the photos of the new index in its order, and how many doubles were left out."""
    found: dict[tuple[int, str], _Chosen] = {}
    for place, part in enumerate(parts):
        for row, photo in enumerate(part.photos):
            one = photo._replace(source=numbers[part.sources[photo.source]])
            known = found.get((one.source, one.name))
            if known is None or known[0].mtime_ns < one.mtime_ns:  # a photo that changed meanwhile: the newer one
                found[one.source, one.name] = one, place, row
    ordered = sorted(found.values(), key=lambda one: (one[0].source, one[0].name))
    first_source: dict[bytes, int] = {}
    chosen = [one for one in ordered if first_source.setdefault(one[0].sha256, one[0].source) == one[0].source]
    return chosen, sum(len(part.photos) for part in parts) - len(chosen)


def _gather(parts: Sequence[_Part], block: Sequence[_Chosen]) -> np.ndarray:
    """Return the features of photos (N, D), bits unchanged."""
    feats = np.empty((len(block), parts[0].about["dim"]), parts[0].about["dtype"])
    places, rows = np.array([one[1] for one in block]), np.array([one[2] for one in block])
    for place in np.unique(places):
        feats[places == place] = parts[place].features[rows[places == place]]
    return feats
