"""Arguments of the commands. What can be told from an argument alone is checked while it is read."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ms_unireid.errors import ConfigError

FIGURES = (".png", ".jpg", ".jpeg", ".pdf", ".webp")


class Parser(argparse.ArgumentParser):
    """A parser that raises a wrong argument as a ConfigError."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, which begins with the name of the argument."""
        raise ConfigError(re.sub(r"^argument (\S+): ", r"\1 ", message))


def input_path(text: str) -> Path:
    """Return the path of a file or folder that exists."""
    if not os.path.isfile(text) and not os.path.isdir(text):
        kind = "is a pipe or a device" if os.path.exists(text) else "does not exist"
        raise argparse.ArgumentTypeError(f"{text}: {kind}; give an existing file or folder")
    return Path(text)


def input_file(text: str) -> Path:
    """Return the path of a file that exists."""
    if not input_path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: is a folder; give a file")
    return Path(text)


def input_folder(text: str) -> Path:
    """Return the path of a folder that exists."""
    if not input_path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a file; give a folder")
    return Path(text)


def output_file(*suffixes: str) -> Callable[[str], Path]:
    """Return a type for files to write, whose names end in one of `suffixes`."""

    def check(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            expected = ", ".join(filter(None, suffixes))
            raise argparse.ArgumentTypeError(f"{text}: expected a name that ends in {expected}")
        if os.path.lexists(path) and not os.path.isfile(path):
            raise argparse.ArgumentTypeError(f"{text}: is no file; give another name")
        output_folder(path.absolute().parent)
        return path

    return check


def output_folder(text: str | Path) -> Path:
    """Return the path of a folder that exists or can be made, and be written into."""
    path = Path(text).absolute()
    nearest = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{nearest}: is no folder that can be written into; choose another")
    return Path(text)


def at_least(lowest: int) -> Callable[[str], int]:
    """Return a type for whole numbers from `lowest` on."""

    def check(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number")
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text}: expected at least {lowest}")
        return int(text)

    return check
