"""What checks of a machine or a data set return, as a table and as JSON.

The standard library only: the doctor must always run.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]
_WIDTH = 20


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
