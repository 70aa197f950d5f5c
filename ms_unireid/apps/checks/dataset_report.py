"""What the verifier found, as text and as JSON."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ms_unireid.data.findings import DataFinding, to_table
from ms_unireid.data.findings import to_json as findings_to_json


@dataclass(frozen=True)
class CountRow:
    """How many of something there are.

    Attributes:
        split: A split, or all.
        what: identities, photos, captions, sketches or a style.
        found: How many the files here name.
        published: How many the published data set has; None if that is not known.
    """

    split: str
    what: str
    found: int
    published: int | None


@dataclass(frozen=True)
class FolderRow:
    """What lies in one folder.

    Attributes:
        folder: Its name below the photo folder, or below the data set's.
        named: Photos that the caption file expects in it; None where there is no caption file.
        photos: Photos that are there.
        sketches: Sketches that are there.
    """

    folder: str
    named: int | None
    photos: int
    sketches: int


@dataclass(frozen=True)
class Report:
    """All that was found about a data set.

    Attributes:
        dataset: Its name.
        folder: Where it lies; None if it was not found.
        findings: What was looked at, in order.
        counts: Counts beside the published ones.
        folders: Counts of each folder.
        pictures: How many pictures were checked.
        quick: Whether of these only the ends.
        seconds: How long that took.
    """

    dataset: str
    folder: Path | None
    findings: tuple[DataFinding, ...]
    counts: tuple[CountRow, ...] = ()
    folders: tuple[FolderRow, ...] = ()
    pictures: int = 0
    quick: bool = False
    seconds: float = 0.0

    @property
    def problems(self) -> int:
        """Return how many findings are problems."""
        return sum(finding.state == "problem" for finding in self.findings)


def to_text(report: Report) -> str:
    """Write a report for people: counts, folders, findings, and the answer in the last line."""
    warnings = sum(finding.state == "warning" for finding in report.findings)
    usable = "not usable" if report.problems else "usable"
    parts = [
        f"{report.dataset} in {report.folder}" if report.folder else f"{report.dataset}: not found",
        _columns(["split", "what", "found", "published"], [_cells(row) for row in report.counts], 2),
        _columns(["folder", "named", "photos", "sketches"], [_cells(row) for row in report.folders], 1),
        to_table(report.findings),
        f"{usable}; problems: {report.problems}, warnings: {warnings}",
    ]
    return "\n\n".join(part for part in parts if part)


def to_json(report: Report) -> dict[str, Any]:
    """Turn a report into what is written as JSON.

    Returns:
        The keys dataset, folder, usable, findings, counts, folders, pictures, quick and seconds; rows are dictionaries
        of their attributes.
    """
    return {
        "dataset": report.dataset,
        "folder": str(report.folder) if report.folder else None,
        "usable": not report.problems,
        "findings": findings_to_json(report.findings),
        "counts": [dataclasses.asdict(row) for row in report.counts],
        "folders": [dataclasses.asdict(row) for row in report.folders],
        "pictures": report.pictures,
        "quick": report.quick,
        "seconds": round(report.seconds, 2),
    }


def _cells(row: CountRow | FolderRow) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, int) else cell or "-" for cell in dataclasses.astuple(row)]


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """Align the first columns, which are texts, to the left and numbers to the right."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    aligned = [
        [cell.ljust(width) for cell, width in zip(row[:texts], widths, strict=False)]
        + [cell.rjust(width) for cell, width in zip(row[texts:], widths[texts:], strict=True)]
        for row in (head, *rows)
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


@dataclass(frozen=True)
class ListedPicture:
    """One picture that is there and belongs to the data set.

    Attributes:
        path: Its file.
        kind: photo or sketch.
        person: Identity; None if no caption file tells it.
        split: Split; empty if it has none.
    """

    path: Path
    kind: Literal["photo", "sketch"]
    person: int | None = None
    split: str = ""


@dataclass
class Scan:
    """What a data set's files say.

    Attributes:
        findings: What was looked at.
        counts: Split and what, to how many.
        folders: Rows of the table of folders.
        pictures: Photos and sketches that are there.
        captions: Person and caption, raw.
    """

    findings: list[DataFinding] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    folders: list[FolderRow] = field(default_factory=list)
    pictures: list[ListedPicture] = field(default_factory=list)
    captions: list[tuple[int, str]] = field(default_factory=list)
