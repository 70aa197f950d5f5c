"""Two processes that train together end where one process ends with the same global batches."""

from pathlib import Path

import numpy as np
import parity
import pytest
from distributed.launcher import launch
from tool_runner import TOOLS, load_tool, log_lines, train_arguments

from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.config import load_config
from ms_unireid.models.unireid import build_model

# The authors' epsilon: a tiny one would blow up the noise of gradients that vanish, such as the key's bias.
TRAINING = ("train.epochs=1", "train.global_batch_objective=true", "eval.splits=[test]", "train.eps=1e-3")


def steps(run: Path) -> list[dict]:
    return log_lines(run, "step")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """Return the folder of the run of one process, uncompiled, that decodes every picture itself."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    load_tool("train.py").main(train_arguments(data, folder, *TRAINING, "runtime.graph_mode=false"))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("runtime.graph_mode=false",), id="whole"),
        pytest.param((), id="compiled", marks=pytest.mark.exhaustive),
        pytest.param(("train.cache_chunk=2",), id="cached", marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_equal_one(data, alone, tmp_path, options):
    options = (*options, f"runtime.decoded_cache={tmp_path / 'decoded'}")
    launched = launch(
        TOOLS / "train.py", *train_arguments(data, tmp_path / "two", *TRAINING, *options), folder=tmp_path / "logs"
    )
    assert launched.returncode == 0, launched.explain()
    one, two = steps(alone), steps(tmp_path / "two")
    assert len(one) == len(two) == 9
    for ours, theirs in zip(two, one, strict=True):
        for key in ("loss", "gradient_norm", "weight_text", "interaction"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4), (ours["step"], key)
    found, expected = (read_checkpoint(run / "last.ckpt").tensors for run in (tmp_path / "two", alone))
    weights = [name for name in expected if not name.startswith(("exp_avg", "beta"))]
    assert found.keys() == expected.keys()
    differences = {name: float(np.abs(found[name] - expected[name]).max()) for name in weights}
    assert max(differences.values()) < 1e-5, max(differences, key=differences.get)
    start = parity.parameters(build_model(load_config(alone / "config.yaml").model, 1))
    assert max(float(np.abs(expected[name] - start[name]).max()) for name in weights) > 1e-3
