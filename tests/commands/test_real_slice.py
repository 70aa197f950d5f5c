"""The tools on the slice of real data: what training reports is what evaluation finds."""

import json
from pathlib import Path

from tool_runner import CONFIGS, load_tool

SHORT = (
    "model.architecture=tiny",
    "model.image_size=[48, 16]",
    "train.epochs=1",
    "train.log_every=5",
    "eval.splits=[test]",
    "eval.selection_split=test",
    "runtime.device=CPU",
)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_evaluation_repeats_trainings_numbers_on_real_data(real_root, tmp_path):
    """Train a tiny model for one epoch; its numbers mean nothing but that they are the same."""
    run, out = tmp_path / "run", tmp_path / "out.json"
    config = CONFIGS / "tri_cuhk_pedes" / "small_slice.yaml"
    load_tool("train.py").main(["--config", str(config), *SHORT, f"data.root={real_root}", f"train.output={run}"])
    load_tool("evaluate.py").main(["--checkpoint", str(run / "best_average.ckpt"), "--json", str(out)])
    best = read(run / "results.json")["best"]["average"]
    assert read(out)["rows"] == best["splits"]["test"]
    assert all(row["queries"] > 100 and 0 <= row["R1"] <= 100 for row in best["splits"]["test"])
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [entry["loss"] for entry in entries if entry["kind"] == "step"]
    assert len(losses) >= 4 and losses[-1] < losses[0]
