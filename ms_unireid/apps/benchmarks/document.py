"""docs/performance.md, from what the other commands wrote as JSON.

python tools/benchmark.py document docs/measurements/*.json --notes docs/measurements/notes.md
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_unireid.errors import ConfigError, DataError

_HEAD = """# Performance

Written by `tools/benchmark.py document` from the files in `docs/measurements`, which the commands below wrote.
Each measures ours and a baseline in the same call, in turns. A ratio is one of two runs that followed each other; it is
given as median [least..most]. Seconds are of the machine named with them and say little about another.
"""


def document(files: Sequence[Path], commands: Mapping[str, ModuleType], notes: str = "") -> str:
    """Lay out measurements as Markdown.

    Args:
        files: Each named after its command, with what distinguishes it behind a dot.
        commands: The tool's.
        notes: Markdown that goes before them: what the figures mean.

    Raises:
        ConfigError: If a file's name is no command's.
        DataError: If a file cannot be read.
    """
    return "\n".join([_HEAD, *([notes] if notes else []), *(_section(file, commands) for file in sorted(files))])


def _section(file: Path, commands: Mapping[str, ModuleType]) -> str:
    name = file.name.split(".")[0]
    if name not in commands:
        raise ConfigError(f"{file}: expected a name such as {next(iter(commands))}.json, after the command it is of")
    module = commands[name]
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        text = module.to_text(result)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: holds no measurement of {name} ({error!r}); measure again") from error
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
