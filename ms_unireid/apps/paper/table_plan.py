"""The runs that a table of the paper needs, and their time."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.apps.paper.published_tables import PaperRow, paper_rows
from ms_unireid.config import Config, load_config
from ms_unireid.config_schema import TowerSize
from ms_unireid.data.pairs import read_captioned
from ms_unireid.data.published import PUBLISHED
from ms_unireid.data.samplers import epoch_batches
from ms_unireid.errors import ConfigError, DataError
from ms_unireid.modalities import TEXT, modalities_of
from ms_unireid.models.positions import model_grid
from ms_unireid.training.run_folder import OF_A_RUN, RunFolder, read_log

# The data set that tools/make_synthetic.py draws: the layout of CUHK-PEDES, without published numbers.
SYNTHETIC = "synthetic"
CONFIG_FOLDERS = {
    "cuhk_pedes": "tri_cuhk_pedes",
    "icfg_pedes": "tri_icfg_pedes",
    "rstp_reid": "tri_rstp_reid",
    "orbench": "orbench",
    SYNTHETIC: "tri_cuhk_pedes",
}
SYNTHETIC_OVERLAY = "synthetic/tables.yaml"


@dataclass(frozen=True)
class TableRequest:
    """What to reproduce.

    Attributes:
        table: Number of the paper's table, or `orbench`.
        configs: The folder of configs.
        output: The folder of the runs, DATASET/ROW/seed_N, and of the tables.
        rows: Experiments; None means all of the table.
        datasets: Data sets to train on, `synthetic` allowed; None means all of the table.
        seeds: One run for each.
        overlays: YAML files that are read after each row's config.
        overrides: `section.key=value`, for all runs.
    """

    table: int | str
    configs: Path
    output: Path
    rows: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (1,)
    overlays: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One training run, which several lines of a table may share; its config has seed and output."""

    dataset: str
    row: str
    config: Config

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.config.train.output)


@dataclass(frozen=True)
class PlannedLine:
    """A line of the table and its runs, one for each seed."""

    paper: PaperRow
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Estimate:
    """The steps of a run, the steps left and their time; None if unknown. `basis` names the source of the time."""

    steps: int | None
    steps_left: int | None
    seconds: float | None
    basis: str


def plan_table(request: TableRequest) -> tuple[PlannedLine, ...]:
    """List the lines of a table with their runs; lines that need the same run share one object.

    ConfigError for an unknown table, row or data set, or a wrong config.
    """
    lines = _lines(request)
    runs = {key: _run(request, *key) for key in {(p.trained_on, p.row, s) for p in lines for s in request.seeds}}
    return tuple(PlannedLine(p, tuple(runs[p.trained_on, p.row, seed] for seed in request.seeds)) for p in lines)


def runs_of(lines: Sequence[PlannedLine]) -> tuple[PlannedRun, ...]:
    """List each run once, in the order of the lines."""
    return tuple({id(run): run for line in lines for run in line.runs}.values())


def check_targets(lines: Iterable[PlannedLine], targets: Collection[str]) -> None:
    """Check that a target is given for every data set that is for evaluation only; ConfigError if one is missing."""
    for line in lines:
        if line.paper.dataset not in (line.paper.trained_on, *targets):
            raise ConfigError(
                f"table {line.paper.table}: is evaluated on {line.paper.dataset}; give its folder with "
                f"--target {line.paper.dataset}=FOLDER"
            )


def check_runs(output: Path, runs: Iterable[PlannedRun]) -> None:
    """Check the folder of the runs, that existing runs were trained with the same values, and that others can begin.

    ConfigError if not.
    """
    RunFolder(output).check_unused(OF_A_RUN)
    for run in runs:
        if run.folder.holds_run():
            run.folder.check_resumable(run.config)
        else:
            run.folder.check_unused()


def needs_synthetic(lines: Sequence[PlannedLine]) -> bool:
    """Return whether a plan trains on the synthetic data set."""
    return any(line.paper.trained_on == SYNTHETIC for line in lines)


def _lines(request: TableRequest) -> list[PaperRow]:
    published = paper_rows(request.table)
    trained_on = tuple(dict.fromkeys(line.trained_on for line in published))
    datasets = request.datasets or trained_on
    rows = tuple(dict.fromkeys(line.row for line in published))
    _check_names("--datasets", datasets, (*trained_on, SYNTHETIC))
    _check_names("--rows", request.rows or (), rows)
    found = []
    for dataset in datasets:
        source = trained_on[0] if dataset == SYNTHETIC else dataset
        chosen = [p for p in published if p.trained_on == source and p.row in (request.rows or rows)]
        found += [_synthetic(p) for p in chosen] if dataset == SYNTHETIC else chosen
    return found


def _synthetic(line: PaperRow) -> PaperRow:
    """Return the line for the synthetic data set, without published numbers."""
    return dataclasses.replace(
        line, dataset=SYNTHETIC, trained_on=SYNTHETIC, published=dict.fromkeys(line.published, math.nan)
    )


def _check_names(option: str, names: Sequence[str], valid: Sequence[str]) -> None:
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise ConfigError(f"{option} {unknown[0]}: expected some of {', '.join(valid)} for this table")


def _run(request: TableRequest, dataset: str, row: str, seed: int) -> PlannedRun:
    files = [request.configs / CONFIG_FOLDERS[dataset] / f"{row}.yaml"]
    if dataset == SYNTHETIC:
        files.append(request.configs / SYNTHETIC_OVERLAY)
    output = request.output / dataset / row / f"seed_{seed}"
    own = (f"train.seed={seed}", f"train.output={output}", "train.resume=auto")
    return PlannedRun(dataset, row, load_config([*files, *request.overlays], [*request.overrides, *own]))


def estimate(run: PlannedRun, rate: float | None = None) -> Estimate:
    """Estimate a run's steps and the time of those left, from the speed in its log, else from `rate`.

    Args:
        run: The run.
        rate: Floating-point operations per second, see `reproduce.multiplication_rate`.
    """
    steps_an_epoch = _steps_an_epoch(run.config)
    if steps_an_epoch is None:
        return Estimate(None, None, None, "the data set is missing")
    steps = steps_an_epoch * run.config.train.epochs
    done, speed = _progress(run)
    if run.folder.finished_results(run.config.train.epochs):
        return Estimate(steps, 0, 0.0, "finished")
    left, size = max(0, steps - done), run.config.data.batch_size
    if speed is not None:
        return Estimate(steps, left, left * size / speed, "its own log")
    if rate is None:
        return Estimate(steps, left, None, "unknown")
    return Estimate(
        steps, left, left * size * operations_per_pair(run.config) / rate, "the rate of matrix products here"
    )


def _steps_an_epoch(config: Config) -> int | None:
    try:
        persons = read_captioned(config.data).training_persons()
    except DataError:
        captions = PUBLISHED[config.data.name]["train"].get("captions")
        if config.data.sampler != "shuffle" or captions is None:
            return None  # it depends on the persons of the photos
        persons = range(captions)
    return len(epoch_batches(persons, config.data, config.train.seed, 1))


def _progress(run: PlannedRun) -> tuple[int, float | None]:
    """Return the last logged step, and the mean speed in pairs per second."""
    steps = [entry for entry in read_log(run.folder.log_file) if entry["kind"] == "step"]
    # The first entry includes the compilation.
    speeds = [speed for entry in steps[1:] if (speed := entry.get("pairs_per_second"))]
    return steps[-1]["step"] if steps else 0, sum(speeds) / len(speeds) if speeds else None


def operations_per_pair(config: Config) -> float:
    """Count the floating-point operations of the matrix products of one pair in a training step."""
    sizes, model = config.model.sizes, config.model
    asked = {part for task in config.objective.tasks for part in modalities_of(task)}
    pictures, captions = 1 + len(asked - {TEXT}), len(asked & {TEXT})
    vision, text = _tower(sizes.vision, math.prod(model_grid(model)) + 1), _tower(sizes.text, model.context_length)
    forward = pictures * vision + captions * text
    # The backward pass costs two forward passes; chunks are encoded twice, recomputed blocks once more.
    return forward * (3 + (config.train.cache_chunk is not None) + config.runtime.recompute)


def _tower(size: TowerSize, tokens: int) -> float:
    return size.layers * tokens * (24 * size.width**2 + 4 * tokens * size.width)
