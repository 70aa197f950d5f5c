"""The benchmarks: baselines equal the definition, and small runs give figures."""

import json
import os

import numpy as np
import pytest
from evaluation.cases import RULES, assert_same, exact_similarity, literal_scores, random_case
from tool_runner import ROOT, load_tool, run_tool

from ms_unireid.apps.benchmarks import evaluation
from ms_unireid.apps.benchmarks import input as reading
from ms_unireid.config import AugmentConfig
from ms_unireid.data.pictures import load_picture
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import UserError
from ms_unireid.evaluation.metrics import Gallery, Queries, evaluate_retrieval


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark.py")


@pytest.mark.parametrize("rules", [rules for rules in RULES if "camera" not in rules])
def test_the_loop_is_the_definition(rules):
    queries, gallery, keep = random_case(0, 60, 40, rules=rules)
    similarity = exact_similarity(queries, gallery)
    expected = literal_scores(similarity, queries, gallery, keep)
    for precision in (evaluation.one_by_one, evaluation.at_once):
        assert_same(evaluation.loop_scores(similarity, queries, gallery, precision, "stable"), expected)


def test_features_are_neither_too_easy_nor_too_hard():
    feats = evaluation.make_features(evaluation.SIZES["rstp"])
    person_ids, sources = feats["person_ids"], feats["sources"]
    for left_out in (None, sources):
        queries = Queries(feats["queries"], person_ids[sources], left_out)
        assert 20 < evaluate_retrieval(queries, Gallery(feats["photos"], person_ids)).R1 < 90


def test_a_small_measurement(tool, tmp_path, monkeypatch, capsys):
    small = evaluation.Size(queries=700, photos=40, persons=12)
    monkeypatch.setitem(evaluation.SIZES, "rstp", small)
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


def test_only_a_block_of_a_large_size_is_looped():
    large, all_of = evaluation.SIZES["icfg"], evaluation.SIZES["cuhk"]
    assert evaluation._looped(all_of.queries, all_of.photos) == slice(0, all_of.queries)
    part = evaluation._looped(large.queries, large.photos)
    assert part.start % 512 == 0 and len(np.arange(large.queries)[part]) == 512


@pytest.mark.exhaustive
def test_precisions_of_a_tiny_model(tool, data, tmp_path, capsys):
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict
    from ms_unireid.models.unireid import build_model

    sizes = ["model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=60", "eval.batch_size=16"]
    config = load_config(None, [*sizes, "runtime.graph_mode=false"])
    checkpoint, out = tmp_path / "tiny.ckpt", tmp_path / "out.json"
    save_checkpoint(checkpoint, build_model(config.model, 1).get_parameters(), {"config": to_dict(config)})
    core = min(os.sched_getaffinity(0))
    chosen = ["--checkpoint", checkpoint, "--root", data, "--batch", 3, "--rounds", 1, "--core", core, "--json", out]
    tool.main(["precision", *map(str, chosen)])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["split"] == "cuhk_pedes test" and result["cosine"]["float32"]["min"] > 0.99999
    assert 0.98 < result["cosine"]["int8"]["min"] < 0.99999
    assert result["cosine"]["bfloat16"]["min"] > 0.999  # 1 on a processor that has no such products
    assert all(0 <= score <= 100 for scores in result["R1"].values() for score in scores.values())
    assert all(scores["float32"] == pytest.approx(scores["mindspore"], abs=1) for scores in result["mAP"].values())
    assert result["times"]["mindspore"]["seconds"]["median"] == 1 and result["times"]["int8"]["seconds"]["min"] > 0
    assert "R1 fusion full_gallery: mindspore " in capsys.readouterr().out


@pytest.fixture
def small_input(monkeypatch):
    """Small pictures and batches, and every job in this process."""

    def here(job, *arguments):
        return reading.JOBS[job](*map(str, arguments))

    for owner in ("ms_unireid.apps.benchmarks.runs", "ms_unireid.apps.benchmarks.input"):
        monkeypatch.setattr(f"{owner}.alone", here)
    monkeypatch.setattr(reading, "SIZE", (48, 16))
    monkeypatch.setattr(reading, "BATCH", 4)
    monkeypatch.setattr(reading, "_has_torch", lambda: False)  # its processes would be forked from this one


def test_a_small_measurement_of_the_input(tool, small_input, data, tmp_path, capsys):
    out = tmp_path / "out.json"
    given = ["--root", str(data), "--pairs", "10", "--rounds", "1", "--step-seconds", "0.01", "--json", str(out)]
    tool.main(["input", *given, "--workers", "2"])
    result = json.loads(out.read_text(encoding="utf-8"))
    pixels = result["pixels"]
    assert (pixels["pairs"], pixels["pictures"]) == (68, 10)
    assert pixels["different_pictures"] == pixels["different_batches"] == 0 < pixels["caption_milliseconds"]
    ours = {f"{name}, workers={count}" for name in ("decoded", "cached") for count in {1, min(2, os.cpu_count())}}
    assert result["pairs_per_second"].keys() == {*ours, "loop"}
    for name in ours:
        speeds = (result["pairs_per_second"][one]["median"] for one in (name, "loop"))
        assert result["times_as_fast_as_the_loop"][name]["median"] == pytest.approx(next(speeds) / next(speeds))
        seconds = result["epoch_seconds"][name]["median"]
        assert seconds * result["pairs_per_second"][name]["median"] == pytest.approx(68126)
    assert len(result["step_with_input_to_constant_batch"]) == 4
    assert reading._estimate(2e-3, 1e-3, 2) == pytest.approx(16 / 2e-3)  # twice as fast: nothing runs alone
    assert reading._estimate(2e-3, 2e-3, 2) == pytest.approx(1 / 2e-3)
    assert "Pictures checked: 10, 0 differ from PIL's" in capsys.readouterr().out


def test_different_pixels_are_reported(small_input, data, tmp_path, monkeypatch):
    resized = reading._resized
    monkeypatch.setattr(reading, "_resized", lambda path: resized(path).point(lambda level: level ^ 1))
    found = reading.check(str(data), "10", "1", str(tmp_path))
    assert (found["different_pictures"], found["different_batches"]) == (found["pictures"], 0)


def test_the_loop_gives_the_pictures_of_evaluation_where_nothing_is_drawn(small_input, data, monkeypatch):
    monkeypatch.setattr(reading, "AUGMENT", AugmentConfig(flip=0, pad=0, erase=0))
    pairs = reading._pairs(str(data), "3")
    samples = reading._Samples(pairs)
    for number, pair in enumerate(pairs):
        photo, sketch, token_ids = samples[number]
        for path, pixels in ((pair.photo, photo), (pair.pictures[0][0], sketch)):
            np.testing.assert_allclose(pixels, evaluation_transform(load_picture(path), (48, 16)), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(token_ids, Tokenizer(77)([pair.caption])[0])


def test_an_unknown_size():
    done = run_tool("benchmark.py", "evaluation", "--sizes", "market")
    assert done.returncode == 2 and "invalid choice: 'market'" in done.stderr


def test_searching_finds_the_same_by_every_way(tool, tmp_path):
    tool.main(["search", "--photos", "3000", "--rounds", "1", "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["same_answer"] is True
    ours, numpy = (result["seconds"][name]["median"] for name in ("ours", "numpy"))
    assert result["times_as_fast"]["numpy"]["median"] == pytest.approx(numpy / ours)


def test_indexing_and_the_bare_model(tool, tmp_path):
    tiny = ["model.architecture=tiny", "model.image_size=[32, 16]", "eval.batch_size=8", "runtime.device=CPU"]
    tiny.append("runtime.graph_mode=false")
    tool.main(["index", "--photos", "16", "--rounds", "1", "--json", str(tmp_path / "out.json"), *tiny])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    speed = {name: values["median"] for name, values in result["photos_per_second"].items()}
    assert result["throughput_of_the_bare_model"]["median"] == pytest.approx(speed["ours"] / speed["bare"])


def test_the_performance_notes_are_those_of_the_measurements(tool, tmp_path):
    files = sorted((ROOT / "docs" / "measurements").glob("*.json"))
    assert {file.name.split(".")[0] for file in files} >= {"train-step", "encode", "input", "index", "search"}
    notes = ROOT / "docs" / "measurements" / "notes.md"
    tool.main(["document", *map(str, files), "--notes", str(notes), "--output", str(tmp_path / "performance.md")])
    assert (tmp_path / "performance.md").read_text("utf-8") == (ROOT / "docs" / "performance.md").read_text("utf-8")


def test_a_paragraph_comes_below_the_figures_of_its_command(tool, tmp_path):
    search = ROOT / "docs" / "measurements" / "search.json"
    (tmp_path / "notes.md").write_text("Of all.\n\n## search\n\nOf the search.\n\n## index\n\nOf the index.\n")
    out = tmp_path / "out.md"
    tool.main(["document", str(search), "--notes", str(tmp_path / "notes.md"), "--output", str(out)])
    text = out.read_text(encoding="utf-8")
    assert text.index("Of all.") < text.index("## search") < text.index("| ours") < text.index("Of the search.")
    assert "Of the index." not in text


def test_a_file_that_is_not_a_measurement(tool, tmp_path):
    for name, content in (("unknown.json", "{}"), ("search.json", "{}"), ("search.json", "{")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=name):
            tool.main(["document", str(tmp_path / name), "--output", str(tmp_path / "out.md")])
    assert not (tmp_path / "out.md").exists()
