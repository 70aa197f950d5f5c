"""Signals that ask a run to stop."""

import signal
from typing import Any

from ms_unireid.distributed import any_process
from ms_unireid.errors import Interrupted
from ms_unireid.runtime import ALONE, Processes


class StopRequest:
    """Notes SIGINT and SIGTERM while active; a second one acts at once, as without us.

    Args:
        advice: How to go on afterwards.
        processes: Those that train together: all stop at the same step, whichever was asked to.
    """

    def __init__(self, advice: str, processes: Processes = ALONE) -> None:
        self.advice, self.processes = advice, processes
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: object) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal came, to this process or to another."""
        if any_process(self.signal_number is not None, self.processes):
            raise Interrupted(self.signal_number or signal.SIGTERM, self.advice)
