"""Evaluate checkpoints on a split of their own data set or of other data sets."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.arguments import (
    JSON,
    Parser,
    add_encoder,
    at_least,
    checkpoint,
    encoder_overrides,
    output_file,
    output_folder,
)
from ms_unireid.commands.progress import progress_bar
from ms_unireid.config_schema import PROTOCOLS
from ms_unireid.errors import ConfigError
from ms_unireid.files import FIGURES, write_json, write_text
from ms_unireid.runtime import check_packages


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Evaluate checkpoints and print a table to stdout. Every checkpoint is evaluated on every target.",
        epilog="example: %(prog)s --checkpoint runs/demo/best_average.ckpt --split val --json out.json",
    )
    parser.add_argument(
        "--checkpoint",
        type=checkpoint,
        required=True,
        action="append",
        help="a .ckpt of a run folder, or any other file of a complete model; repeatable",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="YAML file or name of a config, instead of the one saved in the checkpoint; repeatable, a later one wins",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a data set to evaluate on instead of the config's, such as pku_sketch=DIR; repeatable",
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: test; with --calibrate val")
    parser.add_argument(
        "--protocol",
        default="paper",
        choices=("paper", *PROTOCOLS, "all"),
        help="paper: the three rows of Table 2, which exclude the source photo, and text on the full gallery, or the "
        "ten trials of PKU-Sketch, or the 32 tasks of ORBench; all: every gallery rule, and trials; docs/evaluation.md "
        "defines each protocol",
    )
    parser.add_argument("--rerank", action="store_true", help="add rows with k-reciprocal re-ranking")
    _add_open_set(parser)
    add_encoder(parser)
    parser.add_argument("--json", type=output_file(*JSON), help="write the rows as JSON")
    parser.add_argument(
        "--markdown", type=output_file(".md", ".markdown", ".txt", ""), help="write the rows as a Markdown table"
    )
    parser.add_argument(
        "--figure",
        type=output_file(*FIGURES),
        help="draw the ranked lists of a few queries, or with missing_modality the curve (PNG, JPEG or PDF)",
    )
    parser.add_argument("--queries", type=at_least(1), help="number of sketches in the figure (default 4)")
    parser.add_argument(
        "--errors",
        type=output_folder,
        help="write an error analysis to this folder: rank of each query, pictures of the worst queries, and R1 by "
        "caption length and sketch style",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def _add_open_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--open-set",
        action="store_true",
        help="add a table of how often persons are found who are there (DIR), by how often an alarm is false (FAR)",
    )
    parser.add_argument(
        "--false-alarms",
        type=_share,
        action="append",
        metavar="SHARE",
        help="with --open-set: a false-alarm rate of the table (default 0.01, 0.05 and 0.1); repeatable",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="with --open-set and one --false-alarms: keep the thresholds beside the checkpoint, for searches",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.5:
        raise argparse.ArgumentTypeError(f"{text}: expected a share of more than 0, at most 0.5, such as 0.05 for 5 %")
    return share


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.checkpoints.thresholds import write_thresholds
    from ms_unireid.config import Config, load_config
    from ms_unireid.data.evaluation_sets import parse_targets

    _check_open_set(options)
    split = options.split or ("val" if options.calibrate else "test")
    single = len(options.checkpoint) == 1 and not options.target
    if (len(options.checkpoint) > 1 or len(options.target) > 1) and (options.figure or options.errors):
        raise ConfigError("--figure and --errors are for one checkpoint on one data set; give one of each")
    if options.queries and (not options.figure or options.protocol == "missing_modality"):
        raise ConfigError("--queries is the number of sketches in a figure of ranked lists; add --figure FILE")
    overrides = [*encoder_overrides(options), *options.overrides]
    if options.config:
        load_config(options.config, overrides)
    parse_targets(options.target, Config())
    check_packages()
    from ms_unireid.apps.export.cache import open_checked_model
    from ms_unireid.evaluation.checkpoint_evaluation import evaluate_checkpoints
    from ms_unireid.evaluation.evaluator import to_json, to_markdown, to_table
    from ms_unireid.evaluation.open_set import to_table as open_set_table

    rows, open_set = [], []
    with progress_bar("batch", split) as show:
        for evaluated in evaluate_checkpoints(
            options.checkpoint,
            options.target,
            split=split,
            protocol=options.protocol,
            reranked=options.rerank,
            files=options.config,
            overrides=overrides,
            progress=show,
            rates=options.false_alarms or [] if options.open_set else None,
            exported=open_checked_model,
        ):
            rows += to_json(evaluated.results) if single else evaluated.rows()
            open_set += [({} if single else evaluated.about) | row for row in evaluated.open_set]
    added = {"open_set": open_set} if open_set else {}
    print("\n\n".join([to_table(rows), *map(open_set_table, added.values())]))
    if options.calibrate:
        file = write_thresholds(evaluated.checkpoint, evaluated.thresholds(*options.false_alarms))
        print(f"thresholds for {100 * options.false_alarms[0]:g}% false alarms: {file}", file=sys.stderr)
    if options.json:
        checkpoint = {"checkpoint": str(options.checkpoint[0])} if single else {}
        write_json(options.json, {**checkpoint, "split": split, "rows": rows, **added})
    if options.markdown:
        tables = [to_markdown(rows), *(open_set_table(some, "pipe") for some in added.values())]
        write_text(options.markdown, "\n\n".join(tables) + "\n")
    if options.figure:
        from ms_unireid.evaluation.figures import draw_missing_modality, draw_ranked_lists

        if options.protocol == "missing_modality":
            draw_missing_modality(evaluated.results, options.figure)
        else:
            draw_ranked_lists(evaluated.feats, evaluated.data, options.figure, options.queries or 4)
    if options.errors:
        from ms_unireid.evaluation.error_analysis import analyse_errors

        analyse_errors(evaluated.feats, evaluated.data, options.errors, tasks=evaluated.config.eval.tasks)


def _check_open_set(options: argparse.Namespace) -> None:
    if (options.false_alarms or options.calibrate) and not options.open_set:
        raise ConfigError("--false-alarms and --calibrate belong to the open-set evaluation; add --open-set")
    if not options.calibrate:
        return
    if len(options.false_alarms or ()) != 1:
        raise ConfigError("--calibrate keeps the thresholds of one false-alarm rate; give one, as --false-alarms 0.05")
    if len(options.checkpoint) > 1 or len(options.target) > 1:
        raise ConfigError("--calibrate is for one checkpoint on one data set; give one of each")
    if options.split == "train":
        raise ConfigError("--split train: the model has learned these persons by heart; calibrate on val or test")
    from ms_unireid.checkpoints.thresholds import thresholds_file

    try:
        output_file(".json")(str(thresholds_file(options.checkpoint[0])))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--calibrate {error}") from error
