"""The trained model of the repository finds drawn people: by evaluation, with a modality missing, and in an index."""

from pathlib import Path

import pytest
from tool_runner import ROOT

from ms_unireid.apps.search.indexing import build_index, dataset_source
from ms_unireid.apps.search.queries import Query
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.evaluation.checkpoint_evaluation import CheckpointEvaluator, Evaluated
from ms_unireid.evaluation.evaluator import evaluate_features, to_json
from ms_unireid.evaluation.figures import rank_query
from ms_unireid.evaluation.metrics import METRICS
from ms_unireid.evaluation.queries import make_queries

MODEL = ROOT / "models" / "synthetic.safetensors"
UNCOMPILED = "runtime.graph_mode=false"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    generate_tri_dataset(root, SyntheticConfig(train_identities=0, val_identities=0))
    return root


@pytest.fixture(scope="module")
def evaluated(world) -> Evaluated:
    overrides = [f"data.root={world}", "runtime.device=CPU", UNCOMPILED]
    return CheckpointEvaluator(MODEL, overrides=overrides).evaluate("test")


def test_the_file_says_where_it_comes_from_and_what_it_reaches():
    meta = read_checkpoint(MODEL).meta
    assert MODEL.stat().st_size <= 12 * 2**20
    assert meta["config"]["train"]["seed"] == 1 and meta["epoch"] >= 1
    assert meta["about"]["environment"]["git_revision"] and meta["about"]["environment"]["command"]
    r1 = {row["task"]: row["R1"] for row in meta["about"]["test"]["rows"] if row["protocol"] == "exclude_source_photo"}
    assert r1["text"] >= 75 and r1["sketch"] >= 80 and r1["fusion"] >= 96


def test_its_scores_are_reached_again(evaluated):
    stored = read_checkpoint(MODEL).meta["about"]["test"]["rows"]
    for row, expected in zip(to_json(evaluated.results), stored, strict=True):
        assert (row["task"], row["protocol"], row["queries"]) == (
            expected["task"],
            expected["protocol"],
            expected["queries"],
        )
        assert all(abs(row[name] - expected[name]) < 1 for name in METRICS)


def test_a_missing_modality_costs_accuracy_step_by_step(evaluated):
    curve = [metrics.mAP for metrics in evaluate_features(evaluated.feats, "missing_modality").values()]
    alone = [evaluated.results[task, "exclude_source_photo"].mAP for task in ("text", "sketch")]
    assert curve == sorted(curve, reverse=True)
    assert min(alone) < curve[-1] < max(alone) < curve[0]


def test_an_index_finds_what_evaluation_finds(world, evaluated, tmp_path):
    sources = [dataset_source("cuhk_pedes", world, "test")]
    build_index(tmp_path / "index", sources, MODEL, dtype="float32", overrides=[UNCOMPILED])
    searcher, data = Searcher.open(tmp_path / "index"), evaluated.data
    fused = make_queries("fusion", evaluated.feats)
    for row in range(0, len(fused.feats), 29):
        text, sketch = data.captions[fused.captions[row]], data.sketches[fused.sketches[row]]
        order, _ = rank_query(evaluated.feats, fused, row)
        source = data.photos[fused.photos[row]]
        (hits,) = searcher.search_all([Query((text,), (sketch,), as_is=True)], 6)
        found = [Path(hit.path).name for hit in hits if Path(hit.path).name != source.name]
        assert found[:4] == [data.photos[photo].name for photo in order[:4]]
        assert any(data.person_ids[photo] == fused.person_ids[row] for photo in order[:4])
