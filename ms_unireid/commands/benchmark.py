"""Measure speed and memory against PyTorch or a simple implementation; both run alternately in separate processes.

Each sub-command is a module of ``apps.benchmarks``. `memory` and `sketches` have no baseline.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.arguments import JSON, Parser, input_file, output_file
from ms_unireid.apps.benchmarks import (
    conversion,
    encode,
    engines,
    evaluation,
    index,
    input,
    memory,
    precision,
    products,
    search,
    sharing,
    sketches,
    train_step,
)
from ms_unireid.apps.benchmarks.document import document
from ms_unireid.files import write_json, write_text
from ms_unireid.runtime import check_packages

COMMANDS = {
    "conversion": conversion,
    "encode": encode,
    "engines": engines,
    "evaluation": evaluation,
    "index": index,
    "input": input,
    "memory": memory,
    "precision": precision,
    "products": products,
    "search": search,
    "sharing": sharing,
    "sketches": sketches,
    "train-step": train_step,
}
JOBS = {name: job for module in COMMANDS.values() for name, job in module.JOBS.items()}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Measure speed and memory, and print ratios. A time ratio below 1 means that ours is faster.",
        epilog="example: %(prog)s conversion --rounds 5 --json conversion.json",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        module.add_options(command)
        command.add_argument("--json", type=output_file(*JSON), help="write the measurements as JSON")
    single = commands.add_parser("run-one", help="measure one run and print JSON; the other commands call this")
    single.add_argument("job", choices=tuple(JOBS))
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
        print(json.dumps(JOBS[options.job](*options.arguments)))
        return
    if options.command == "document":
        notes = options.notes.read_text(encoding="utf-8") if options.notes else ""
        write_text(options.output, document(options.files, COMMANDS, notes))
        return
    if options.command != "sketches":  # drawing needs no MindSpore
        check_packages()
    module = COMMANDS[options.command]
    result = module.measure(options)
    print(module.to_text(result))
    if options.json:
        write_json(options.json, result)
