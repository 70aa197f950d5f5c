"""Learning curves of a run as one picture, drawn from its log."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ms_unireid.files import replacing
from ms_unireid.modalities import MEAN, symbol
from ms_unireid.training.run_folder import read_log

WIDTH, TOP, ROW = 16.0, 5.0, 3.2  # inches: the picture, its upper row and each lower one
DOTS_PER_INCH = 100
# About as many as a panel has pixels for; longer series are averaged.
POINTS = 400
MARKED_POINTS = 60
# Distinct for colour-blind readers too (Okabe and Ito).
COLORS = {"text": "#0072B2", "sketch": "#D55E00", "fusion": "#009E73"}
PROTOCOL_COLORS = {("text", "full_gallery"): "#56B4E9", ("sketch", "full_gallery"): "#E69F00"}
FURTHER_COLORS = ("#CC79A7", "#F0E442", "#000000", "#999999")  # of the tasks that the paper does not have
SPLIT_STYLES = {"val": "-", "test": "--", "train": ":"}

# (key of the log, label, colour, line style)
_Line = tuple[str, str, str, str]
LOSS_LINES: tuple[_Line, ...] = (
    ("loss", "loss", "black", "-"),
    ("loss_text", "text", COLORS["text"], "-"),
    ("loss_sketch", "sketch", COLORS["sketch"], "-"),
    ("loss_fusion", "fusion", COLORS["fusion"], "-"),
    ("interaction", "interaction", "#CC79A7", "-"),
)
# Title, lines, and whether the vertical axis is logarithmic.
LOWER_PANELS: tuple[tuple[str, tuple[_Line, ...], bool], ...] = (
    ("learning rate", (("learning_rate", "", "black", "-"),), False),
    ("temperature", (("temperature", "", "black", "-"),), False),
    (
        "weights and confidences, batch means",
        (
            ("weight_text", "$w_T$", COLORS["text"], "-"),
            ("weight_sketch", "$w_S$", COLORS["sketch"], "-"),
            ("confidence_text", "$p_T$", COLORS["text"], "--"),
            ("confidence_sketch", "$p_S$", COLORS["sketch"], "--"),
        ),
        False,
    ),
    ("gradient norm", (("gradient_norm", "", "black", "-"),), True),
    ("loss scale", (("loss_scale", "", "black", "-"),), True),
    ("pairs per second", (("pairs_per_second", "", "black", "-"),), False),
)


def draw_curves(log_file: Path, output: Path) -> None:
    """Draw a run's log.jsonl so far as a PNG of 1600 pixels width; values that are not finite are left out.

    UserError if the picture cannot be written.
    """
    entries = read_log(log_file)
    steps = [entry for entry in entries if entry["kind"] == "step"]
    evaluations = [entry for entry in entries if entry["kind"] == "evaluation"]
    panels = [panel for panel in LOWER_PANELS if any(key in entry for key, *_ in panel[1] for entry in steps)]
    figure, upper, lower = _lay_out(len(panels))
    further = dict.fromkeys(key.removeprefix("loss_") for entry in steps for key in entry if key.startswith("loss_"))
    lines = [(f"loss_{task}", task, _color(task, further), "-") for task in further if task not in (*COLORS, "scale")]
    _draw_lines(upper[0], "loss and its parts", (*LOSS_LINES, *lines), steps)
    _draw_accuracy(upper[1], evaluations)
    for axes, (title, lines, logarithmic) in zip(lower, panels, strict=True):
        _draw_lines(axes, title, lines, steps, logarithmic)
    figure.suptitle(_title(log_file, entries), y=1 - 0.12 / figure.get_figheight(), va="top")
    with replacing(output) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reduce a series (N,) to at most `points` groups of neighbours.

    Returns the groups' last x, and mean, smallest and largest finite y; NaN where a group has no finite y.
    """
    if not len(x):
        return x, y, y, y
    groups = np.array_split(y, min(len(x), points))
    ends = np.cumsum([len(group) for group in groups]) - 1
    finite = [group[np.isfinite(group)] for group in groups]
    mean, low, high = np.transpose([(f.mean(), f.min(), f.max()) if len(f) else [np.nan] * 3 for f in finite])
    return x[ends], mean, low, high


def _lay_out(count: int) -> tuple[Figure, list[Axes], list[Axes]]:
    """Return a figure with its two upper panels and `count` lower ones."""
    columns = 4 if count == 4 else 3
    rows = -(-count // columns)
    height = TOP + rows * ROW
    # Fixed margins: measuring every label would take longer than the drawing.
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH)
    figure.subplots_adjust(0.04, 0.5 / height, 0.985, 1 - 0.7 / height, wspace=0.9, hspace=0.27)
    grid = figure.add_gridspec(1 + rows, 12, height_ratios=[TOP, *[ROW] * rows])
    upper = [figure.add_subplot(grid[0, :6]), figure.add_subplot(grid[0, 6:])]
    span = 12 // columns
    places = [divmod(place, columns) for place in range(count)]
    lower = [figure.add_subplot(grid[1 + row, span * column : span * (column + 1)]) for row, column in places]
    return figure, upper, lower


def _title(log_file: Path, entries: Sequence[dict[str, Any]]) -> str:
    name = log_file.resolve().parent.name
    last = next((e for e in reversed(entries) if "epoch" in e), None)
    return name if last is None else f"{name}: epoch {last['epoch']}, step {last['step']}"


def _draw_lines(
    axes: Axes, title: str, lines: Sequence[_Line], steps: Sequence[dict[str, Any]], logarithmic: bool = False
) -> None:
    """Draw series over steps: means, and behind them the range of the averaged values."""
    for key, label, color, style in lines:
        points = [(e["step"], np.nan if e[key] is None else e[key]) for e in steps if key in e]
        x, mean, low, high = thin(*np.array(points, float).reshape(-1, 2).T)
        if not np.isfinite(mean).any():
            continue
        marker = "." if len(x) <= MARKED_POINTS else ""
        axes.plot(x, mean, color=color, linestyle=style, marker=marker, linewidth=1.3, label=label)
        if len(points) > len(x):
            axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    if logarithmic and any((line.get_ydata() > 0).any() for line in axes.lines):
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    _finish(axes, title, "step", [line for line in axes.lines if not line.get_label().startswith("_")])


def _draw_accuracy(axes: Axes, evaluations: Sequence[dict[str, Any]]) -> None:
    """Draw R1 over epochs: a colour for each task and protocol, a line style for each split."""
    curves: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for entry in evaluations:
        for split, rows in entry["splits"].items():
            # The means stand for ORBench's 32 tasks.
            for row in [row for row in rows if row["task"].startswith(MEAN)] or rows:
                points = curves.setdefault((row["task"], row["protocol"], split), [])
                points.append((entry["epoch"], np.nan if row["R1"] is None else row["R1"]))
    tasks = dict.fromkeys(task for task, *_ in curves)
    for (task, protocol, split), points in curves.items():
        color, style = _color(task, tasks, protocol), SPLIT_STYLES[split]
        marker = "." if len(points) <= MARKED_POINTS else ""
        axes.plot(*zip(*points, strict=True), color=color, linestyle=style, marker=marker, linewidth=1.6)
    axes.set_ylim(bottom=0)
    _finish(axes, "R1 in percent", "epoch", _accuracy_legend(curves))


def _accuracy_legend(curves: dict[tuple[str, str, str], Any]) -> list[Line2D]:
    rows = dict.fromkeys((task, protocol) for task, protocol, _ in curves)
    splits, tasks = dict.fromkeys(split for *_, split in curves), dict.fromkeys(task for task, _ in rows)
    colors = [
        Line2D(
            [],
            [],
            color=_color(task, tasks, protocol),
            linewidth=3,
            label=f"{symbol(task).replace('->', ' → ')}, {protocol.replace('_', ' ')}",
        )
        for task, protocol in rows
    ]
    return [*colors, *(Line2D([], [], color="black", linestyle=SPLIT_STYLES[s], label=s) for s in splits)]


def _color(task: str, tasks: Iterable[str], protocol: str = "") -> str:
    """Return the colour of a task among some."""
    further = [one for one in tasks if one not in COLORS]
    if task in further:
        return FURTHER_COLORS[further.index(task) % len(FURTHER_COLORS)]
    return PROTOCOL_COLORS.get((task, protocol), COLORS[task])


def _finish(axes: Axes, title: str, x_label: str, handles: Sequence[Line2D]) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    left, right = axes.get_xlim()
    if right - left < 1:  # a single point
        axes.set_xlim(left - 1, right + 1)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    if not axes.lines:
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color="gray")
    elif handles:
        axes.legend(handles=handles, fontsize=9, framealpha=0.7, edgecolor="none")
