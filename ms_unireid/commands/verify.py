"""Find everything that is wrong with a data set: layout, captions, splits, missing, damaged and duplicate pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.arguments import JSON, Parser, at_least, output_file
from ms_unireid.commands.progress import progress_bar
from ms_unireid.errors import DataError
from ms_unireid.files import write_json

# What is chosen among; written here so that --help imports nothing that defines it.
DATASETS = ("cuhk_pedes", "icfg_pedes", "rstp_reid", "pku_sketch", "orbench", "pairs", "market_sketch")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Check a data set and print a report. The exit code is 2 if the data set cannot be used as it is.",
        epilog="example: %(prog)s --dataset cuhk_pedes --root data/CUHK-PEDES --json report.json",
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="which data set it is")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder, or the folder above it")
    parser.add_argument(
        "--captions", type=Path, help="a file of captions by person, for pku_sketch and market_sketch; or that of pairs"
    )
    parser.add_argument("--json", type=output_file(*JSON), help="write the report to this file as JSON")
    parser.add_argument("--workers", type=at_least(1), help="threads that decode pictures (default: two for each core)")
    parser.add_argument("--quick", action="store_true", help="check only the ends of pictures, and skip duplicates")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.apps.checks.dataset import verify
    from ms_unireid.apps.checks.dataset_report import to_json, to_text

    with progress_bar("picture") as show:
        report = verify(options.dataset, options.root, options.captions, options.workers, options.quick, show)
    print(to_text(report))
    if options.json:
        write_json(options.json, to_json(report))
    if report.problems:
        raise DataError(f"{options.root}: problems: {report.problems}; fix them as the report says")
