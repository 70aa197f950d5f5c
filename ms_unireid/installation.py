"""Commands for messages that name a package to install, and for child processes that import this package."""

import sys
from pathlib import Path

# The package is not on a public index, so pip installs it from a checkout.
INSTALL_CORE = "pip install -r requirements.txt, in a checkout of ms_unireid"
# `python -m` would search the user's current folder first, and would not search the checkout.
_RUN_MODULE = """import sys
sys.path[:] = [path for path in sys.path if path]
if {parent!r} not in sys.path:
    sys.path.insert(0, {parent!r})
import runpy
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def install_extra(name: str) -> str:
    """Return the command that installs an extra, for messages."""
    return f"pip install '.[{name}]' in a checkout of ms_unireid"


def child_command(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package in a new process, from any folder."""
    code = _RUN_MODULE.format(parent=str(Path(__file__).resolve().parents[1]), module=module)
    return [sys.executable, "-c", code, *map(str, arguments)]
