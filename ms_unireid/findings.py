"""What checks of a machine or a data set return, as a table and as JSON.

A verifier collects all findings; a loader stops at the first that is a problem. Standard library only: the doctor must
always run.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_unireid.errors import DataError, UserError

State = Literal["ok", "warning", "problem"]
_WIDTH = 20
_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What was looked at.
        state: `problem` if a run cannot work or would be wrong, `warning` if it may matter or could not be checked.
        detail: What was found.
        fix: What to do about it; empty if nothing.
    """

    what: str
    state: State
    detail: str
    fix: str = ""

    def notes(self) -> list[str]:
        """Return what belongs in lines of its own below the finding."""
        return [f"fix: {self.fix}"] if self.fix else []


def to_table(findings: Iterable[Finding]) -> str:
    """Write findings as a table, each with its notes below."""
    lines = [f"{'state':8} {'what':{_WIDTH}} found"]
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.what:{_WIDTH}} {finding.detail}")
        lines += [f"{'':8} {'':{_WIDTH}} {note}" for note in finding.notes()]
    return "\n".join(lines)


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Turn findings into dictionaries with the keys what, state, detail, fix and those of the finding's own kind."""
    return [dataclasses.asdict(finding) for finding in findings]


_EXAMPLES = 5


@dataclass(frozen=True)
class DataFinding(Finding):
    """One thing that was looked at in a data set.

    Attributes:
        where: File or folder it is about; empty if the detail says it.
        count: How many are affected.
        examples: The first few of them.
    """

    where: str = ""
    count: int = 0
    examples: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return where it is, examples and the fix, each for a line of its own."""
        where = [f"in: {self.where}"] if self.where else []
        examples = [f"such as: {', '.join(self.examples)}"] if self.examples else []
        return [*where, *examples, *super().notes()]


def finding(
    what: str, state: State, detail: str, where: Path | str = "", affected: Sequence[object] = (), fix: str = ""
) -> DataFinding:
    """Make a finding about some things, of which the first few become its examples."""
    examples = tuple(map(str, affected[:_EXAMPLES]))
    return DataFinding(what, state, detail, fix, str(where), len(affected), examples)


def count_defects(
    what: str, where: Path | str, *checks: tuple[State, Sequence[object], str, str]
) -> Iterator[DataFinding]:
    """Make a finding of each check that found something.

    Args:
        what: What was looked at.
        where: File or folder.
        checks: Of each the state, what is affected, what these are (their number comes behind it), and the fix.
    """
    for state, affected, words, fix in checks:
        if affected:
            yield finding(what, state, f"{words}: {len(affected):,}", where, affected, fix)


def from_error(what: str, error: UserError, state: State = "problem") -> DataFinding:
    """Make a finding of an error whose message ends with its fix."""
    detail, _, fix = " ".join(str(error).split()).partition("Fix: ")
    return DataFinding(what, state, detail.rstrip(" .;"), fix.rstrip("."), count=1)


def raise_problem(findings: Iterable[DataFinding], advice: str) -> None:
    """End with the first problem among findings, if there is one.

    Args:
        findings: What was found.
        advice: The command that lists everything.

    Raises:
        DataError: Naming the place, what is wrong, the first few affected and the fix.
    """
    for found in findings:
        if found.state == "problem":
            which = f" ({listed(found.examples)})" if found.examples else ""
            where = f"{found.where}: " if found.where else ""
            raise DataError(f"{where}{found.detail}{which}. Fix: {found.fix}. {advice}")


def listed(names: Sequence[object], limit: int = _NAMED) -> str:
    """Name the first few of many things and count the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more
