"""Puts this checkout on the path, for tools that run without an installed package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ms_unireid.commands.main import run

__all__ = ["run"]
