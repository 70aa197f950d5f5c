"""Errors that a user can fix, and how what a file says is shown in them. The tools print one line and exit with 2."""

import reprlib


class UserError(Exception):
    """A mistake in what the user gave; the message names the file, what was expected and the fix."""


class ConfigError(UserError):
    """A configuration file, key or value is wrong."""


class DataError(UserError):
    """A data set, picture or caption is missing, damaged or inconsistent."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit the model."""


class QueryError(UserError):
    """A query is empty or cannot be searched for."""


class ExportError(UserError):
    """An exported file cannot be written, or its results differ from the checkpoint's."""


class EnvironmentProblem(UserError):
    """The installed packages or the requested device cannot run the project."""


class Interrupted(Exception):
    """A signal stopped a long job; its state is saved, so the job can be resumed."""

    def __init__(self, signal_number: int, advice: str):
        super().__init__(f"stopped; {advice}")
        self.signal_number = signal_number


def shown(value: object, limit: int = 100) -> str:
    """Quote what a file says for a message: one line without control characters, its middle cut out if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return escaped(short.repr(value), 3 * limit)
    except ValueError:  # an integer of thousands of digits
        return f"a very long {type(value).__name__}"


def escaped(text: str, limit: int = 100) -> str:
    """Return a text for a table or a line: unquoted, what cannot be printed as an escape, cut after `limit` characters.

    A name of ordinary letters stays as it is.
    """
    cut = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def one_line(error: Exception, limit: int = 200) -> str:
    """Return another package's error in a line, cut after `limit` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8 and name a file: it has no half of a surrogate pair and no NUL."""
    return "\0" not in text and text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")
