"""The ten trials of PKU-Sketch: the persons tested in each, drawn by a fixed rule or read from a file.

The field tests ten times on 50 of the 200 persons, drawn per style, and averages (Chen et al., "Sketch Transformer",
ACM MM 2022; the paper follows it in Table 6). Their code draws without a seed, so comparable runs need the same file.
Two kinds are read: the JSON of `write_trials`, and a folder of index lists as the field shares them,
`test_sketch_<trial>.txt` with a line `sketch/ID.jpg ID CAMERA STYLE` for each tested person.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ms_unireid.data.annotations import parse_identity
from ms_unireid.data.findings import listed
from ms_unireid.data.folders import contents, read_entries, read_text
from ms_unireid.data.published import ALL, PUBLISHED
from ms_unireid.data.sketch_sets import SketchSet
from ms_unireid.errors import DataError, shown
from ms_unireid.files import check_form, write_json

_COUNT = 10
_SEED = 0
_RULE = (
    "trial t tests, of each style, the identities whose SHA-256 of 'pku_sketch/SEED/t/IDENTITY' comes first in "
    "hexadecimal order; SEED, t (from 1) and IDENTITY are decimal numbers"
)
# Persons tested of all 200; a part of the data set is divided in proportion.
TEST_COUNTS: Mapping[str, int] = MappingProxyType({"a": 11, "b": 5, "c": 20, "d": 8, "e": 6})

_FIX = "Fix: use the file made for this copy of the data set, or complete the data set."
_LIST = re.compile(r"test_sketch_(\d+)\.txt", re.ASCII)


@dataclass(frozen=True)
class Trial:
    """The identities to train on and to test on, ascending; sketches of the latter search among their photos."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def trials(
    sketch_set: SketchSet, count: int = _COUNT, seed: int = _SEED, file: Path | None = None
) -> tuple[Trial, ...]:
    """Return the trials; each tests 50 persons, or as many in proportion of a part of the data set.

    Without a file, a hash draws them: they are the same everywhere. `file` is a JSON file of `write_trials` or a folder
    of index lists. One that is damaged, too short or does not fit, or a sketch without a style, raises a DataError.
    """
    styles = _styles(sketch_set)
    if count < 1:
        raise DataError(f"{count} trials requested, expected at least 1. Fix: request {_COUNT}.")
    if file is None:
        if not any(counts_to_test(Counter(styles.values())).values()):
            raise DataError(
                f"no style has two persons or more ({len(styles)} persons), so no trial can be drawn. "
                "Fix: complete the data set, or give a file of trials."
            )
        return tuple(_trial(styles, _drawn(styles, seed, number)) for number in range(1, count + 1))
    tested = _read_lists(file) if file.is_dir() else _read_file(file, styles)
    if len(tested) < count:
        raise DataError(f"{file}: {len(tested)} trials, expected {count}. Fix: request fewer, or give a longer file.")
    for number, test in enumerate(tested[:count], 1):
        _check(f"{file}, trial {number}", test, styles)
    return tuple(_trial(styles, test) for test in tested[:count])


def write_trials(file: Path, sketch_set: SketchSet, count: int = _COUNT, seed: int = _SEED) -> None:
    """Draw trials and write them to a file for others, with the rule, the seed and the styles."""
    styles = _styles(sketch_set)
    tested = [list(trial.test) for trial in trials(sketch_set, count, seed)]
    described = _describe_styles(Counter(styles.values()))
    write_json(file, {"data_set": "pku_sketch", "rule": _RULE, "seed": seed, "styles": described, "trials": tested})


def counts_to_test(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return how many persons of each style are tested, given how many there are.

    These are the field's counts for the whole data set. A part has the same share, rounded: at least one of two or more
    persons, and never all.
    """
    published = PUBLISHED["pku_sketch"][ALL]
    counts = {}
    for style, size in sizes.items():
        whole = published[f"style {style}"]
        share = (2 * size * TEST_COUNTS[style] + whole) // (2 * whole)  # rounded, in integers
        counts[style] = min(max(share, 1), size - 1)
    return counts


def _describe_styles(sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {style: {"identities": sizes[style], "test": n} for style, n in sorted(counts_to_test(sizes).items())}


def _styles(sketch_set: SketchSet) -> dict[int, str]:
    styles = {sketch.person_id: sketch.style for sketch in sketch_set.sketches}
    without = [person for person, style in styles.items() if style not in TEST_COUNTS]
    if without or not styles:
        raise DataError(
            f"{len(without)} of {len(styles)} persons have no style ({', '.join(TEST_COUNTS)}): {listed(without)}. "
            "Fix: load PKU-Sketch with its styleAnnotation folder."
        )
    return styles


def _drawn(styles: Mapping[int, str], seed: int, number: int) -> list[int]:
    counts = counts_to_test(Counter(styles.values()))
    ranked = sorted(styles, key=lambda person: hashlib.sha256(f"pku_sketch/{seed}/{number}/{person}".encode()).digest())
    return [person for style in counts for person in [p for p in ranked if styles[p] == style][: counts[style]]]


def _trial(styles: Iterable[int], test: Iterable[int]) -> Trial:
    tested = set(test)
    return Trial(tuple(sorted(set(styles) - tested)), tuple(sorted(tested)))


def _read_file(file: Path, styles: Mapping[int, str]) -> list[list[int]]:
    fix = "Fix: copy the file again, or write it with write_trials."
    expected = "an object with 'trials', a list of lists of test identities"
    raw = read_entries(file, dict, expected, fix)
    _check_sizes(file, raw.get("styles"), Counter(styles.values()))
    try:
        check_form(raw, {"trials": [[object]]})
        return [[parse_identity(value) for value in row] for row in raw["trials"]]
    except ValueError as error:
        raise DataError(f"{file}: {error}; expected {expected}. {fix}") from error


def _check_sizes(file: Path, declared: object, sizes: Mapping[str, int]) -> None:
    expected = _describe_styles(sizes)
    if declared is not None and declared != expected:
        raise DataError(f"{file}: made for styles {shown(declared)}, expected {expected}. {_FIX}")


def _read_lists(folder: Path) -> list[list[int]]:
    matches = (_LIST.fullmatch(path.name) for path in folder.iterdir())
    names = {int(match[1]): match[0] for match in matches if match}
    if sorted(names) != list(range(1, len(names) + 1)) or not names:
        raise DataError(
            f"{folder}: expected test_sketch_1.txt, test_sketch_2.txt and so on; it holds {contents(folder)}. "
            "Fix: copy the index lists into one folder."
        )
    return [_read_list(folder / names[number]) for number in sorted(names)]


def _read_list(file: Path) -> list[int]:
    fix = "Fix: copy the list again."
    identities = []
    for number, line in enumerate(read_text(file, fix).split("\n"), 1):
        parts = line.split()
        try:
            if parts and (len(parts) < 2 or Path(parts[0]).stem != parts[1]):
                raise ValueError("expected sketch/ID.jpg ID CAMERA STYLE")
            identities += [parse_identity(parts[1])] if parts else []
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}, found {shown(line)}. {fix}") from error
    return identities


def _check(where: str, test: list[int], styles: Mapping[int, str]) -> None:
    if unknown := sorted(set(test) - styles.keys()):
        raise DataError(f"{where}: {len(unknown)} identities are not in the data set: {listed(unknown)}. {_FIX}")
    if twice := sorted(person for person, count in Counter(test).items() if count > 1):
        raise DataError(f"{where}: {len(twice)} identities occur twice: {listed(twice)}. {_FIX}")
    if not test or len(test) == len(styles):
        raise DataError(f"{where}: {len(test)} of {len(styles)} identities are tested. {_FIX}")
