"""Train and evaluate the runs of a table of the paper, and print our numbers next to the paper's."""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from ms_unireid.apps.arguments import Parser, checkpoint, input_folder, output_folder
from ms_unireid.runtime import check_packages, describe, prepare


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Reproduce a table of the paper. The table goes to stdout and, as Markdown, CSV, LaTeX and JSON, "
        "to the output folder. The same command again keeps finished runs and resumes interrupted ones.",
        epilog="example: %(prog)s --table 2 --rows text unireid --datasets cuhk_pedes "
        "--data-root data --pretrained ViT-B-16.pt --dry-run",
    )
    parser.add_argument("--table", type=_table, required=True, help="number of the table, 2 to 6, or orbench")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="text, sketch, fusion, tasks, dynamic, unireid; default: all",
    )
    parser.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="data sets to train on, or synthetic; default: all of the table"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[1],
        help="seeds; each row is trained once with each seed",
    )
    parser.add_argument("--data-root", type=input_folder, help="folder of the data sets' folders")
    parser.add_argument(
        "--pretrained", type=checkpoint, help="weights to start from; the paper uses CLIP's ViT-B-16.pt"
    )
    parser.add_argument(
        "--output", type=output_folder, default=Path("runs/tables"), help="folder for the runs and the tables"
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a data set for evaluation only; repeatable",
    )
    parser.add_argument(
        "--config", type=Path, action="append", default=[], help="file or name, for every run; repeatable"
    )
    parser.add_argument(
        "--select",
        choices=("task", "average", "last"),
        default="task",
        help="checkpoint that fills a line: the best of the task, the best average, or the last",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=input_folder,
        help="evaluate the checkpoints of this folder without training: DATASET/ROW.ckpt or DATASET/ROW/seed_N/...",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show runs, steps and time")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of every config")
    return parser.parse_args(arguments)


def _table(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.apps.paper.table_plan import TableRequest, check_runs, check_targets, plan_table, runs_of
    from ms_unireid.config import CONFIGS
    from ms_unireid.data.evaluation_sets import parse_targets

    request = TableRequest(
        table=options.table,
        configs=CONFIGS,
        output=options.output,
        rows=None if options.rows is None else tuple(options.rows),
        datasets=None if options.datasets is None else tuple(options.datasets),
        seeds=tuple(dict.fromkeys(options.seeds)),
        overlays=tuple(options.config),
        overrides=(
            *([f"data.root={options.data_root}"] if options.data_root else []),
            *([f"model.pretrained={options.pretrained}"] if options.pretrained else []),
            *options.overrides,
        ),
    )
    plan = plan_table(request)
    first = plan[0].runs[0].config
    if not options.checkpoint_dir:
        check_runs(options.output, runs_of(plan))
        if first.model.pretrained:
            checkpoint(first.model.pretrained)
    targets = {data.name: data for data in parse_targets(options.target, first)}
    check_packages()
    if options.dry_run:
        _show_plan(plan)
        return
    check_targets(plan, targets)
    from ms_unireid.apps.paper.reproduce import CheckpointChoice, reproduce
    from ms_unireid.apps.paper.table_report import to_markdown
    from ms_unireid.distributed import start
    from ms_unireid.training.trainer import Trainer

    _draw_synthetic(plan)
    environment = describe(prepare(first.runtime))
    processes = start()
    environment["processes"] = processes.size
    lines = reproduce(
        request,
        CheckpointChoice(options.select, targets, options.checkpoint_dir),
        lambda config: Trainer(config, environment, processes).fit(),
        lambda text: print(text, file=sys.stderr, flush=True),
        processes,
    )
    print(to_markdown(lines) if lines else "", end="")


def _show_plan(plan: Sequence) -> None:
    from ms_unireid.apps.paper.reproduce import multiplication_rate
    from ms_unireid.apps.paper.table_plan import estimate, runs_of

    runs = runs_of(plan)
    prepare(runs[0].config.runtime)
    rate, total = multiplication_rate(), 0.0
    for one in runs:
        found = estimate(one, rate)
        total += found.seconds or 0.0
        time = "unknown" if found.seconds is None else timedelta(seconds=round(found.seconds))
        steps = "unknown" if found.steps is None else f"{found.steps_left} of {found.steps}"
        name = f"{one.dataset:12} {one.row:8} seed {one.config.train.seed}"
        print(f"{name}: steps left {steps}, time {time} ({found.basis})")
    print(f"runs: {len(runs)}, lines: {len(plan)}; about {timedelta(seconds=round(total))} in all, without evaluation")


def _draw_synthetic(plan: Sequence) -> None:
    """Draw the synthetic data set if the plan needs it and its folder does not exist."""
    from ms_unireid.apps.paper.table_plan import needs_synthetic
    from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset

    root = Path(plan[0].runs[0].config.data.root)
    if needs_synthetic(plan) and not root.exists():
        print(f"drawing the synthetic data set into {root}", file=sys.stderr, flush=True)
        generate_tri_dataset(root, SyntheticConfig(train_photos=2), workers=2)
