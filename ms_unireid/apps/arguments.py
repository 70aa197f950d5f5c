"""Arguments of the commands. What can be told from an argument alone is checked while it is read."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ms_unireid.errors import CheckpointError, ConfigError

JSON = (".json", "")


class Parser(argparse.ArgumentParser):
    """A parser that raises a wrong argument as a ConfigError."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, which begins with the name of the argument."""
        raise ConfigError(re.sub(r"^argument (\S+): ", r"\1 ", message))


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add who encodes, and how: `runtime.encoder` and `runtime.precision`."""
    parser.add_argument(
        "--encoder", choices=("mindspore", "openvino", "onnxruntime"), help="who encodes (default mindspore)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="of its matrix products (default fp32); int8 for onnxruntime",
    )


def encoder_overrides(options: argparse.Namespace) -> list[str]:
    """Return what `add_encoder` read as `section.key=value` strings."""
    given = {"encoder": options.encoder, "precision": options.precision}
    return [f"runtime.{key}={value}" for key, value in given.items() if value]


def checkpoint(text: str) -> Path:
    """Return the path of a checkpoint, a file or a folder; if there is none, it raises a CheckpointError."""
    if not os.path.exists(text):
        raise CheckpointError(f"{text}: no such file; expected a checkpoint, such as RUN/best_average.ckpt")
    return Path(text)


def input_file(text: str) -> Path:
    """Return the path of a file that exists."""
    if not os.path.isfile(text):
        problem = "is a folder, pipe or device" if os.path.exists(text) else "no such file"
        raise argparse.ArgumentTypeError(f"{text}: {problem}; give a file that exists")
    return Path(text)


def input_folder(text: str) -> Path:
    """Return the path of a folder that exists."""
    if not os.path.isdir(text):
        problem = "is not a folder" if os.path.exists(text) else "no such folder"
        raise argparse.ArgumentTypeError(f"{text}: {problem}; give a folder that exists")
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
        output_folder(path.parent)
        return path

    return check


def output_folder(text: str | Path) -> Path:
    """Return the path of a folder that exists or can be made, and be written into."""
    path = Path(text).absolute()
    nearest = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written, because {nearest} is no folder open to you")
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
