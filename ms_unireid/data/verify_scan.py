"""What the files of a data set say before any picture is opened: the same record for every kind of data set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ms_unireid.data.data_findings import DataFinding
from ms_unireid.data.verify_report import FolderRow


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
