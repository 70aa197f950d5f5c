"""Writes docs/performance.md from the JSON files of the benchmarks.

python tools/benchmark.py document docs/measurements/*.json --notes docs/measurements/notes.md
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_unireid.errors import ConfigError, DataError

_HEAD = """# Performance

With this page you see how long the work takes and how much memory, beside PyTorch or a simple implementation. It is
written by `tools/benchmark.py document` from the files in `docs/measurements`, which the commands below wrote.
Each call measures ours and a baseline alternately. A ratio compares two runs of the same round and is given as median
[min..max]. Seconds hold only for the machine named with them.
"""


def document(files: Sequence[Path], commands: Mapping[str, ModuleType], notes: str = "") -> str:
    """Format measurements as Markdown, after `notes` that explain them; each file is named COMMAND.json.

    Raises:
        ConfigError: If a file is not named after a command.
        DataError: If a file is not a measurement of its command.
    """
    return "\n".join([_HEAD, *([notes] if notes else []), *(_section(file, commands) for file in sorted(files))])


def _section(file: Path, commands: Mapping[str, ModuleType]) -> str:
    name = file.name.split(".")[0]
    if name not in commands:
        raise ConfigError(f"{file}: name the file after its command, for example {next(iter(commands))}.json")
    module = commands[name]
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        text = module.to_text(result)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: not a measurement of {name} ({error!r}); measure again with --json") from error
    about = module.__doc__.splitlines()[0]
    return f"## {name}\n\n{about}\n\n{_as_markdown(text)}\n\n{_machine(result['machine'])}\n"


def _as_markdown(text: str) -> str:
    return text if text.startswith("|") else f"```\n{text}\n```"


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    command = " ".join(["tools/benchmark.py", *machine["command"][1:]])
    return (
        f"Measured on {machine['device']}, {machine['cpu_count']} cores, {machine['platform']}, Python "
        f"{machine['python']}, {packages}, revision {machine['git_revision']}: `{command}`"
    )
