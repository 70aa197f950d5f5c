"""The errors a user can mend. Tools print them as one line and exit with code 2; nothing else is caught."""


class UserError(Exception):
    """Something in the user's hands is wrong; the message names the file, what was expected and the fix."""


class ConfigError(UserError):
    """A configuration file, key or value is wrong."""


class DataError(UserError):
    """A data set, picture or caption is missing, damaged or inconsistent."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit the model."""


class QueryError(UserError):
    """A query is empty, or holds what cannot be searched for."""


class EnvironmentProblem(UserError):
    """The installed packages or the requested device cannot run the project."""


class Interrupted(Exception):
    """A signal asked a long job to stop, and all it needs to go on is on disk.

    Attributes:
        signal_number: Which signal.
    """

    def __init__(self, signal_number: int, advice: str):
        super().__init__(f"stopped; {advice}")
        self.signal_number = signal_number
