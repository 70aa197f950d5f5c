"""The benchmark of the evaluation: its baseline is the definition, and its figures are of real runs."""

import json

import numpy as np
import pytest
from evaluation.cases import RULES, assert_same, exact_similarity, literal_scores, random_case
from tool_runner import load_tool, run_tool

from ms_unireid.evaluation.metrics import Gallery, Queries, evaluate_retrieval


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark.py")


@pytest.mark.parametrize("rules", [rules for rules in RULES if "camera" not in rules])
def test_the_loop_is_the_definition(tool, rules):
    queries, gallery, keep = random_case(0, 60, 40, rules=rules)
    similarity = exact_similarity(queries, gallery)
    expected = literal_scores(similarity, queries, gallery, keep)
    for precision in (tool.evaluation.one_by_one, tool.evaluation.at_once):
        assert_same(tool.evaluation.loop_scores(similarity, queries, gallery, precision, "stable"), expected)


def test_features_are_neither_easy_nor_hopeless(tool):
    feats = tool.evaluation.make_features(tool.evaluation.SIZES["rstp"])
    person_ids, sources = feats["person_ids"], feats["sources"]
    for left_out in (None, sources):
        queries = Queries(feats["queries"], person_ids[sources], left_out)
        assert 20 < evaluate_retrieval(queries, Gallery(feats["photos"], person_ids)).R1 < 90


def test_a_small_measurement(tool, tmp_path, monkeypatch, capsys):
    small = tool.evaluation.Size(queries=700, photos=40, persons=12)
    monkeypatch.setitem(tool.evaluation.SIZES, "rstp", small)
    tool.main(["evaluation", "--sizes", "rstp", "--rounds", "1", "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["rule"] for row in result["rows"]] == ["full_gallery", "exclude_source_photo"]
    for row in result["rows"]:
        assert row["largest_difference"] < 1e-12
        ours, loop = row["seconds"]["ours"]["median"], row["seconds"]["loop"]["median"]
        assert row["times_as_fast"]["loop"]["seconds"]["median"] == pytest.approx(loop / ours)
        assert (row["queries"], row["looped"]) == (700, 700)
    assert result["rows"][0]["R1"] > result["rows"][1]["R1"]
    assert "rstp exclude_source_photo: 700 x 40" in capsys.readouterr().out


def test_only_a_block_of_a_large_size_is_looped(tool):
    large, all_of = tool.evaluation.SIZES["icfg"], tool.evaluation.SIZES["cuhk"]
    assert tool.evaluation._looped(all_of.queries, all_of.photos) == slice(0, all_of.queries)
    part = tool.evaluation._looped(large.queries, large.photos)
    assert part.start % 512 == 0 and len(np.arange(large.queries)[part]) == 512


def test_a_size_that_does_not_exist():
    done = run_tool("benchmark.py", "evaluation", "--sizes", "market")
    assert done.returncode == 2 and "invalid choice: 'market'" in done.stderr


def test_searching_finds_the_same_by_every_way(tool, tmp_path):
    tool.main(["search", "--photos", "3000", "--rounds", "1", "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["same_answer"] is True
    ours, numpy = (result["seconds"][name]["median"] for name in ("ours", "numpy"))
    assert result["times_as_fast"]["numpy"]["median"] == pytest.approx(numpy / ours)


def test_indexing_beside_the_bare_model(tool, tmp_path):
    tiny = ["model.architecture=tiny", "model.image_size=[32, 16]", "eval.batch_size=8", "runtime.device=CPU"]
    tool.main(["index", "--photos", "16", "--rounds", "1", "--json", str(tmp_path / "out.json"), *tiny])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    speed = {name: values["median"] for name, values in result["photos_per_second"].items()}
    assert result["throughput_of_the_bare_model"]["median"] == pytest.approx(speed["ours"] / speed["bare"])
