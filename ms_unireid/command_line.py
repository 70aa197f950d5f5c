"""What every tool does around its one call: exit codes and one-line errors."""

import signal
import sys
from collections.abc import Callable, Sequence

from ms_unireid.errors import Interrupted, UserError

USER_ERROR = 2


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a tool's `main(arguments)` and exit: 0 done, 2 for a user's mistake, 128 + n after signal n.

    Mistakes are told in one line on stderr, without a traceback.
    """
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
