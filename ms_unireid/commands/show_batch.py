"""Draw pairs of the first batch of a training, as they are and as the network sees them."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ms_unireid.apps.arguments import Parser, at_least, output_file
from ms_unireid.files import FIGURES
from ms_unireid.runtime import check_packages


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Draw pairs of the first batch that a config trains on: each photo and the pictures that belong to "
        "it, as they are and as the network sees them, and the caption as its tokens spell it.",
        epilog="example: %(prog)s --config tri_cuhk_pedes/unireid data.root=FOLDER --output batch.png",
    )
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="YAML file or name of a config; a later one wins"
    )
    parser.add_argument(
        "--output", type=output_file(*FIGURES), default=Path("batch.png"), help="the picture (default: batch.png)"
    )
    parser.add_argument("--pairs", type=at_least(1), default=6, help="how many pairs to draw (default: 6)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.config import load_config

    config = load_config(options.config, options.overrides)
    # A few pairs are no reason to decode all of a data set.
    config = replace(config, runtime=replace(config.runtime, decoded_cache=None))
    check_packages()
    from ms_unireid.training.batch_figure import draw_batch
    from ms_unireid.training.run_data import RunData

    draw_batch(RunData(config), options.output, options.pairs)
    print(options.output)
