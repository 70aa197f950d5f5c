"""Measure against PyTorch or the naive way: both in the same call, in turns, in processes of their own.

Each sub-command is a module of tools/benchmarks; `memory` and `sketches` have nothing to be measured against.

python tools/benchmark.py conversion --rounds 5 --json conversion.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.benchmarks import (
    conversion,
    encode,
    evaluation,
    index,
    input,
    memory,
    precision,
    products,
    search,
    sketches,
    train_step,
)
from ms_unireid.apps.benchmarks.document import document
from ms_unireid.files import write_json, write_text
from ms_unireid.runtime import check_packages

COMMANDS = {
    "conversion": conversion,
    "encode": encode,
    "evaluation": evaluation,
    "index": index,
    "input": input,
    "memory": memory,
    "precision": precision,
    "products": products,
    "search": search,
    "sketches": sketches,
    "train-step": train_step,
}
JOBS = {name: job for module in COMMANDS.values() for name, job in module.JOBS.items()}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure; ratios go to stdout. Less than 1 means that ours is faster.")
    commands = parser.add_subparsers(dest="command", required=True)
    for module in COMMANDS.values():
        module.add_command(commands)
    single = commands.add_parser("run-one", help="what the other commands call: one run, measured, as JSON")
    single.add_argument("job", choices=tuple(JOBS))
    single.add_argument("arguments", nargs="+")
    written = commands.add_parser("document", help="write docs/performance.md from the other commands' JSON files")
    written.add_argument("files", type=Path, nargs="+", help="named after their commands")
    written.add_argument("--notes", type=Path, help="Markdown that says what the figures mean")
    written.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the job with these arguments of its command line."""
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
