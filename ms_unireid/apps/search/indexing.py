"""Makes an index or brings it up to date: encodes new photos, and does not read unchanged ones again."""

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_unireid.apps.export.cache import CHECKED, open_checked_model
from ms_unireid.apps.search.index_writer import Batch, IndexWriter
from ms_unireid.apps.search.manifest import (
    DEFAULT_ENCODER,
    DTYPES,
    Photo,
    Skipped,
    Source,
    encoder_overrides,
    model_overrides,
    present_about,
)
from ms_unireid.apps.search.photo_facts import FACTS, photo_facts
from ms_unireid.apps.search.places import absolute, path_of, real
from ms_unireid.apps.search.ray_engine import Cluster, encode_on_ray
from ms_unireid.apps.search.scanning import Changes, Listing, New, find_changes, is_same
from ms_unireid.apps.search.shards import ALL, Shard, shard_of
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest, read_tensor_file
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.checkpoints.thresholds import model_facts
from ms_unireid.config import Config
from ms_unireid.data import pairs
from ms_unireid.data import pictures as picture_files
from ms_unireid.data.photo_sets import dataset_photos, describe_left_out, folder_photos
from ms_unireid.data.transforms import MEAN, STD
from ms_unireid.errors import ConfigError, DataError, UserError
from ms_unireid.files import status_of
from ms_unireid.installation import job_command

# Called with (step, done, total) during the work.
Progress = Callable[[str, int, int], None]
# Yields the batches of new photos in order, given the folders of their sources and the photos.
Encode = Callable[[Mapping[int, Path], Sequence[New]], Generator[Batch, None, None]]


@dataclass(frozen=True)
class IndexReport:
    """What an update did: numbers of photos, and the unreadable ones."""

    photos: int  # now in the index
    encoded: int  # new, or with new content
    kept: int  # unchanged
    copied: int  # content that the index had under another name
    removed: int  # gone, or with new content
    repaired: int  # features that were missing, and have been encoded again
    skipped: dict[str, str] = field(default_factory=dict)  # path to reason
    unreachable: dict[str, int] = field(default_factory=dict)  # folder to its photos, which stay in the index
    damaged: dict[str, str] = field(default_factory=dict)  # encoded all the same, a part may be wrong: path to reason
    left_out: tuple[str, ...] = ()  # files in the folders that are no pictures


def describe_model(checkpoint: Path, config: Config, dtype: str, shard: Shard = ALL) -> dict[str, Any]:
    """Describe how an index is made; its features are comparable with others only if all but the shard is the same."""
    made = f"{config.runtime.encoder} {config.runtime.precision}"
    return {
        "checkpoint": {"path": str(checkpoint.resolve()), "sha256": checkpoint_digest(checkpoint)},
        "model": model_facts(config),
        "preprocessing": {
            "filter": "PIL bilinear",
            "mean": MEAN.tolist(),
            "std": STD.tolist(),
            **({} if made == DEFAULT_ENCODER else {"encoder": made}),
        },
        "reader": picture_files.READER,
        "facts": FACTS,
        "dtype": dtype,
        "dim": config.model.sizes.embed_dim,
        **({"shard": str(shard)} if shard.of > 1 else {}),
    }


def photo_source(folder: str | Path) -> Source:
    """Make a source of a folder of photos, given by its path or URL."""
    return Source(absolute(folder))


def dataset_source(name: str, root: Path, split: str) -> Source:
    """Make a source of one split of one of `LISTED`."""
    return Source(os.path.abspath(dataset_photos(name, root).folder), name, split)


def build_index(
    folder: Path,
    sources: Sequence[Source] = (),
    checkpoint: Path | None = None,
    dtype: str | None = None,
    removed: Sequence[Path] = (),
    files: Sequence[Path] | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    shard: Shard | None = None,
    cluster: Cluster | None = None,
) -> IndexReport | None:
    """Make an index with a checkpoint, or bring one up to date; the processes of msrun or Ray's share the photos.

    Every process reads photos and checkpoint by the same paths. Only the first one lists folders and writes the index;
    the others of msrun return None.

    Args:
        folder: As in `update_index`.
        sources: As in `update_index`.
        checkpoint: The model's file; None takes the one that made the index.
        dtype: One of `DTYPES`; None keeps that of the index, and is float16 for a new one.
        removed: As in `update_index`.
        files: YAML files; None takes the config of the checkpoint.
        overrides: `section.key=value` strings.
        progress: As in `update_index`.
        shard: The share of the photos to index; None keeps that of the index, and takes all photos for a new one.
        cluster: The workers of Ray that encode; None encodes in this process.

    Raises:
        ConfigError: If a new index has no checkpoint or no photos, or the index has another shard.
        UserError: As `update_index`; or if the checkpoint cannot be used.
    """
    about = present = present_about(folder, can_make=checkpoint is not None and bool(sources))
    if about is not None:
        checkpoint = checkpoint or Path(about["checkpoint"]["path"])
        dtype = dtype or about["dtype"]
        overrides = [*model_overrides(about), *encoder_overrides(about), *overrides]
        own = shard_of(about["shard"]) if "shard" in about else ALL
        if shard not in (None, own):
            has = f"has shard {own}" if "shard" in about else "has the photos of all shards"
            raise ConfigError(f"{folder}: {has}, not {shard}; choose another --output")
        shard = own
    config = open_source(read_tensor_file(checkpoint)).config(overrides, files)
    describe = functools.partial(describe_model, checkpoint, config, dtype or DTYPES[0], shard or ALL)
    if cluster is not None:
        about = describe()
        encode = functools.partial(encode_on_ray, cluster, about["checkpoint"], config, folder)
    else:
        from ms_unireid.apps.search.encoding import encode_together, open_encoder  # they import MindSpore

        encoder = open_encoder(checkpoint, config)
        encode = functools.partial(encode_together, encoder, folder)
        if not encoder.processes.first:
            for _ in encode():
                pass
            return None
        about = describe()
    if config.runtime.encoder != "mindspore" and present is None:
        encode = functools.partial(_checked, encode, checkpoint, config)
    return update_index(folder, about, encode, sources, removed, progress)


def _checked(
    encode: Encode, checkpoint: Path, config: Config, folders: Mapping[int, Path], new: Sequence[New]
) -> Generator[Batch, None, None]:
    """Encode the photos of a new index, whose first ones are compared with MindSpore's features before."""
    open_checked_model(checkpoint, config, [folders[source] / name for source, name, _ in new[:CHECKED]])
    yield from encode(folders, new)


def update_index(
    folder: Path,
    about: dict[str, Any],
    encode: Encode,
    sources: Sequence[Source] = (),
    removed: Sequence[Path] = (),
    progress: Progress | None = None,
) -> IndexReport:
    """Make an index, or bring it up to date; each batch is on disk before the next one is encoded.

    Args:
        folder: The index.
        about: The result of `describe_model`.
        encode: Encodes the photos.
        sources: Folders or splits to add or to compare again; empty compares all sources of the index.
        removed: Folders to remove from the index.
        progress: Called during the work.

    Raises:
        DataError: If the index was made with another checkpoint, or a folder is missing or empty.
        ConfigError: If a folder is inside another one, or a folder to remove is not in the index.
        UserError: If the index cannot be written, or another process is changing it.
    """
    progress = progress or (lambda what, done, total: None)
    damaged: dict[str, str] = {}
    left_out: list[str] = []
    # Mistakes are found before any change.
    shard = shard_of(about["shard"]) if "shard" in about else ALL
    given = {source: _list_photos(source, left_out, shard) for source in _distinct(sources)}
    writer = IndexWriter(folder, about)
    try:
        kept, dropped, listings = _choose_sources(writer, given, removed, left_out, shard)
        folders = {number: path_of(source.folder) for number, source in kept.items()}
        known = photos = writer.manifest.photos()
        if writer.manifest.about().get("facts") != FACTS:
            photos = [_with_facts(photo, folders, listings) for photo in photos]
        if writer.manifest.about().get("reader") != picture_files.READER:
            photos = [_forget_if_read_otherwise(photo, folders, listings) for photo in photos]
        changes = find_changes(
            folders, listings, photos, writer.manifest.skipped(), lambda *counts: progress("compared", *counts)
        )
        with writer.manifest.transaction():
            writer.manifest.replace_skipped(changes.skipped)
            writer.manifest.set_about(left=len(changes.new))
        if dropped or not is_same(changes, known):
            writer.rearrange(changes.photos, changes.rows, dropped)  # one transaction: a source goes with its photos
        encoded = _encode_new(writer, folders, changes, encode, progress, damaged)
        if listings.keys() == folders.keys():
            with writer.manifest.transaction():
                writer.manifest.set_about(reader=picture_files.READER, facts=FACTS)
        skipped = {str(folders[one.source] / one.name): one.reason for one in writer.manifest.skipped()}
        return IndexReport(
            photos=writer.manifest.count(),
            encoded=encoded,
            kept=changes.kept,
            copied=changes.copied,
            removed=changes.removed,
            repaired=writer.repaired,
            skipped=skipped,
            unreachable=_unreachable({n: one for n, one in folders.items() if n not in listings}, photos),
            damaged=damaged,
            left_out=tuple(left_out),
        )
    finally:
        writer.close()


def _distinct(sources: Sequence[Source], known: Iterable[Source] = ()) -> list[Source]:
    """Name each folder in one way, as it is known or given first: links and other spellings lead to the same folder."""
    names = {real(source.folder): source.folder for source in [*reversed(sources), *known]}
    return list(dict.fromkeys(one._replace(folder=names[real(one.folder)]) for one in sources))


def _unreachable(folders: Mapping[int, Path], photos: Sequence[Photo]) -> dict[str, int]:
    """Return the folders of which no indexed photo can be found, with their numbers of photos."""
    names = {number: [photo.name for photo in photos if photo.source == number] for number in folders}
    return {
        str(folder): len(names[number])
        for number, folder in folders.items()
        if not (_is_there(folder) and any(_is_there(folder / name) for name in names[number]))
    }


def _is_there(path: Path) -> bool:
    try:
        return bool(status_of(path))
    except (OSError, UserError):
        return False


def _with_facts(photo: Photo, folders: Mapping[int, Path], listings: Mapping[int, Listing]) -> Photo:
    """Read the facts of a photo that is compared and has a name in its folder still."""
    if photo.name not in listings.get(photo.source, ()):
        return photo
    return photo._replace(**photo_facts(folders[photo.source] / photo.name, photo.name)._asdict())


def _forget_if_read_otherwise(photo: Photo, folders: Mapping[int, Path], listings: Mapping[int, Listing]) -> Photo:
    """Make a photo count as changed if an index of before `READER` read its file in another way."""
    if photo.source not in listings:
        return photo
    try:
        with picture_files.opened(folders[photo.source] / photo.name) as picture:
            if not picture_files.read_otherwise(picture):
                return photo
    except picture_files.DECODE_ERRORS:
        pass  # now refused, or gone
    return photo._replace(mtime_ns=-1, sha256=b"")


def _choose_sources(
    writer: IndexWriter, given: Mapping[Source, Listing], removed: Sequence[Path], left_out: list[str], shard: Shard
) -> tuple[dict[int, Source], list[int], dict[int, Listing]]:
    """Add new sources to the manifest.

    Returns:
        The sources to keep by number, the numbers to drop, and the listings of the sources to compare.
    """
    known = writer.manifest.sources()
    given = dict(zip(_distinct(list(given), known.values()), given.values(), strict=True))
    dropped = [number for folder in removed for number in _numbers_of(folder, known)]
    for number in dropped:
        if known[number] in given:
            raise ConfigError(f"{known[number].folder}: cannot be both added and removed; choose one")
    kept = {number: source for number, source in known.items() if number not in dropped}
    _check_not_nested([*kept.values(), *given])
    listings = given or {
        source: _list_known(writer, number, source, left_out, shard) for number, source in kept.items()
    }
    added = sum(len(listing) for source, listing in listings.items() if source not in known.values())
    left = writer.manifest.about()["left"] + added
    with writer.manifest.transaction():
        numbers = {source: writer.manifest.add_source(source) for source in listings}
        writer.manifest.set_about(left=left)
    kept = {number: source for number, source in writer.manifest.sources().items() if number not in dropped}
    return kept, dropped, {numbers[source]: listing for source, listing in listings.items()}


def _numbers_of(folder: Path, known: Mapping[int, Source]) -> list[int]:
    same = real(folder)
    found = [number for number, source in known.items() if real(source.folder) == same]
    if not found:
        present = ", ".join(source.folder for source in known.values()) or "none"
        raise ConfigError(f"--remove {folder}: the index has no such folder; it has {present}")
    return found


def _check_not_nested(sources: Sequence[Source]) -> None:
    folders = sorted({real(source.folder) for source in sources if not source.dataset})
    for outer in folders:
        for inner in folders:
            if inner.startswith(outer.rstrip(os.sep) + os.sep):
                raise ConfigError(f"{inner}: is inside {outer}, so its photos would be indexed twice; give one of them")


def _list_known(writer: IndexWriter, number: int, source: Source, left_out: list[str], shard: Shard) -> Listing:
    """List a folder of the index; an error names the way to forget it."""
    try:
        return _list_photos(source, left_out, shard)
    except DataError as error:
        count = sum(photo.source == number for photo in writer.manifest.photos())
        raise DataError(
            f"{error}. {count} photos of {source.folder} are in the index: if they are gone for good, forget them with "
            f"{forget_command(writer.folder, source.folder)}"
        ) from error


def forget_command(index: Path, folder: str) -> str:
    """Return the command that removes a folder from an index, for messages."""
    return f"{job_command('search')} index --output {index} --remove {folder}"


def _list_photos(source: Source, left_out: list[str], shard: Shard) -> Listing:
    folder = path_of(source.folder)
    if source.dataset:
        photos = dataset_photos(source.dataset, folder if source.dataset == pairs.NAME else folder.parent)
        listing = {name: str(photos.identities[name]) for name in photos.names if photos.splits[name] == source.split}
    else:
        photos = folder_photos(folder)
        listing = dict.fromkeys(photos.names)
    if not listing:
        others = describe_left_out(photos.left_out) or "check the path (is the disk mounted?)"
        raise DataError(f"{folder}: has no photos; {others}")
    left_out += (str(folder / name) for name in photos.left_out if shard.holds(name))
    return Listing({name: person for name, person in listing.items() if shard.holds(name)}, photos.states)


def _encode_new(
    writer: IndexWriter,
    folders: Mapping[int, Path],
    changes: Changes,
    encode: Encode,
    progress: Progress,
    damaged: dict[str, str],
) -> int:
    """Encode and store the new photos batch by batch; return their number. Damage inside them goes to `damaged`."""
    done = encoded = 0
    with contextlib.closing(encode(folders, changes.new)) as batches:
        for batch in batches:
            photos = [one for one in batch.found if isinstance(one, Photo)]
            writer.append(photos, batch.feats, [one for one in batch.found if isinstance(one, Skipped)])
            damaged |= batch.damaged
            done, encoded = done + len(batch.found), encoded + len(photos)
            progress("encoded", done, len(changes.new))
    return encoded
