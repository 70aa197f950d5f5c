"""Train a UNIReID, with evaluations during training."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ms_unireid.apps.arguments import Parser, checkpoint
from ms_unireid.runtime import check_packages, describe, prepare


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Train a UNIReID and print the final table. Checkpoints and logs go to train.output.",
        epilog="example: %(prog)s --config configs/synthetic/demo.yaml train.epochs=2 train.output=runs/short; "
        "to resume: %(prog)s train.resume=runs/short",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="YAML file or name of a config; repeatable, a later one wins, such as devices/gpu; not needed with "
        "train.resume=RUN",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    from ms_unireid.config import load_config
    from ms_unireid.training.run_folder import RunFolder

    config_file = options.config
    if config_file is None:
        resume = load_config(None, [o for o in options.overrides if o.startswith("train.resume=")]).train.resume
        if resume not in (None, "auto"):
            run = RunFolder(resume)
            run.check_run()
            config_file = run.config_file
    config = load_config(config_file, options.overrides)
    if config.model.pretrained and not config.train.resume:
        checkpoint(config.model.pretrained)
    check_packages()
    from ms_unireid.distributed import start
    from ms_unireid.evaluation.evaluator import to_table
    from ms_unireid.training.seeds import seeds_markdown, train_seeds
    from ms_unireid.training.trainer import Trainer

    device = prepare(config.runtime)
    processes = start()
    environment = {**describe(device), "processes": processes.size}
    if config.train.seeds:
        report = train_seeds(config, lambda one: Trainer(one, environment, processes).fit(), processes)
        print(seeds_markdown(report) if report else "", end="")
        return
    results = Trainer(config, environment, processes).fit()
    if not processes.first:
        return
    for split, rows in results["best"]["average"]["splits"].items():
        print(f"best average, epoch {results['best']['average']['epoch']}, {split}\n{to_table(rows)}")
