"""A reproduced table as Markdown, CSV, LaTeX and JSON: our numbers, the paper's and the difference; and its curves."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ms_unireid.apps.paper.published_tables import PaperRow
from ms_unireid.apps.paper.table_plan import PlannedLine
from ms_unireid.evaluation.evaluator import format_mean, format_table
from ms_unireid.files import replacing, write_json, write_text
from ms_unireid.modalities import symbol

EMPTY = "-"
CSV_COLUMNS = (
    "dataset", "trained_on", "task", "row", "protocol", "metric", "ours", "deviation", "seeds", "paper", "difference",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One number of a table in percent: the published one, if any, and ours, one for each evaluated seed."""

    metric: str
    paper: float | None
    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Our mean over seeds; None without a run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Our sample standard deviation; None for fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's number; None if one is missing."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


@dataclass(frozen=True)
class Line:
    """A line of the report: the paper's line, our numbers, their seeds, and why seeds are missing."""

    paper: PaperRow
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    missing: str = ""


def make_line(paper: PaperRow, scores: dict[int, dict[str, float | None]], missing: str = "") -> Line:
    """Make a line from the metrics in percent of each seed, or None, and from the reason why seeds are missing."""
    cells = tuple(
        Cell(
            metric,
            None if math.isnan(value) else value,
            tuple(found[metric] for found in scores.values() if found[metric] is not None),
        )
        for metric, value in paper.published.items()
    )
    return Line(paper, cells, tuple(scores), missing)


def write_report(folder: Path, table: int | str, lines: Sequence[Line], about: dict[str, Any]) -> None:
    """Write table_N.md, .csv, .tex and .json to a folder; `about` is added to the JSON.

    UserError if a file cannot be written.
    """
    stem = folder / f"table_{table}"
    write_text(stem.with_suffix(".md"), to_markdown(lines))
    write_text(stem.with_suffix(".csv"), to_csv(lines))
    write_text(stem.with_suffix(".tex"), to_latex(lines))
    write_json(stem.with_suffix(".json"), {"table": table, **about, "lines": to_json(lines)})


def draw_curves(file: Path, lines: Sequence[PlannedLine], split: str) -> None:
    """Draw the R1 of a split over epochs as a PNG: a panel for each data set and task, a line for each row.

    A line is the mean over the seeds that were evaluated, within a sample standard deviation. Lines of a data set that
    their runs were not evaluated on are left out. UserError if the file cannot be written.
    """
    trained = [line for line in lines if line.paper.dataset == line.paper.trained_on]
    panels = list(dict.fromkeys((line.paper.dataset, line.paper.task, line.paper.protocol) for line in trained))
    columns = min(3, len(panels)) or 1
    size = (5 * columns, 4 * max(1, -(-len(panels) // columns)))
    figure = Figure(figsize=size, dpi=100, layout="tight")
    for number, (dataset, task, protocol) in enumerate(panels, start=1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, number, xlabel="epoch")
        axes.set_title(f"{dataset}, {symbol(task)}, {protocol}: R1 in percent", fontsize=9)
        for line in trained:
            if (line.paper.dataset, line.paper.task, line.paper.protocol) == (dataset, task, protocol):
                _draw_curve(axes, line, split)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    with replacing(file) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _draw_curve(axes: Axes, line: PlannedLine, split: str) -> None:
    by_epoch: dict[int, list[float]] = {}
    for run in line.runs:
        for entry in run.folder.results()["evaluations"]:
            for row in entry["splits"].get(split, ()):
                if (row["task"], row["protocol"]) == (line.paper.task, line.paper.protocol) and row["R1"] is not None:
                    by_epoch.setdefault(entry["epoch"], []).append(row["R1"])
    epochs, mean = sorted(by_epoch), np.array([statistics.fmean(by_epoch[epoch]) for epoch in sorted(by_epoch)])
    spread = [statistics.stdev(by_epoch[epoch]) if len(by_epoch[epoch]) > 1 else 0.0 for epoch in epochs]
    (drawn,) = axes.plot(epochs, mean, marker=".", label=line.paper.label)
    axes.fill_between(epochs, mean - spread, mean + spread, color=drawn.get_color(), alpha=0.15, linewidth=0)


def to_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """List the lines as plain dictionaries; numbers are not rounded."""
    return [
        {
            "dataset": line.paper.dataset,
            "trained_on": line.paper.trained_on,
            "task": line.paper.task,
            "row": line.paper.row,
            "label": line.paper.label,
            "protocol": line.paper.protocol,
            "seeds": list(line.seeds),
            "missing": line.missing,
            "metrics": {
                cell.metric: {
                    "ours": cell.mean,
                    "standard_deviation": cell.deviation,
                    "values": list(cell.values),
                    "paper": cell.paper,
                    "difference": cell.difference,
                }
                for cell in line.cells
            },
        }
        for line in lines
    ]


def to_markdown(lines: Sequence[Line]) -> str:
    """Lay the lines out as a Markdown table; ± is the sample standard deviation over seeds."""
    notes = [f"{' '.join(_names(line))}: {line.missing}" for line in lines if line.missing]
    return _table(lines, "pipe") + "\n" + "".join(f"\n{note}  " for note in notes) + ("\n" if notes else "")


def to_csv(lines: Sequence[Line]) -> str:
    """Write one record for each number, not rounded."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for line in lines:
        p = line.paper
        names = [p.dataset, p.trained_on, p.task, p.row, p.protocol]
        for c in line.cells:
            writer.writerow([*names, c.metric, c.mean, c.deviation, len(c.values), c.paper, c.difference])
    return file.getvalue()


def to_latex(lines: Sequence[Line]) -> str:
    """Lay the lines out as a LaTeX `tabular`, for the package booktabs."""
    text = _table(lines, "latex_booktabs")
    return text.replace(r"-\ensuremath{>}", r"$\rightarrow$").replace("±", r"$\pm$") + "\n"


def _table(lines: Sequence[Line], table_format: str) -> str:
    titles = ["data set", "task", "row"]
    for cell in lines[0].cells:
        titles += [f"{cell.metric} ours", "paper", "difference"]
    return format_table(titles, [[*_names(line), *_numbers(line)] for line in lines], 3, table_format)


def _names(line: Line) -> tuple[str, str, str]:
    return line.paper.dataset, symbol(line.paper.task), line.paper.label


def _numbers(line: Line) -> list[str]:
    texts = []
    for cell in line.cells:
        texts.append(format_mean(cell.mean, cell.deviation))
        texts.append(format_mean(cell.paper))
        texts.append(EMPTY if cell.difference is None else f"{cell.difference:+.2f}")
    return texts
