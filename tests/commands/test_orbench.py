"""ORBench through the command lines: training, its 32 tasks and their means, and the table beside the published one.

Costs 20 seconds: an epoch of the tiny model, without compilation, and a few commands on what it leaves.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from data.orbench_factory import build_orbench, query_rows
from tool_runner import CONFIGS, TINY, load_tool, run_tool

from ms_unireid.apps.paper.published_tables import paper_rows
from ms_unireid.config import load_config
from ms_unireid.data.orbench import TASKS
from ms_unireid.errors import UserError
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator
from ms_unireid.modalities import MEAN, modalities_of
from ms_unireid.training.run_data import RunData
from reference import metrics as reference

CONFIG = CONFIGS / "orbench" / "unireid.yaml"
BRIEF = (*TINY, "train.epochs=1", "runtime.graph_mode=false")
METRICS = ("R1", "R5", "R10", "mAP", "mINP")


def here(tool: str, *arguments: object) -> None:
    load_tool(tool).main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_orbench(tmp_path_factory.mktemp("orbench"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    here("train.py", "--config", CONFIG, *BRIEF, f"data.root={folder}", f"train.output={output}")
    return output


def by_definition(folder: Path, checkpoint: Path) -> dict[str, dict[str, float]]:
    """Encode every item of the test file on its own, and evaluate each task row by row."""
    encoder = CheckpointEvaluator(checkpoint).encoder
    rows = query_rows()
    items = sorted({item for key in rows for row in rows[key] for item in row[1:]})
    paths = [item for item in items if item.endswith(".png")]
    texts = [item for item in items if not item.endswith(".png")]
    feats = dict(zip(paths, encoder.pictures([folder / path for path in paths]), strict=True))
    feats |= dict(zip(texts, encoder.captions(texts), strict=True))
    gallery = np.array([feats[photo] for _, photo in rows["RGB_GALLERY"]], float)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    persons, found = [person for person, _ in rows["RGB_GALLERY"]], {}
    for key, task in TASKS.items():
        queries = np.array([sum(feats[item] for item in row[1:]) for row in rows[key]], float)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        found[task] = reference.evaluate(queries @ gallery.T, [row[0] for row in rows[key]], persons)
    for number in range(1, 5):
        part = [found[task] for task in TASKS.values() if len(modalities_of(task)) == number]
        found[f"{MEAN}{number}"] = {metric: sum(one[metric] for one in part) / len(part) for metric in METRICS}
    return found


def test_all_rows_and_means_by_definition(folder, run, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    here("evaluate.py", "--checkpoint", run / "last.ckpt", "--json", rows)
    rows = json.loads(rows.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 36 and {row["protocol"] for row in rows} == {"orbench"}
    expected = by_definition(folder, run / "last.ckpt")
    for row in rows:
        wanted = {metric: expected[row["task"]][metric] for metric in METRICS}
        assert {metric: row[metric] for metric in METRICS} == pytest.approx(wanted, abs=1e-9), row["task"]
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("T+S->R", "S+T->R", "I+P+S+T->R", "mean of 4"))
    trained = json.loads((run / "results.json").read_text(encoding="utf-8"))["evaluations"][0]["splits"]["test"]
    assert trained == rows  # training reports the same, to the last digit


def test_best_checkpoints_follow_the_means(run):
    kept = {path.name for path in run.glob("best_*.ckpt")}
    assert kept == {"best_average.ckpt", *(f"best_{MEAN}{number}.ckpt" for number in range(1, 5))}
    assert {"curves.png", "ranked_test.png"} <= {path.name for path in run.iterdir()}


def test_a_part_of_the_tasks_has_no_means(folder, run, tmp_path):
    def rows(*arguments: str) -> list[tuple[str, str]]:
        here("evaluate.py", "--checkpoint", run / "last.ckpt", "--json", tmp_path / "rows.json", *arguments)
        found = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
        return [(row["task"], row["protocol"]) for row in found]

    both = [("sketch+text", "orbench"), ("fusion", "orbench")]
    assert rows("eval.tasks=[text+sketch]") == both
    single = [("pencil", "orbench"), ("sketch", "orbench"), ("text", "orbench")]
    assert rows("eval.tasks=[text, sketch, pencil]") == single
    assert rows("eval.tasks=[fusion]", "--protocol", "full_gallery") == [(task, "full_gallery") for task, _ in both]


def test_pictures_are_drawn_in_each_epoch_or_once(folder):
    chosen = [*TINY, f"data.root={folder}", "data.augment.flip=0", "data.augment.erase=0", "data.augment.pad=0"]

    def infrared(epoch: int, *more: str) -> dict[int, bytes]:
        data = RunData(load_config(CONFIG, [*chosen, *more]))
        drawn = {}
        for rows, batch in zip(data._shard(epoch), data.epoch(epoch), strict=True):
            drawn |= {int(row): picture.tobytes() for row, picture in zip(rows, batch[3], strict=True)}
        return drawn

    assert infrared(1) == infrared(1) != infrared(2)
    once = "data.draw_pictures=once"
    assert infrared(1, once) == infrared(2, once) != infrared(1, once, "train.seed=5")


def test_the_table_beside_the_published_numbers(folder, run, tmp_path, capsys):
    place = tmp_path / "checkpoints" / "orbench"
    place.mkdir(parents=True)
    (place / "unireid.ckpt").write_bytes((run / "best_average.ckpt").read_bytes())
    here("reproduce_tables.py", "--table", "orbench", "--data-root", folder.parent, "--checkpoint-dir", place.parent,
         "--output", tmp_path / "tables", *BRIEF)  # fmt: skip
    assert "| mean of 4 |" in " ".join(capsys.readouterr().out.split())
    with (tmp_path / "tables" / "table_orbench.csv").open(encoding="utf-8") as file:
        cells = {(row["task"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(cells) == 36 * 5 and all(row["ours"] for row in cells.values())
    assert float(cells["mean-4", "R1"]["paper"]) == 95.835 == paper_rows("orbench")[-1].published["R1"]
    here("reproduce_tables.py", "--table", "orbench", "--data-root", folder.parent, "--dry-run", *BRIEF)
    assert "runs: 1, lines: 36" in capsys.readouterr().out


def test_what_cannot_work_is_one_line_before_training(folder, tmp_path):
    tried = ("train.py", "--config", CONFIG, *BRIEF, f"train.output={tmp_path / 'run'}")
    for overrides, words in (
        ((f"data.root={folder}", "data.modalities=[sketch]"), "names 'pencil', which the data do not have"),
        ((f"data.root={folder}", "eval.splits=[train]"), "no queries of split 'train'"),
        ((f"data.root={folder}", "data.modalities=[sketch, pencil, infrared, thermal]"), "no pictures of thermal"),
    ):
        with pytest.raises(UserError, match=words):
            here(*tried, *overrides)
    damaged = build_orbench(tmp_path)
    (damaged / "nir" / "0003" / "0.png").write_bytes(b"")
    done = run_tool(*tried, f"data.root={damaged}")
    assert done.returncode == 2 and "nir/0003/0.png" in done.stderr and "Traceback" not in done.stderr
    assert sum("nir/0003/0.png" in line for line in done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_train_is_not_evaluated(run):
    with pytest.raises(UserError, match="no queries of split 'train'"):
        here("evaluate.py", "--checkpoint", run / "last.ckpt", "--split", "train")
