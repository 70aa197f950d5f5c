"""Error analysis: its files agree with the metrics of the same features."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.tri_factory import put_picture
from evaluation.splits import person_split, tri_split
from PIL import Image

from ms_unireid.config import TASKS
from ms_unireid.data.evaluation_sets import EvaluationSet
from ms_unireid.errors import DataError
from ms_unireid.evaluation.error_analysis import COLUMNS, analyse_errors
from ms_unireid.evaluation.figures import draw_ranked_lists, rank_query
from ms_unireid.evaluation.protocols import evaluate_row
from ms_unireid.evaluation.queries import SplitFeatures, make_queries, tasks_of
from ms_unireid.modalities import symbol

WORDS = (1, 10, 11, 25, 55)


def data_of(feats: SplitFeatures, folder: Path) -> EvaluationSet:
    """Make pictures and captions for features; captions have one of a few lengths, sketches one of three styles."""
    return EvaluationSet(
        photos=tuple(put_picture(folder / f"photo{i}.jpg") for i in range(len(feats.photo))),
        sketches=tuple(put_picture(folder / f"sketch{i}.jpg") for i in range(len(feats.sketch))),
        captions=tuple("  word\n" * WORDS[i % len(WORDS)] for i in range(len(feats.text))),
        person_ids=feats.person_ids,
        styles=tuple(("a", "b", "")[i % 3] for i in range(len(feats.sketch))),
        caption_photos=feats.caption_photos,
        caption_persons=feats.caption_persons,
        sketch_persons=feats.sketch_persons,
    )


KINDS = {
    "photos": lambda: tri_split(0, photos=20, people=9, captions=30),
    "persons": lambda: person_split(0),
    "persons without captions": lambda: person_split(0, captions=0),
}


@pytest.fixture(params=KINDS, scope="module")
def analysed(request, tmp_path_factory):
    feats = KINDS[request.param]()
    folder = tmp_path_factory.mktemp("errors")
    data = data_of(feats, folder / "pictures")
    analyse_errors(feats, data, folder / "out", worst=3)
    with (folder / "out" / "queries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return feats, data, folder / "out", rows


def rule(feats):
    return "full_gallery" if feats.caption_photos is None else "exclude_source_photo"


def test_it_writes_its_files(analysed):
    feats, _, folder, rows = analysed
    assert {p.name for p in folder.iterdir()} == {"queries.csv", "groups.md"} | {
        f"worst_{t}.png" for t in tasks_of(feats)
    }
    assert tuple(rows[0]) == COLUMNS
    assert list(dict.fromkeys(row["task"] for row in rows)) == list(tasks_of(feats))
    sizes = []
    for task in tasks_of(feats):
        with Image.open(folder / f"worst_{task}.png") as picture:
            picture.load()
            sizes.append(picture.size)
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("task", TASKS)
def test_the_queries_average_to_the_metrics(analysed, task):
    feats, _, _, rows = analysed
    rows = [row for row in rows if row["task"] == task]
    if task not in tasks_of(feats):
        assert rows == []
        return
    found = [row for row in rows if row["matches"] != "0"]
    expected = evaluate_row(task, rule(feats), feats)
    assert (len(found), len(rows) - len(found)) == (expected.queries, expected.queries_without_match)
    for k in (1, 5, 10):
        share = sum(int(row["first_rank"]) <= k for row in found) / len(found)
        assert 100 * share == pytest.approx(getattr(expected, f"R{k}"), abs=1e-9)
    for column, metric in (("AP", "mAP"), ("INP", "mINP")):
        mean = 100 * sum(float(row[column]) for row in found) / len(found)
        assert mean == pytest.approx(getattr(expected, metric), abs=1e-9)


def test_each_query_is_described(analysed):
    feats, data, _, rows = analysed
    for task in tasks_of(feats):
        task_queries = make_queries(task, feats)
        for query, row in enumerate(row for row in rows if row["task"] == task):
            first = rank_query(feats, task_queries, query)[0][0]
            assert (int(row["query"]), int(row["person"])) == (query, task_queries.person_ids[query])
            assert (row["first_result"], int(row["first_result_person"])) == (
                str(data.photos[first]),
                feats.person_ids[first],
            )
            assert (row["first_rank"] == "1") == (row["person"] == row["first_result_person"])
            assert (row["caption"] == "") == (task == "sketch") and "\n" not in row["caption"]
            assert (row["sketch"] == "") == (task == "text")


def test_groups_are_those_of_the_queries(analysed):
    _, data, folder, rows = analysed
    lines = (folder / "groups.md").read_text(encoding="utf-8").splitlines()[2:]
    written = {}
    for line in lines:
        task, by, group, queries, r1, mean = (cell.strip() for cell in line.strip("|").split("|"))
        written[task, by, group] = int(queries), r1, mean
    style = dict(zip(map(str, data.sketches), data.styles, strict=True))
    expected = {}
    for row in rows:
        if row["matches"] == "0":
            continue
        sign, words = symbol(row["task"]), len(row["caption"].split())
        groups = []
        if row["caption"]:
            length = {1: "01-10", 10: "01-10", 11: "11-20", 25: "21-30", 55: "41 or more"}[words]
            groups.append((sign, "words of the caption", length))
        if row["sketch"]:
            groups.append((sign, "style of the sketch", style[row["sketch"]] or "unknown"))
        for group in groups:
            expected.setdefault(group, []).append(row)
    assert written.keys() == expected.keys()
    for group, members in expected.items():
        r1 = 100 * np.mean([row["first_rank"] == "1" for row in members])
        mean = 100 * np.mean([float(row["AP"]) for row in members])
        assert written[group] == (len(members), f"{r1:.2f}", f"{mean:.2f}")


def test_the_worst_are_those_found_last(tmp_path, monkeypatch):
    from ms_unireid.evaluation import error_analysis

    drawn = {}
    monkeypatch.setattr(error_analysis, "draw_queries", lambda feats, data, asked, *_: drawn.update(asked_of(asked)))
    feats = KINDS["photos"]()
    analyse_errors(feats, data_of(feats, tmp_path / "pictures"), tmp_path, worst=4)
    with (tmp_path / "queries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for task in TASKS:
        order = sorted((r for r in rows if r["task"] == task), key=lambda r: (-int(r["first_rank"]), float(r["AP"])))
        assert drawn[task] == [int(row["query"]) for row in order[:4]]
        assert int(order[0]["first_rank"]) > 1


def test_of_many_given_tasks_a_few_are_drawn(tmp_path):
    feats = person_split(0)
    both = make_queries("fusion", feats)
    pairs = np.stack([both.captions, both.sketches], 1)
    given = {"text": pairs[:, :1], "sketch": pairs[:, 1:], "fusion": pairs, "sketch+text": pairs[:, ::-1]}
    feats = replace(feats, given=given)
    data = data_of(feats, tmp_path / "pictures")
    for folder, tasks, drawn in (("all", None, ["fusion", "text"]), ("few", ["sketch"], ["sketch"])):
        analyse_errors(feats, data, tmp_path / folder, worst=2, tasks=tasks)
        assert sorted(file.name for file in (tmp_path / folder).glob("*.png")) == [
            f"worst_{task}.png" for task in drawn
        ]
        with (tmp_path / folder / "queries.csv").open(encoding="utf-8", newline="") as file:
            assert {row["task"] for row in csv.DictReader(file)} == set(tasks or given)


def asked_of(asked):
    return {asked[0][0]: [query for _, query in asked]}


def test_a_picture_that_is_gone(tmp_path):
    feats = KINDS["persons"]()
    data = data_of(feats, tmp_path / "pictures")
    for sketch in data.sketches:
        sketch.unlink()
    with pytest.raises(DataError, match=r"sketch\d+\.jpg"):
        analyse_errors(feats, data, tmp_path / "out")
    assert not (tmp_path / "out" / "queries.csv").exists()


def test_ranked_lists_of_persons_some_without_a_caption(tmp_path):
    feats = person_split(0)
    data = data_of(feats, tmp_path / "pictures")
    draw_ranked_lists(feats, data, tmp_path / "all.png", count=99)
    silent = set(feats.sketch_persons) - set(feats.caption_persons)
    alone = sum(person in silent for person in feats.sketch_persons)
    assert alone
    draw_ranked_lists(person_split(0, captions=0), data, tmp_path / "sketch.png", count=99)
    with Image.open(tmp_path / "all.png") as whole, Image.open(tmp_path / "sketch.png") as sketches:
        row = (sketches.height - 28) // len(data.sketches)
        assert (whole.height - 28) // row == 3 * len(data.sketches) - 2 * alone
