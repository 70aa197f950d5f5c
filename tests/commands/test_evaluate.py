"""tools/evaluate.py on every kind of data set, several checkpoints and targets, re-ranking and error analysis."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data.sketch_factory import MARKET_TEST, PKU_STYLES, build_market, build_pku
from PIL import Image
from tool_runner import load_tool, run_tool

from ms_unireid.errors import CheckpointError, ConfigError, DataError

PERSONS = sorted(person for persons in PKU_STYLES.values() for person in persons)
TASKS = ("text", "sketch", "fusion")
METRICS = ("R1", "R5", "R10", "mAP", "mINP", "chance_R1")


def put_noise(path: Path) -> None:
    """Write a picture that differs from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(list(path.name.encode()))
    Image.fromarray(chance.integers(0, 256, (8, 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)).save(path, quality=95)


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory) -> list[Path]:
    """Save two untrained models in the form of training."""
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict
    from ms_unireid.models.unireid import build_model

    config = load_config(
        None,
        ["model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=24", "runtime.device=CPU"]
        + ["runtime.graph_mode=false", "eval.batch_size=16", f"data.root={data}"],
    )
    folder, made = tmp_path_factory.mktemp("checkpoints"), []
    for seed in (1, 2):
        made.append(folder / f"seed_{seed}.ckpt")
        parameters = build_model(config.model, seed).get_parameters()
        save_checkpoint(made[-1], parameters, {"config": to_dict(config), "epoch": 0})
    return made


@pytest.fixture(scope="module")
def pku(tmp_path_factory) -> Path:
    """Return a folder with a PKU-Sketch of six persons, captions and eleven trials."""
    root = tmp_path_factory.mktemp("pku")
    build_pku(root, put=put_noise)
    captions = {str(person): [f"a man {person} in red", f"somebody {person}"] for person in PERSONS}
    (root / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    drawn = [[PERSONS[i % 6], PERSONS[(i + 1 + i // 6) % 6], PERSONS[(i + 4) % 6]] for i in range(11)]
    (root / "trials.json").write_text(json.dumps({"trials": drawn}), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Path:
    return build_market(tmp_path_factory.mktemp("market"), put=put_noise)


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Return a function that evaluates in this process and returns the JSON and the table's lines."""

    def run(*arguments: object) -> tuple[dict, list[str]]:
        out = tmp_path / "out.json"
        load_tool("evaluate.py").main([*map(str, arguments), "--json", str(out)])
        return json.loads(out.read_text(encoding="utf-8")), capsys.readouterr().out.strip().splitlines()

    return run


def on_pku(checkpoint: Path, root: Path, *more: object) -> list[object]:
    return ["--checkpoint", checkpoint, "--target", f"pku_sketch={root}", "data.allow_partial=true", *more]


def keys(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["task"], row["protocol"]) for row in rows]


# 1. PKU-Sketch and Market-Sketch-1K.


def test_pku_sketch_with_captions(checkpoints, pku, evaluate):
    written, lines = evaluate(*on_pku(checkpoints[0], pku, f"data.captions={pku / 'captions.json'}"))
    rows = written["rows"]
    assert keys(rows) == [(task, "ten_trials") for task in TASKS]
    assert {(row["trained_on"], row["dataset"], row["trials"]) for row in rows} == {("cuhk_pedes", "pku_sketch", 10)}
    assert lines[0].split()[:5] == ["checkpoint", "trained", "on", "evaluated", "on"]
    assert all(
        f"{row['R1']:.2f} ± {row['deviation']['R1']:.2f}" in line for row, line in zip(rows, lines[1:], strict=True)
    )
    queries = {row["task"]: row["queries"] for row in rows}
    assert queries["text"] == queries["fusion"] == 2 * queries["sketch"]


def test_pku_sketch_without_captions_has_sketch_rows_only(checkpoints, pku, evaluate):
    rows = evaluate(*on_pku(checkpoints[0], pku))[0]["rows"]
    assert keys(rows) == [("sketch", "ten_trials")]


def test_the_trials_of_a_file(checkpoints, pku, evaluate):
    (row,) = evaluate(*on_pku(checkpoints[0], pku, f"data.trials={pku / 'trials.json'}"))[0]["rows"]
    assert (row["trials"], row["queries"]) == (10, 30)
    (drawn,) = evaluate(*on_pku(checkpoints[0], pku))[0]["rows"]
    assert row["chance_R1"] != drawn["chance_R1"]


def test_a_trials_file_of_other_persons(checkpoints, pku, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"trials": [[999]] * 10}), encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.json, trial 1: .*not in the data set: 999"):
        load_tool("evaluate.py").main([*map(str, on_pku(checkpoints[0], pku, f"data.trials={tmp_path / 't.json'}"))])


def test_market_sketch_single_and_multi_query(checkpoints, market, evaluate):
    rows = evaluate("--checkpoint", checkpoints[0], "--target", f"market_sketch={market}")[0]["rows"]
    assert keys(rows) == [("sketch", "full_gallery"), ("sketch", "multi_query")]
    assert [row["queries"] for row in rows] == [sum(map(len, MARKET_TEST.values())), len(MARKET_TEST)]


# 2. Names of protocols.


def test_all_protocols_of_pku_sketch(checkpoints, pku, evaluate):
    rows = evaluate(*on_pku(checkpoints[0], pku, "--protocol", "all"))[0]["rows"]
    assert keys(rows) == [("sketch", "full_gallery"), ("sketch", "ten_trials")]
    assert rows[0]["queries"] == len(PERSONS)


def test_missing_modality_and_multi_query(data, checkpoints, evaluate, tmp_path):
    chosen = ["--checkpoint", checkpoints[0], "--protocol"]
    drawn = tmp_path / "curve.pdf"
    rows = evaluate(*chosen, "missing_modality", "eval.missing_shares=[0, 0.3]", "--figure", drawn)[0]["rows"]
    assert drawn.read_bytes().startswith(b"%PDF")
    assert keys(rows) == [("fusion", "missing_modality 0%"), ("fusion", "missing_modality 30%")]
    fusion = evaluate(*chosen, "exclude_source_photo")[0]["rows"][2]
    assert {name: fusion[name] for name in METRICS} == {name: rows[0][name] for name in METRICS}
    rows = evaluate(*chosen, "multi_query", "eval.multi_query_photos=1")[0]["rows"]
    assert keys(rows) == [(task, "multi_query") for task in TASKS]
    assert {row["queries"] for row in rows} == {4}  # persons of the test split


def test_an_impossible_protocol_stops_before_encoding(checkpoints, pku):
    done = run_tool("evaluate.py", *on_pku(checkpoints[0], pku, "--protocol", "exclude_source_photo"))
    assert (done.returncode, done.stdout) == (2, "")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "has no source photos; choose one of paper, all, full_gallery, multi_query, ten_trials" in error
    assert "Traceback" not in done.stderr


def test_reranked_rows_with_the_plain_ones(checkpoints, pku, evaluate):
    plain = evaluate("--checkpoint", checkpoints[0])[0]["rows"]
    rows = evaluate("--checkpoint", checkpoints[0], "--rerank")[0]["rows"]
    assert rows[:4] == plain
    assert keys(rows[4:]) == [(task, f"{protocol} reranked") for task, protocol in keys(plain)]
    rows = evaluate(*on_pku(checkpoints[0], pku, "--rerank"))[0]["rows"]
    assert keys(rows) == [("sketch", "ten_trials"), ("sketch", "ten_trials reranked")]
    assert [row["trials"] for row in rows] == [10, 10]


# 3. Several checkpoints and targets.


def test_two_checkpoints_on_two_data_sets(checkpoints, data, pku, evaluate, tmp_path):
    targets = ["--target", f"cuhk_pedes={data}", "--target", f"pku_sketch={pku}", "data.allow_partial=true"]
    both = ["--checkpoint", checkpoints[0], "--checkpoint", checkpoints[1], "--markdown", tmp_path / "out.md"]
    written, lines = evaluate(*both, *targets)
    assert written.keys() == {"split", "rows"}
    pairs = list(dict.fromkeys((row["checkpoint"], row["dataset"]) for row in written["rows"]))
    assert pairs == [(str(c), name) for c in checkpoints for name in ("cuhk_pedes", "pku_sketch")]
    assert len(written["rows"]) == len(lines) - 1 == 2 * (4 + 1)
    for row, line in zip(written["rows"], lines[1:], strict=True):
        assert line.split()[:3] == [row["checkpoint"], row["trained_on"], row["dataset"]]
    table = (tmp_path / "out.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 12 and len({line.count("|") for line in table}) == 1
    first, second = (evaluate("--checkpoint", checkpoint)[0]["rows"] for checkpoint in checkpoints)
    assert first != second
    together = [{key: row[key] for key in first[0]} for row in written["rows"] if row["dataset"] == "cuhk_pedes"]
    assert together == first + second


def test_two_folders_of_one_data_set_are_told_apart(checkpoints, data, evaluate, tmp_path):
    (tmp_path / "copy").symlink_to(data)
    folders = [str(data), str(tmp_path / "copy")]
    written, lines = evaluate("--checkpoint", checkpoints[0], *(f"--target=cuhk_pedes={folder}" for folder in folders))
    assert [row["folder"] for row in written["rows"]] == [folder for folder in folders for _ in range(4)]
    assert all(line.split()[3] == row["folder"] for row, line in zip(written["rows"], lines[1:], strict=True))


def test_rows_without_a_match_have_a_dash(checkpoints, data, evaluate, tmp_path):
    """Each person of the test split keeps one photo, which is the source of its own queries."""
    folder = tmp_path / "CUHK-PEDES"
    shutil.copytree(data / "CUHK-PEDES", folder)
    entries = json.loads((folder / "reid_raw.json").read_text(encoding="utf-8"))
    first = {entry["id"]: entry for entry in reversed(entries)}
    kept = [entry for entry in entries if entry["split"] != "test" or entry is first[entry["id"]]]
    (folder / "reid_raw.json").write_text(json.dumps(kept), encoding="utf-8")
    written, lines = evaluate("--checkpoint", checkpoints[0], f"data.root={tmp_path}", "--errors", tmp_path / "errors")
    for row, line in zip(written["rows"], lines[1:], strict=True):
        none = row["protocol"] == "exclude_source_photo"
        assert {row[name] is None for name in METRICS} == {none} and (row["queries"] == 0) == none
        assert (line.split()[2:8] == ["-"] * 6) == none


def test_progress_counts_all_batches(checkpoints, data):
    from ms_unireid.evaluation.checkpoint_evaluation import evaluate_checkpoints

    seen = []
    targets = [f"cuhk_pedes={data}"] * 2
    list(evaluate_checkpoints(checkpoints[:1], targets, progress=lambda *counts: seen.append(counts)))
    total = seen[0][1]
    assert total > 2 and seen == [(done, total) for _ in range(2) for done in range(1, total + 1)]


def test_a_plain_evaluation_has_no_extra_keys(checkpoints, evaluate):
    written, lines = evaluate("--checkpoint", checkpoints[0])
    assert list(written) == ["checkpoint", "split", "rows"]
    assert list(written["rows"][0]) == ["task", "protocol", *METRICS, "queries", "queries_without_match"]
    assert lines[0].startswith("task    protocol")


def test_weights_of_other_projects_have_no_data_set(checkpoints, data, evaluate, tmp_path):
    import torch

    from ms_unireid.checkpoints.checkpoint import read_checkpoint

    tensors = read_checkpoint(checkpoints[0]).tensors
    torch.save({"model": {name: torch.tensor(array) for name, array in tensors.items()}}, tmp_path / "other.pth")
    sizes = ["model.image_size=[32, 16]", "runtime.device=CPU", "runtime.graph_mode=false"]
    rows = evaluate("--checkpoint", tmp_path / "other.pth", "--target", f"cuhk_pedes={data}", *sizes)[0]["rows"]
    assert {row["trained_on"] for row in rows} == {"unknown"}
    ours = evaluate("--checkpoint", checkpoints[0])[0]["rows"]
    assert [row["mAP"] for row in rows] == pytest.approx([row["mAP"] for row in ours])


def test_figure_and_errors_are_for_one_pair(checkpoints, data, tmp_path):
    targets = ["--target", f"cuhk_pedes={data}", "--target", f"cuhk_pedes={data}"]
    done = run_tool("evaluate.py", "--checkpoint", checkpoints[0], *targets, "--figure", tmp_path / "x.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --figure and --errors are for one") and done.stderr.count("\n") == 1
    with pytest.raises(ConfigError, match="--figure and --errors"):
        both = [f"--checkpoint={checkpoint}" for checkpoint in checkpoints]
        load_tool("evaluate.py").main([*both, "--errors", str(tmp_path / "errors")])
    assert list(tmp_path.iterdir()) == []


WRONG = [
    ("pku_sketch", ConfigError, "target pku_sketch: expected NAME=FOLDER"),
    ("pku=DIR", ConfigError, r"target pku=DIR: 'data\.name' cannot be 'pku'; did you mean"),
    ("pku_sketch=nowhere", DataError, "nowhere"),
]


@pytest.mark.parametrize(("target", "kind", "words"), WRONG)
@pytest.mark.parametrize("first", [False, True])
def test_a_wrong_target_stops_before_encoding(checkpoints, data, monkeypatch, first, target, kind, words):
    from ms_unireid.evaluation.encoder import Encoder

    def encode(*_):
        raise AssertionError("encoded")

    monkeypatch.setattr(Encoder, "encode", encode)
    targets = [target, f"cuhk_pedes={data}"] if first else [f"cuhk_pedes={data}", target]
    with pytest.raises(kind, match=words):
        load_tool("evaluate.py").main(["--checkpoint", str(checkpoints[0]), *(f"--target={t}" for t in targets)])


def test_an_invalid_second_checkpoint(checkpoints, tmp_path, monkeypatch):
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"x\.ckpt: .*empty file"):
        load_tool("evaluate.py").main(["--checkpoint", str(checkpoints[0]), "--checkpoint", str(tmp_path / "x.ckpt")])


def test_a_figure_without_queries(checkpoints):
    with pytest.raises(ConfigError, match="--queries 0: expected at least 1"):
        load_tool("evaluate.py").main(["--checkpoint", str(checkpoints[0]), "--queries", "0"])


# 4. Error analysis and figures.


def test_errors_average_to_the_table(checkpoints, evaluate, tmp_path):
    folder = tmp_path / "errors"
    rows = evaluate("--checkpoint", checkpoints[0], "--errors", folder)[0]["rows"]
    assert {p.name for p in folder.iterdir()} == {"queries.csv", "groups.md", *(f"worst_{task}.png" for task in TASKS)}
    with (folder / "queries.csv").open(encoding="utf-8", newline="") as file:
        queries = list(csv.DictReader(file))
    for row in rows[:3]:
        ranked = [query for query in queries if query["task"] == row["task"] and query["matches"] != "0"]
        assert len(ranked) == row["queries"]
        assert 100 * np.mean([query["first_rank"] == "1" for query in ranked]) == pytest.approx(row["R1"])
        assert 100 * np.mean([float(query["AP"]) for query in ranked]) == pytest.approx(row["mAP"])
        assert 100 * np.mean([float(query["INP"]) for query in ranked]) == pytest.approx(row["mINP"])


def test_errors_and_figure_of_pku_sketch(checkpoints, pku, evaluate, tmp_path):
    outputs = ["--errors", tmp_path / "errors", "--figure", tmp_path / "ranked.png", "--protocol", "full_gallery"]
    (row,) = evaluate(*on_pku(checkpoints[0], pku, *outputs))[0]["rows"]
    with (tmp_path / "errors" / "queries.csv").open(encoding="utf-8", newline="") as file:
        queries = list(csv.DictReader(file))
    assert 100 * np.mean([float(query["AP"]) for query in queries]) == pytest.approx(row["mAP"])
    groups = (tmp_path / "errors" / "groups.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[2:5]] for line in groups.splitlines()]
    assert cells[2:] == [["style of the sketch", letter, str(len(PKU_STYLES[letter]))] for letter in "abc"]
    with Image.open(tmp_path / "ranked.png") as figure:
        figure.load()


# 5. Real data.


def test_the_real_sample_of_pku_sketch(checkpoints, real_root, evaluate, tmp_path):
    sample = real_root / "PKU-Sketch-sample"
    if not sample.is_dir():
        pytest.skip("no PKU-Sketch sample")
    persons = sorted(int(path.stem) for path in (sample / "sketch").iterdir())
    captions = {str(person): [f"person number {person}"] for person in persons}
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    rows = evaluate(*on_pku(checkpoints[0], sample, f"data.captions={tmp_path / 'captions.json'}", "--protocol", "all"))
    rows = {(row["task"], row["protocol"]): row for row in rows[0]["rows"]}
    assert rows.keys() == {(task, protocol) for task in TASKS for protocol in ("full_gallery", "ten_trials")}
    for task in TASKS:
        assert rows[task, "full_gallery"]["queries"] == len(persons) == 14
        assert rows[task, "full_gallery"]["chance_R1"] == pytest.approx(100 * 2 / 28)
        trials = rows[task, "ten_trials"]
        assert trials["trials"] == 10 and trials["queries"] % 10 == 0
        assert trials["chance_R1"] == pytest.approx(100 * 10 / trials["queries"])
