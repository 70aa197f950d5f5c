"""What every tool does around its one call: exit codes and one-line errors."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from ms_unireid.errors import Interrupted, UserError

USER_ERROR = 2


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a tool's `main(arguments)` and exit: 0 done, 2 for a user's mistake, 128 + n after signal n.

    Mistakes are told in one line on stderr, without a traceback.
    """
    _keep_stdout_for_results()
    code = 0
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = USER_ERROR
    except Interrupted as error:
        print(error, file=sys.stderr)
        code = 128 + error.signal_number
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)


def _keep_stdout_for_results() -> None:
    """Send what compiled libraries print on stdout to stderr; MindSpore greets every run there."""
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(results, "w", encoding="utf-8", buffering=1)
