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
    """Format measurements as Markdown; each file is named COMMAND.json or COMMAND.WORD.json.

    `notes` come first; what stands below a file's name in them, `## COMMAND`, comes below its figures.

    Raises:
        ConfigError: If a file is not named after a command.
        DataError: If a file is not a measurement of its command.
    """
    first, *others = notes.split("\n## ")
    explained = dict(other.split("\n\n", 1) for other in others)
    sections = [_section(file, commands, explained) for file in sorted(files, key=lambda file: file.stem)]
    return "\n".join([_HEAD, *([f"{first.strip()}\n"] if first else []), *sections])


def _section(file: Path, commands: Mapping[str, ModuleType], explained: Mapping[str, str]) -> str:
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
    note, machine = explained.get(file.stem, "").strip(), _machine(result["machine"])
    paragraphs = (f"## {file.stem}", about, _as_markdown(text), note, machine)
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _as_markdown(text: str) -> str:
    return text if "\n|" in text else f"```\n{text}\n```"


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    command = " ".join(["tools/benchmark.py", *machine["command"][1:]])
    return (
        f"Measured on {machine['device']}, {machine['cpu_count']} cores, {machine['platform']}, Python "
        f"{machine['python']}, {packages}, revision {machine['git_revision']}: `{command}`"
    )
