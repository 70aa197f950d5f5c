"""One run for each seed, and the mean and standard deviation of their scores."""

import dataclasses
import gc
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ms_unireid.config import Config
from ms_unireid.errors import ConfigError, Interrupted
from ms_unireid.evaluation.evaluator import format_mean, format_table
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.files import write_json, write_text
from ms_unireid.modalities import symbol
from ms_unireid.runtime import ALONE, Processes
from ms_unireid.training.run_folder import OF_A_RUN, RunFolder


def train_seeds(
    config: Config, train: Callable[[Config], dict[str, Any]], processes: Processes = ALONE
) -> dict[str, Any]:
    """Train once with each of `train.seeds` in `train.output`/seed_N, then write seeds.json and seeds.md.

    With `train.resume=auto` finished runs are kept and an interrupted run is resumed. `train` trains one config and
    returns the contents of its results.json. All processes that train together call this; the first writes the report.

    Returns the contents of seeds.json, from the checkpoints with the best average; empty in all processes but the
    first. ConfigError if the output is a single run, has runs of these seeds without `train.resume=auto`, or has a run
    with other values; Interrupted after a signal; UserError from `train`, or if a file cannot be written.
    """
    root = Path(config.train.output)
    runs = {seed: _of_seed(config, seed) for seed in config.train.seeds or ()}
    _check(root, runs)
    results = {}
    for seed, run in runs.items():
        finished = RunFolder(run.train.output).finished_results(run.train.epochs)
        try:
            results[seed] = train(run) if finished is None else finished
        except Interrupted as error:
            advice = f"in seed {seed}; repeat the command with train.resume=auto"
            raise Interrupted(error.signal_number, advice) from error
        gc.collect()  # a trainer refers to itself, and would keep its weights while the next one trains
    if not processes.first:
        return {}
    report = report_seeds(results)
    write_json(root / "seeds.json", report)
    write_text(root / "seeds.md", seeds_markdown(report))
    return report


def report_seeds(results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Compare the best-average checkpoints of several runs, by the contents of each seed's results.json.

    Returns:
        `seeds`, `selection_split`, `runs` (folder, best epoch and average R1 of each) and `splits`: for each split that
        all runs report, rows with task, protocol, and for each metric the mean, the sample standard deviation (None for
        a single seed) and the values in the order of `seeds`.
    """
    best = {seed: result["best"]["average"] for seed, result in results.items()}
    runs = {
        str(seed): {"folder": _folder_name(seed), "epoch": b["epoch"], "average_R1": b["R1"]}
        for seed, b in best.items()
    }
    first, *others = [b["splits"] for b in best.values()]
    common = [split for split in first if all(split in splits for splits in others)]
    return {
        "seeds": list(results),
        "selection_split": next(iter(results.values()))["selection_split"],
        "runs": runs,
        "splits": {split: _compare([b["splits"][split] for b in best.values()]) for split in common},
    }


def seeds_markdown(report: dict[str, Any]) -> str:
    """Lay out a report as Markdown: for each split a table of mean ± standard deviation."""
    seeds, split = ", ".join(map(str, report["seeds"])), report["selection_split"]
    how = "mean ± sample standard deviation" if len(report["seeds"]) > 1 else "a single run"
    epochs = ", ".join(str(run["epoch"]) for run in report["runs"].values())
    lines = [f"Seeds {seeds}: {how}, each at its best average R1 on {split} (epochs {epochs})."]
    for name, rows in report["splits"].items():
        cells = [
            [symbol(row["task"]), row["protocol"]]
            + [format_mean(row[name]["mean"], row[name]["standard_deviation"]) for name in METRICS]
            for row in rows
        ]
        lines += ["", f"**{name}**", "", format_table(("task", "protocol", *METRICS), cells, 2)]
    return "\n".join(lines) + "\n"


def _of_seed(config: Config, seed: int) -> Config:
    output = str(Path(config.train.output) / _folder_name(seed))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed, output=output, seeds=None))


def _folder_name(seed: int) -> str:
    return f"seed_{seed}"


def _check(root: Path, runs: dict[int, Config]) -> None:
    """Check all folders now, not after hours of training."""
    if RunFolder(root).holds_run():
        raise ConfigError(
            f"{root}: holds a single run, but train.seeds needs a folder of runs; choose another train.output"
        )
    RunFolder(root).check_unused(OF_A_RUN)
    for run in runs.values():
        folder = RunFolder(run.train.output)
        if folder.holds_run() and run.train.resume == "auto":
            folder.check_resumable(run)
        else:
            folder.check_unused(resume="auto")


def _compare(tables: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    indexed = [{(row["task"], row["protocol"]): row for row in rows} for rows in tables]
    return [
        {
            "task": task,
            "protocol": protocol,
            **{metric: _spread([table[task, protocol][metric] for table in indexed]) for metric in METRICS},
        }
        for task, protocol in indexed[0]
        if all((task, protocol) in table for table in indexed)
    ]


def _spread(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known) if known else None, "standard_deviation": deviation, "values": values}
