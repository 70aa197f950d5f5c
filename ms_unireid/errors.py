"""Errors that a user can fix. The tools print them as one line and exit with code 2."""


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
