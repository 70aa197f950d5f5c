"""Puts this checkout first on the path, so that the tools run it, whether or not the package is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ms_unireid.commands.main import run

__all__ = ["run"]
