"""Find everything that is wrong with a data set: layout, captions, splits, missing, damaged and double pictures.

python tools/verify_dataset.py --dataset cuhk_pedes --root data/CUHK-PEDES
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ms_unireid.apps.checks.dataset import KINDS, verify
from ms_unireid.apps.checks.dataset_report import to_json, to_text
from ms_unireid.errors import DataError
from ms_unireid.files import write_json


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Verify a data set; the report goes to stdout. Exit code 2 if it cannot be used as it is.",
        epilog="example: python tools/verify_dataset.py --dataset cuhk_pedes --root data/CUHK-PEDES --json report.json",
    )
    parser.add_argument("--dataset", required=True, choices=tuple(KINDS))
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder, or the one that contains it")
    parser.add_argument(
        "--captions", type=Path, help="captions by person to check as well; pku_sketch and market_sketch only"
    )
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    parser.add_argument("--workers", type=int, help="threads that decode pictures; two for each core otherwise")
    parser.add_argument("--quick", action="store_true", help="look at the ends of pictures only, and for no duplicates")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the job with these arguments of its command line."""
    options = _parse(arguments)
    bars = []
    with contextlib.ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if not bars:  # no bar for a data set that is not there
                bars.append(stack.enter_context(tqdm(total=total, unit="picture", mininterval=1.0)))
            bars[0].update(done - bars[0].n)

        report = verify(options.dataset, options.root, options.captions, options.workers, options.quick, show)
    print(to_text(report))
    if options.json:
        write_json(options.json, to_json(report))
    if report.problems:
        raise DataError(f"{options.root}: problems: {report.problems}; fix them as the report says")
