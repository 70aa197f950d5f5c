"""Findings about a data set: what is wrong, where, how often, and how to mend it.

The verifier collects them all; a loader ends with the first that is a problem.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.data.folders import listed
from ms_unireid.errors import DataError, UserError
from ms_unireid.findings import Finding, State

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
