"""How the package is installed, its jobs are called, and MindSpore is set up by variables."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
# The tools whose names are not those of their jobs.
_TOOLS = {
    "convert": "convert_checkpoint",
    "export": "export_model",
    "reproduce": "reproduce_tables",
    "sketches": "build_sketches",
    "synthetic": "make_synthetic",
    "verify": "verify_dataset",
}
# Variables that MindSpore reads when it opens a device, and values. Importing `ms_unireid` sets the first one.
PIPELINE, NO_PIPELINE = "MS_DEV_RUNTIME_CONF", "graph_pipeline:false"
OVERFLOW_MODE, INFINITE, SATURATED = "MS_ASCEND_CHECK_OVERFLOW_MODE", "INFNAN_MODE", "SATURATION_MODE"
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


def job_command(job: str) -> str:
    """Return how a job is called here, for messages: by its tool in a checkout, by `unireid` where it is installed."""
    tool = _ROOT / "tools" / f"{_TOOLS.get(job, job)}.py"
    return f"python tools/{tool.name}" if tool.exists() else f"unireid {job}"


def child_command(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package in a new process, from any folder."""
    code = _RUN_MODULE.format(parent=str(_ROOT), module=module)
    return [sys.executable, "-c", code, *map(str, arguments)]
