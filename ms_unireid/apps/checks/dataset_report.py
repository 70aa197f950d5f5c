"""The report of a data set's verification, as text and as JSON."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ms_unireid.data.findings import DataFinding, to_table
from ms_unireid.data.findings import to_json as findings_to_json
from ms_unireid.errors import escaped


@dataclass(frozen=True)
class CountRow:
    """A count of a split (or `all`): identities, photos, captions, sketches or sketches of a style.

    `found` is the count here, `published` that of the published data set; None if not known.
    """

    split: str
    what: str
    found: int
    published: int | None


@dataclass(frozen=True)
class FolderRow:
    """Pictures in one folder: photos that the caption file names (None without one), photos and sketches that exist."""

    folder: str
    named: int | None
    photos: int
    sketches: int


@dataclass(frozen=True)
class Report:
    """All results of a verification.

    Attributes:
        dataset: Name of the data set.
        folder: Its folder; None if it was not found.
        findings: Findings in order.
        counts: Counts with the published ones.
        folders: Counts by folder.
        pictures: Number of pictures checked.
        quick: Whether only their ends were checked.
        seconds: Duration of the check of the pictures.
        conditions: Under which the data set can be used, in words that follow "usable".
    """

    dataset: str
    folder: Path | None
    findings: tuple[DataFinding, ...]
    counts: tuple[CountRow, ...] = ()
    folders: tuple[FolderRow, ...] = ()
    pictures: int = 0
    quick: bool = False
    seconds: float = 0.0
    conditions: tuple[str, ...] = ()

    @property
    def problems(self) -> int:
        """Return the number of problems among the findings."""
        return sum(finding.state == "problem" for finding in self.findings)


def to_text(report: Report) -> str:
    """Lay out a report as text: counts, folders, findings, and the result in the last line."""
    warnings = sum(finding.state == "warning" for finding in report.findings)
    usable = "not usable" if report.problems else " ".join(("usable", *report.conditions))
    parts = [
        f"{report.dataset} in {report.folder}" if report.folder else f"{report.dataset}: not found",
        _table(["split", "what", "found", "published"], report.counts),
        _table(["folder", "named", "photos", "sketches"], report.folders),
        to_table(report.findings),
        f"{usable}; problems: {report.problems}, warnings: {warnings}",
    ]
    return "\n\n".join(part for part in parts if part)


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON: its attributes, with `usable` instead of the number of problems."""
    return {
        "dataset": report.dataset,
        "folder": str(report.folder) if report.folder else None,
        "usable": not report.problems,
        "conditions": [] if report.problems else list(report.conditions),
        "findings": findings_to_json(report.findings),
        "counts": [dataclasses.asdict(row) for row in report.counts],
        "folders": [dataclasses.asdict(row) for row in report.folders],
        "pictures": report.pictures,
        "quick": report.quick,
        "seconds": round(report.seconds, 2),
    }


def _table(head: list[str], rows: tuple[CountRow, ...] | tuple[FolderRow, ...]) -> str:
    if not rows:
        return ""
    align = ["left" if field.type is str else "right" for field in dataclasses.fields(rows[0])]
    cells = [[escaped(cell) if isinstance(cell, str) else cell for cell in dataclasses.astuple(row)] for row in rows]
    return tabulate(cells, head, "plain", intfmt=",", missingval="-", colalign=align, disable_numparse=[0])
