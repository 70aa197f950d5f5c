"""Measure speed and memory against PyTorch or a simple implementation; both run alternately in separate processes.

Each sub-command is a module of ``apps.benchmarks``. `memory`, `sketches` and `standing` have no baseline.
"""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ms_unireid.apps import benchmarks
from ms_unireid.apps.arguments import JSON, Parser, input_file, output_file
from ms_unireid.files import write_json, write_text
from ms_unireid.runtime import check_packages

COMMANDS = (
    "conversion",
    "encode",
    "engines",
    "evaluation",
    "index",
    "input",
    "memory",
    "precision",
    "products",
    "search",
    "sharing",
    "sketches",
    "standing",
    "train-step",
)
_FOLDER = Path(benchmarks.__file__).parent


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Measure speed and memory, and print ratios. A time ratio below 1 means that ours is faster.",
        epilog="example: %(prog)s conversion --rounds 5 --json conversion.json",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        with (_FOLDER / f"{_file(name)}.py").open(encoding="utf-8") as file:  # imported only if it is chosen
            command = commands.add_parser(name, help=file.readline().strip('"\n'))
        if name in arguments:
            _module(name).add_options(command)
        command.add_argument("--json", type=output_file(*JSON), help="write the measurements as JSON")
    single = commands.add_parser("run-one", help="measure one run and print JSON; the other commands call this")
    single.add_argument("job")
    single.add_argument("arguments", nargs="+")
    written = commands.add_parser("document", help="write docs/performance.md from the other commands' JSON files")
    written.add_argument("files", type=input_file, nargs="+", help="JSON files, named after their commands")
    written.add_argument("--notes", type=input_file, help="Markdown file that explains the figures")
    written.add_argument("--output", type=output_file(".md"), default=Path("docs/performance.md"), help="file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    if options.command == "run-one":
        jobs = {name: job for module in map(_module, COMMANDS) for name, job in module.JOBS.items()}
        print(json.dumps(jobs[options.job](*options.arguments)))
        return
    if options.command == "document":
        from ms_unireid.apps.benchmarks.document import document

        notes = options.notes.read_text(encoding="utf-8") if options.notes else ""
        write_text(options.output, document(options.files, {name: _module(name) for name in COMMANDS}, notes))
        return
    if options.command != "sketches":  # drawing needs no MindSpore
        check_packages()
    module = _module(options.command)
    result = module.measure(options)
    print(module.to_text(result))
    if options.json:
        write_json(options.json, result)


def _file(name: str) -> str:
    return name.replace("-", "_")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{benchmarks.__name__}.{_file(name)}")
