"""Filters: which photos of an index a search may find."""

import datetime
import re
from dataclasses import dataclass, fields

from ms_unireid.errors import QueryError, shown

_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?)?")


@dataclass(frozen=True)
class Filter:
    """What a photo must fulfil; an empty field lets every photo pass, and one of several values is enough.

    A photo whose camera, person or time is not known passes no filter by it.

    Raises:
        QueryError: If a time is not one of ISO 8601, or `after` is behind `before`.
    """

    folders: tuple[str, ...] = ()  # absolute paths; photos in their sub-folders pass too
    cameras: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    after: str = ""  # first local time that passes, such as 2024-05-01 or 2024-05-01T12:30
    before: str = ""  # last one; all of a day that is given without a time, or of a minute without seconds

    def __post_init__(self):
        first, last = self.times
        if first > last:
            raise QueryError(f"after {self.after} and before {self.before}: no time is between them; exchange them")

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    @property
    def times(self) -> tuple[str, str]:
        """The first and the last time that passes, YYYY-MM-DDTHH:MM:SS."""
        return _bound("after", self.after or "0001-01-01", False), _bound("before", self.before or "9999-12-31", True)

    def parts(self) -> dict[str, "Filter"]:
        """Split a filter into those of one field each, by what they ask for in words; times are one part."""
        words = {
            "folder": Filter(folders=self.folders),
            "camera": Filter(cameras=self.cameras),
            "person": Filter(persons=self.persons),
            "time": Filter(after=self.after, before=self.before),
        }
        return {word: part for word, part in words.items() if part}


def _bound(name: str, text: str, last: bool) -> str:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    date, minute, second = match.groups() if match else ("", None, None)
    full = f"{date}T{minute or ('23:59' if last else '00:00')}{second or (':59' if last else ':00')}"
    try:
        datetime.datetime.fromisoformat(full)
    except ValueError as error:
        raise QueryError(
            f"{name} {shown(text)}: expected a date such as 2024-05-01, or one with a time such as 2024-05-01T12:30"
        ) from error
    return full
