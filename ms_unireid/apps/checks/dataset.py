"""Look at everything that can be wrong with a data set, and say what it is and how to mend it.

A loader stops at the first defect; here they are all collected, down to damage inside a picture.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ms_unireid.apps.checks.dataset_layout import KINDS, locate, packed
from ms_unireid.apps.checks.dataset_pictures import CheckedPicture, check_all, same_bytes
from ms_unireid.apps.checks.dataset_report import CountRow, ListedPicture, Report, Scan
from ms_unireid.apps.checks.dataset_sketch_sets import scan_market_sketch, scan_pku_sketch
from ms_unireid.apps.checks.dataset_tri import scan_tri
from ms_unireid.data import market_sketch, pku_sketch, tri_pedes
from ms_unireid.data.findings import DataFinding, count_defects, finding
from ms_unireid.data.published import ALL, PUBLISHED
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.errors import DataError


def examine_captions(captions: Iterable[tuple[int, str]]) -> list[DataFinding]:
    """Look at captions that are known not to be blank.

    Args:
        captions: Person and caption, raw.

    Returns:
        A finding about their length, and one about those that several persons have; nothing if there are none.
    """
    persons: dict[str, set[int]] = {}
    rows = list(captions)
    for person, caption in rows:
        persons.setdefault(caption, set()).add(person)
    if not rows:
        return []
    shared = [caption for caption, owners in persons.items() if len(owners) > 1]
    found = [_examine_lengths([caption for _, caption in rows])]
    if shared:  # the published data sets have some: nothing to mend
        detail = f"captions that several persons share: {len(shared):,}, for information"
        found.append(finding("captions", "ok", detail, "", [repr(caption[:60]) for caption in shared]))
    return found


def _examine_lengths(texts: list[str]) -> DataFinding:
    tokenizer = Tokenizer()
    lengths = tokenizer.lengths(texts)
    long = [text for text, length in zip(texts, lengths, strict=True) if length > tokenizer.context_length]
    detail = f"{len(texts):,} captions, the longest has {max(lengths)} tokens"
    if not long:
        return DataFinding("captions", "ok", detail)
    detail += f"; longer than {tokenizer.context_length} and cut there: {len(long)}"
    return finding("captions", "warning", detail, "", [repr(text[:60]) for text in long], "shorten them, or leave them")


_COPY = "copy these files again from the data set's archive; a broken download or a full disk leaves such files"


def verify(
    dataset: str,
    root: Path,
    captions: Path | None = None,
    workers: int | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Verify a data set.

    Args:
        dataset: One of ``KINDS``: cuhk_pedes, icfg_pedes, rstp_reid, pku_sketch, market_sketch.
        root: The data set's folder, or the one that contains it.
        captions: Captions by person, for the two sketch data sets.
        workers: Threads that decode pictures; None takes two for each core.
        quick: Look at the ends of pictures only, and for no duplicates.
        progress: Called with how many pictures are done and how many there are.

    Returns:
        All findings, with the counts beside those of the published data set.

    Raises:
        DataError: If the data set is unknown or has captions of its own, there are no workers, or a folder cannot be
            listed.
    """
    if dataset not in KINDS:
        raise DataError(f"unknown data set {dataset!r}. Fix: use one of {', '.join(KINDS)}.")
    if captions is not None and dataset in tri_pedes.DATASETS:
        raise DataError(f"{dataset} has its own caption file. Fix: leave --captions out.")
    if workers is not None and workers < 1:
        raise DataError(f"{workers} workers cannot check anything. Fix: give at least one.")
    folder, findings = locate(dataset, root)
    if folder is None:
        return Report(dataset, None, tuple(findings))
    scan = _scan(dataset, folder, captions)
    begin = time.monotonic()
    checked = check_all([picture.path for picture in scan.pictures], workers, quick, progress)
    seconds = time.monotonic() - begin
    counts = _count_rows(dataset, scan.counts)
    findings += [_examine_counts(counts), *scan.findings, *examine_captions(scan.captions)]
    findings += _examine_pictures(checked, quick)
    findings += _examine_duplicates(folder, scan.pictures, checked, quick)
    if any(found.state == "problem" for found in findings):
        findings += packed(folder)
    return Report(dataset, folder, tuple(findings), counts, tuple(scan.folders), len(checked), quick, seconds)


def _scan(dataset: str, folder: Path, captions: Path | None) -> Scan:
    if dataset == pku_sketch.NAME:
        return scan_pku_sketch(folder, captions)
    if dataset == market_sketch.NAME:
        return scan_market_sketch(folder, captions)
    return scan_tri(dataset, folder)


def _count_rows(dataset: str, counts: Mapping[tuple[str, str], int]) -> tuple[CountRow, ...]:
    published = {(split, what): n for split, row in PUBLISHED[dataset].items() for what, n in row.items()}
    keys = [*published, *(key for key in counts if key not in published)]
    splits = [split for split in ("train", "val", "test", ALL) if any(key[0] == split for key in keys)]
    keys.sort(key=lambda key: splits.index(key[0]))
    return tuple(CountRow(*key, counts.get(key, 0), published.get(key)) for key in keys)


def _examine_counts(rows: Sequence[CountRow]) -> DataFinding:
    known = [row for row in rows if row.published is not None]
    fewer = [row for row in known if row.found < row.published]
    more = [f"{row.split} {row.what} {row.found:,} of {row.published:,}" for row in known if row.found > row.published]
    if more:
        fix = "find out which copy of the data set this is; it is not the published one"
        return finding("counts", "warning", f"more than was published: {len(more)} counts", "", more, fix)
    if not fewer:
        return DataFinding("counts", "ok", "as published")
    parts = ", ".join(f"{row.found:,} of {row.published:,} {row.what}" for row in fewer if row.split == ALL)
    fix = "nothing, if a part is meant; results on it are not comparable with published ones"
    return DataFinding("counts", "warning", f"a part of the data set: {parts or 'see the table'}", fix)


def _examine_pictures(checked: Mapping[Path, CheckedPicture], quick: bool) -> Iterator[DataFinding]:
    unreadable = [f"{path} ({found.defect})" for path, found in checked.items() if not found.readable]
    damaged = [f"{path} ({found.defect})" for path, found in checked.items() if found.readable and found.defect]
    yield from count_defects(
        "pictures",
        "",
        ("problem", unreadable, "pictures that cannot be read", _COPY),
        ("warning", damaged, "pictures with damage inside, of which a part may be decoded wrongly", _COPY),
    )
    if checked and not unreadable and not damaged:
        how = "begin and end as they should" if quick else "decode to their last pixel"
        yield DataFinding("pictures", "ok", f"all {len(checked):,} {how}")


def _examine_duplicates(
    folder: Path, pictures: Sequence[ListedPicture], checked: Mapping[Path, CheckedPicture], quick: bool
) -> Iterator[DataFinding]:
    if quick:
        yield DataFinding("duplicates", "warning", "not looked for with --quick", "leave --quick out")
        return
    by_name = {picture.path.relative_to(folder).as_posix(): picture for picture in pictures}
    groups = same_bytes({name: checked[picture.path].digest for name, picture in by_name.items()})
    kinds = [{by_name[name].kind for name in group} for group in groups]
    mixed = [group for group, of in zip(groups, kinds, strict=True) if len(of) > 1]
    fix = "draw or unpack the sketches again: these are photos"
    check = ("problem", _pairs(mixed), "groups of photos and sketches with the same bytes", fix)
    yield from count_defects("duplicates", folder, check)
    for kind in ("photo", "sketch"):
        alike = [group for group, of in zip(groups, kinds, strict=True) if of == {kind}]
        yield _examine_alike(folder, kind, alike, by_name)


def _examine_alike(
    folder: Path, kind: str, groups: list[list[str]], by_name: Mapping[str, ListedPicture]
) -> DataFinding:
    kinds = {"photo": "photos", "sketch": "sketches"}[kind]
    if not groups:
        return DataFinding("duplicates", "ok", f"no {kinds} with the same bytes")
    splits = [len({by_name[name].split for name in group}) for group in groups]
    persons = [len({by_name[name].person for name in group}) for group in groups]
    detail = (
        f"{sum(map(len, groups)):,} {kinds} in {len(groups):,} groups with the same bytes; groups of several splits: "
        f"{sum(n > 1 for n in splits):,}, of several persons: {sum(n > 1 for n in persons):,}"
    )
    rated = sorted(zip(splits, persons, groups, strict=True), key=lambda item: item[:2], reverse=True)
    worst = [group for split_count, person_count, group in rated if split_count > 1 or person_count > 1]
    if not worst:
        return finding("duplicates", "ok", detail, folder, _pairs(groups))
    fix = "ask the data set's authors which is right; a model cannot tell such pictures apart"
    return finding("duplicates", "warning", detail, folder, _pairs(worst), fix)


def _pairs(groups: Sequence[Sequence[str]]) -> list[str]:
    return [" = ".join(group[:3]) for group in groups]
