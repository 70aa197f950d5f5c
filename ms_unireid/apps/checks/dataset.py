"""Verify a data set: find everything that is wrong with it, down to damage inside a picture, and how to fix it.

Pillow decodes a JPEG with damage in its middle without a warning (all of 560 PKU-Sketch photos with 512 bytes zeroed).
So libjpeg-turbo decodes JPEGs here, with its warnings as errors; it finds 506 of the 560, and the others decode to the
same number of blocks. The decoders release Python's lock, so threads are as fast as processes.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_unireid.apps.checks.dataset_layout import KINDS, locate, packed
from ms_unireid.apps.checks.dataset_report import CountRow, Report
from ms_unireid.apps.checks.dataset_scan import ListedPicture, Scan, scan_data_set
from ms_unireid.apps.checks.orbench_scan import scan_orbench
from ms_unireid.apps.checks.pairs_scan import scan_pairs
from ms_unireid.data import orbench, pairs, tri_pedes
from ms_unireid.data.findings import DataFinding, count_defects, finding
from ms_unireid.data.pictures import (
    DECODE_ERRORS,
    MAX_BYTES,
    decode_picture,
    describe,
    jpeg_grey,
    looks_whole,
    opened_file,
    read_otherwise,
)
from ms_unireid.data.published import ALL, PUBLISHED
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.errors import DataError, EnvironmentProblem, escaped
from ms_unireid.files import open_regular
from ms_unireid.installation import INSTALL_CORE

_COPY = "copy these files again from the data set's archive; a broken download or a full disk may have damaged them"
# Why a picture is not read as the authors read it, and what to do.
_ODDITIES = {
    "an orientation tag": "nothing, if they are to be upright; or store them upright, without the tag",
    "transparency": "nothing, if they are to be on white; or store them on their background",
    "more than 8 bits": "look at some of them; better store them with 8 bits",
    "one value throughout": "look at them, and copy or draw them again: a model learns nothing from them",
}
_TOO_LONG = "leave them, or train with data.long_captions=split or stretch, which read more of them"
_CHUNK, _MOST_THREADS = 64, 32


@dataclass(frozen=True)
class _CheckedPicture:
    """The result for one picture: whether it can be read, its defect in words, a digest of its bytes, and `_ODDITIES`.

    The defect is empty if none was found, the digest if the bytes were not read.
    """

    readable: bool = True
    defect: str = ""
    digest: bytes = b""
    oddities: tuple[str, ...] = ()


def verify(
    dataset: str,
    root: Path,
    captions: Path | None = None,
    workers: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Verify a data set; report all findings, and its counts next to those of the published data set.

    Args:
        dataset: A key of `KINDS`.
        root: The data set's folder, or the one that contains it.
        captions: File with captions by person, for the two sketch data sets; the file of a collection, for `pairs`.
        workers: Threads that decode pictures; None means two for each core.
        quick: Check only the ends of pictures, and look for no duplicates.
        progress: Called with the number of pictures done and in total.

    Raises:
        DataError: If an argument is wrong or a folder cannot be listed.
    """
    if dataset not in KINDS:
        raise DataError(f"unknown data set {dataset!r}. Fix: use one of {', '.join(KINDS)}.")
    if captions is not None and dataset in (*tri_pedes.DATASETS, orbench.NAME):
        raise DataError(f"{dataset} has its own caption file. Fix: leave --captions out.")
    if workers is not None and workers < 1:
        raise DataError(f"{workers} workers, expected at least 1. Fix: give at least one.")
    folder, findings = locate(dataset, root)
    if folder is None:
        return Report(dataset, None, tuple(findings))
    scan = _scan(dataset, folder, captions)
    begin = time.monotonic()
    checked = check_all([picture.path for picture in scan.pictures], workers, quick, progress)
    seconds = time.monotonic() - begin
    counts = _count_rows(dataset, scan.counts)
    findings += [_examine_counts(counts), *scan.findings, *_examine_captions(scan.captions)]
    findings += _examine_pictures(checked, quick)
    findings += _examine_duplicates(folder, scan.pictures, checked, quick)
    if any(found.state == "problem" for found in findings):
        findings += packed(folder)
    parts = tuple(findings), counts, tuple(scan.folders)
    return Report(dataset, folder, *parts, len(checked), quick, seconds, tuple(scan.conditions))


def _scan(dataset: str, folder: Path, captions: Path | None) -> Scan:
    if dataset == pairs.NAME:
        return scan_pairs(folder, captions)
    return scan_orbench(folder) if dataset == orbench.NAME else scan_data_set(dataset, folder, captions)


def _examine_captions(captions: Iterable[tuple[int, str]]) -> list[DataFinding]:
    persons: dict[str, set[int]] = {}
    rows = list(captions)
    for person, caption in rows:
        persons.setdefault(caption, set()).add(person)
    if not rows:
        return []
    shared = [caption for caption, owners in persons.items() if len(owners) > 1]
    found = [_examine_lengths([caption for _, caption in rows])]
    if shared:  # the published data sets have some
        detail = f"captions shared by several persons: {len(shared):,}; this is not a problem"
        found.append(finding("captions", "ok", detail, "", [repr(caption[:60]) for caption in shared]))
    return found


def _examine_lengths(texts: list[str]) -> DataFinding:
    tokenizer = Tokenizer()
    lengths = tokenizer.lengths(texts)
    long = [text for text, length in zip(texts, lengths, strict=True) if length > tokenizer.context_length]
    detail = f"{len(texts):,} captions, the longest has {max(lengths)} tokens"
    if not long:
        return DataFinding("captions", "ok", detail)
    detail += f"; {len(long)} are longer than {tokenizer.context_length} and are cut"
    return finding("captions", "warning", detail, "", [repr(text[:60]) for text in long], _TOO_LONG)


def _count_rows(dataset: str, counts: Mapping[tuple[str, str], int]) -> tuple[CountRow, ...]:
    published = {(split, what): n for split, row in PUBLISHED.get(dataset, {}).items() for what, n in row.items()}
    keys = [*published, *(key for key in counts if key not in published)]
    splits = [split for split in ("train", "val", "test", ALL) if any(key[0] == split for key in keys)]
    keys.sort(key=lambda key: splits.index(key[0]))
    return tuple(CountRow(*key, counts.get(key, 0), published.get(key)) for key in keys)


def _examine_counts(rows: Sequence[CountRow]) -> DataFinding:
    known = [row for row in rows if row.published is not None]
    fewer = [row for row in known if row.found < row.published]
    more = [f"{row.split} {row.what} {row.found:,} of {row.published:,}" for row in known if row.found > row.published]
    if more:
        fix = "find out which version of the data set this is; it is not the published one"
        return finding("counts", "warning", f"more than published: {len(more)} counts", "", more, fix)
    if not fewer:
        return DataFinding("counts", "ok", "as published" if known else "there are no published ones")
    parts = ", ".join(f"{row.found:,} of {row.published:,} {row.what}" for row in fewer if row.split == ALL)
    fix = "nothing, if you want only a part; results on it are not comparable with published ones"
    return DataFinding("counts", "warning", f"a part of the data set: {parts or 'see the table'}", fix)


def _examine_pictures(checked: Mapping[Path, _CheckedPicture], quick: bool) -> Iterator[DataFinding]:
    unreadable = [f"{path} ({found.defect})" for path, found in checked.items() if not found.readable]
    damaged = [f"{path} ({found.defect})" for path, found in checked.items() if found.readable and found.defect]
    odd = {name: [path for path, found in checked.items() if name in found.oddities] for name in _ODDITIES}
    yield from count_defects(
        "pictures",
        "",
        ("problem", unreadable, "pictures that cannot be read", _COPY),
        ("warning", damaged, "pictures with damage inside; a part of them may be decoded wrongly", _COPY),
        *(("warning", odd[name], f"pictures with {name}", fix) for name, fix in _ODDITIES.items()),
    )
    if checked and not unreadable and not damaged:
        how = "have a correct beginning and end" if quick else "decode to their last pixel"
        yield DataFinding("pictures", "ok", f"all {len(checked):,} {how}")


def _examine_duplicates(
    folder: Path, pictures: Sequence[ListedPicture], checked: Mapping[Path, _CheckedPicture], quick: bool
) -> Iterator[DataFinding]:
    if quick:
        yield DataFinding("duplicates", "warning", "not checked with --quick", "leave out --quick")
        return
    by_name = {picture.path.relative_to(folder).as_posix(): picture for picture in pictures}
    groups = _group_same_bytes({name: checked[picture.path].digest for name, picture in by_name.items()})
    kinds = [{by_name[name].kind for name in group} for group in groups]
    mixed = [group for group, of in zip(groups, kinds, strict=True) if len(of) > 1]
    fix = "draw or unpack the sketches again: these are photos"
    check = ("problem", _pairs(mixed), "groups of photos and sketches with the same bytes", fix)
    yield from count_defects("duplicates", folder, check)
    looked_at = {picture.kind for picture in pictures if checked[picture.path].digest}
    for kind in sorted(looked_at):
        alike = [group for group, of in zip(groups, kinds, strict=True) if of == {kind}]
        yield _examine_alike(folder, kind, alike, by_name)


def _examine_alike(
    folder: Path, kind: str, groups: list[list[str]], by_name: Mapping[str, ListedPicture]
) -> DataFinding:
    kinds = {"photo": "photos", "sketch": "sketches"}.get(kind, f"{kind} pictures")
    if not groups:
        return DataFinding("duplicates", "ok", f"no {kinds} with the same bytes")
    splits = [len({by_name[name].split for name in group}) for group in groups]
    persons = [len({by_name[name].person for name in group}) for group in groups]
    detail = (
        f"{sum(map(len, groups)):,} {kinds} in {len(groups):,} groups with the same bytes; groups across splits: "
        f"{sum(n > 1 for n in splits):,}, across persons: {sum(n > 1 for n in persons):,}"
    )
    rated = sorted(zip(splits, persons, groups, strict=True), key=lambda item: item[:2], reverse=True)
    worst = [group for split_count, person_count, group in rated if split_count > 1 or person_count > 1]
    if not worst:
        return finding("duplicates", "ok", detail, folder, _pairs(groups))
    fix = "ask the data set's authors which is right; a model cannot distinguish such pictures"
    return finding("duplicates", "warning", detail, folder, _pairs(worst), fix)


def _pairs(groups: Sequence[Sequence[str]]) -> list[str]:
    return [" = ".join(group[:3]) for group in groups]


def check_all(
    paths: Sequence[Path],
    workers: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Path, _CheckedPicture]:
    """Check pictures, with two threads for each core unless `workers` says otherwise; `quick` checks only the ends.

    Raises:
        EnvironmentProblem: If the JPEG decoder is not installed and not `quick`.
    """
    if not quick and importlib.util.find_spec("simplejpeg") is None:
        raise EnvironmentProblem(f"simplejpeg is not installed; install it with: {INSTALL_CORE}")
    unique = list(dict.fromkeys(paths))
    found: dict[Path, _CheckedPicture] = {}
    # Closed first, the results cancel what an interruption leaves; the pool alone would wait for all of it.
    with (
        ThreadPoolExecutor(workers or min(2 * (os.cpu_count() or 1), _MOST_THREADS)) as pool,
        contextlib.closing(
            pool.map(lambda part: [(path, _check(path, quick)) for path in part], _chunks(unique))
        ) as chunks,
    ):
        for chunk in chunks:
            found.update(chunk)
            progress(len(found), len(unique))
    return found


def _group_same_bytes(digests: Mapping[str, bytes]) -> list[list[str]]:
    """Return the groups of two names or more with the same digest, in the order of their first names."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for name, digest in digests.items():
        if digest:
            groups[digest].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _chunks(paths: list[Path]) -> Iterator[list[Path]]:
    return (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))


def _check(path: Path, quick: bool) -> _CheckedPicture:
    try:
        if quick and looks_whole(path):
            return _CheckedPicture()
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        with opened_file(io.BytesIO(data)) as picture:
            oddities = read_otherwise(picture)
        pixels, defect = _decode(data)
        if pixels.min() == pixels.max():
            oddities.append("one value throughout")
        digest = b"" if quick else hashlib.blake2b(data, digest_size=16).digest()
        return _CheckedPicture(defect=defect, digest=digest, oddities=tuple(oddities))
    except DECODE_ERRORS as error:
        return _CheckedPicture(False, describe(error))


def _decode(data: bytes) -> tuple[np.ndarray, str]:
    """Return grey pixels, and the damage inside a JPEG; empty if there is none."""
    try:
        pixels, defect = jpeg_grey(data), ""
    except ValueError as error:
        pixels, defect = None, escaped(str(error))
    return np.asarray(decode_picture(io.BytesIO(data)).convert("L")) if pixels is None else pixels, defect
