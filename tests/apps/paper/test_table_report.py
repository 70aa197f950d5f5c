"""A table's lines as Markdown, CSV, LaTeX and JSON."""

import csv
import json
import math
import statistics

import pytest

from ms_unireid.apps.paper.published_tables import paper_rows
from ms_unireid.apps.paper.table_report import make_line, to_csv, to_json, to_latex, to_markdown, write_report

PAPER = next(line for line in paper_rows(2) if (line.dataset, line.task, line.row) == ("cuhk_pedes", "text", "tasks"))
SCORES = {1: {"R1": 50.0, "mAP": 49.5, "mINP": 40.0}, 2: {"R1": 52.0, "mAP": 50.5, "mINP": 41.0}}


def cells(row: str, separator: str = "|") -> list[str]:
    """Split a row of a table into its cells."""
    return [cell.strip() for cell in row.strip("| ").removesuffix(r"\\").split(separator)]


@pytest.fixture
def lines():
    return [
        make_line(PAPER, SCORES),
        make_line(PAPER, {}, "no checkpoint for seed 1"),
        make_line(PAPER, {3: SCORES[1]}),
    ]


def test_mean_deviation_and_difference(lines):
    cell = lines[0].cells[0]
    assert (cell.metric, cell.mean, cell.paper) == ("R1", 51.0, 51.06)
    assert cell.deviation == pytest.approx(statistics.stdev([50, 52])) and cell.difference == pytest.approx(-0.06)
    assert lines[2].cells[0].deviation is None and lines[0].seeds == (1, 2)


def test_nothing_is_filled_in_without_a_run(lines):
    assert {(c.mean, c.deviation, c.difference) for c in lines[1].cells} == {(None, None, None)}
    (row,) = to_markdown([lines[1]]).splitlines()[2:3]
    assert cells(row) == ["cuhk_pedes", "T->R", "L_s", "-", "51.06", "-", "-", "50.73", "-", "-", "41.41", "-"]
    assert "cuhk_pedes T->R L_s: no checkpoint for seed 1" in to_markdown(lines)


def test_a_seed_without_a_match_is_a_dash():
    unknown = dict.fromkeys(SCORES[1])
    (row,) = to_markdown([make_line(PAPER, {1: unknown})]).splitlines()[2:3]
    assert cells(row)[3::3] == ["-"] * 3
    assert make_line(PAPER, {1: unknown, 2: SCORES[1]}).cells[0].values == (SCORES[1]["R1"],)


def test_markdown(lines):
    header, rules, first, *_ = to_markdown(lines).splitlines()
    assert cells(header)[:7] == ["data set", "task", "row", "R1 ours", "paper", "difference", "mAP ours"]
    assert [rule.endswith("-:") for rule in cells(rules)] == [False] * 3 + [True] * 9
    assert header.count("|") == rules.count("|") == first.count("|") == 13
    names, numbers = cells(first)[:3], cells(first)[3:9]
    assert names == ["cuhk_pedes", "T->R", "L_s"]
    assert numbers == ["51.00 ± 1.41", "51.06", "-0.06", "50.00 ± 0.71", "50.73", "-0.73"]


def test_csv_keeps_every_digit(lines):
    records = list(csv.DictReader(to_csv(lines).splitlines()))
    assert len(records) == 9
    assert float(records[0]["ours"]) == 51.0 and float(records[0]["difference"]) == 51.0 - 51.06
    assert (records[3]["ours"], records[3]["paper"], records[3]["seeds"]) == ("", "51.06", "0")


def test_latex(lines):
    text = to_latex(lines)
    assert text.startswith("\\begin{tabular}{lllrrrrrrrrr}") and text.endswith("\\end{tabular}\n")
    rows = [cells(line, "&") for line in text.splitlines() if "&" in line]
    assert {len(row) for row in rows} == {12} and rows[0][:6] == cells(to_markdown(lines).splitlines()[0])[:6]
    assert rows[1][:6] == [r"cuhk\_pedes", r"T$\rightarrow$R", r"L\_s", r"51.00 $\pm$ 1.41", "51.06", "-0.06"]
    assert [line for line in text.splitlines() if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_where_nothing_is_published(lines):
    import dataclasses

    nothing = dataclasses.replace(PAPER, published=dict.fromkeys(PAPER.published, math.nan))
    line = make_line(nothing, SCORES)
    assert {(cell.paper, cell.difference) for cell in line.cells} == {(None, None)}
    assert cells(to_markdown([line]).splitlines()[2])[3:6] == ["51.00 ± 1.41", "-", "-"]
    json.loads(json.dumps(to_json([line]), allow_nan=False))


def test_four_files(lines, tmp_path):
    write_report(tmp_path, 2, lines, {"split": "test"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"table_2.{s}" for s in ("csv", "json", "md", "tex")]
    found = json.loads((tmp_path / "table_2.json").read_text(encoding="utf-8"))
    assert (found["table"], found["split"], len(found["lines"])) == (2, "test", 3)
    assert found["lines"][0]["metrics"]["mINP"]["values"] == [40.0, 41.0]
    assert found["lines"][1]["missing"] == "no checkpoint for seed 1"
