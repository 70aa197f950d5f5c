"""Findings of checks of a data set or a machine, as a table, as JSON or as an error.

Standard library only: the doctor must run without any package.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_unireid.errors import DataError, UserError, escaped
from ms_unireid.installation import job_command

State = Literal["ok", "warning", "problem"]
_WIDTH, _LONGEST = 20, 3000  # characters
_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, its state, what was found, and what to do about it.

    A `problem` makes a run fail or its results wrong; a `warning` may, or means that the check was not possible.
    """

    what: str
    state: State
    detail: str
    fix: str = ""

    def notes(self) -> list[str]:
        """Return the lines below the finding in a table."""
        return [f"fix: {self.fix}"] if self.fix else []


@dataclass(frozen=True)
class DataFinding(Finding):
    """A finding about a data set: the file or folder, how many things are affected, and the first few of them."""

    where: str = ""
    count: int = 0
    examples: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return place, examples and fix, one line each."""
        where = [f"in: {self.where}"] if self.where else []
        examples = [f"such as: {', '.join(self.examples)}"] if self.examples else []
        return [*where, *examples, *super().notes()]


def to_table(findings: Iterable[Finding]) -> str:
    """Lay out findings as a text table, with the notes of each below it."""
    lines = [f"{'state':8} {'what':{_WIDTH}} found"]
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.what:{_WIDTH}} {escaped(finding.detail, _LONGEST)}")
        lines += [f"{'':8} {'':{_WIDTH}} {escaped(note, _LONGEST)}" for note in finding.notes()]
    return "\n".join(lines)


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as dictionaries of their attributes."""
    return [dataclasses.asdict(finding) for finding in findings]


def finding(
    what: str, state: State, detail: str, where: Path | str = "", affected: Sequence[object] = (), fix: str = ""
) -> DataFinding:
    """Make a finding that counts the things affected and shows the first few."""
    examples = tuple(map(str, affected[:_EXAMPLES]))
    return DataFinding(what, state, detail, fix, str(where), len(affected), examples)


def count_defects(
    what: str, where: Path | str, *checks: tuple[State, Sequence[object], str, str]
) -> Iterator[DataFinding]:
    """Yield a finding for each check (state, things affected, words for them, fix) that found something."""
    for state, affected, words, fix in checks:
        if affected:
            yield finding(what, state, f"{words}: {len(affected):,}", where, affected, fix)


def from_error(what: str, error: UserError, state: State = "problem") -> DataFinding:
    """Turn an error into a finding; its message ends with `Fix: ...`."""
    detail, _, fix = " ".join(str(error).split()).partition("Fix: ")
    return DataFinding(what, state, detail.rstrip(" .;"), fix.rstrip("."), count=1)


def raise_problem(findings: Iterable[DataFinding], name: str, folder: Path) -> None:
    """Raise the first problem among the findings of a data set as a DataError."""
    for found in findings:
        if found.state == "problem":
            which = f" ({listed(found.examples)})" if found.examples else ""
            where = f"{found.where}: " if found.where else ""
            raise DataError(f"{where}{found.detail}{which}. Fix: {found.fix}. {advice(name, folder)}")


def advice(name: str, folder: Path) -> str:
    """Name the command that lists everything that is wrong with a data set."""
    return f"To list all problems: {job_command('verify')} --dataset {name} --root {folder}"


def listed(names: Sequence[object], limit: int = 5, separator: str = ", ") -> str:
    """Join the first few names and count the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(map(str, names[:limit])) + more
