"""The benchmarks of step and encoders: both sides compute the same numbers, and small runs give figures."""

import json
from dataclasses import replace

import numpy as np
import parity
import pytest
import torch
from mindspore import Tensor
from tool_runner import TINY, load_tool

from ms_unireid.apps.benchmarks import encode, products, runs, train_step
from ms_unireid.config import Config, ModelConfig
from ms_unireid.evaluation.evaluator import evaluate_features
from ms_unireid.models.unireid import build_model
from ms_unireid.training.train_step import TrainOneStepCell

CONFIG = Config(model=parity.TINY)
UNCOMPILED = (*TINY, "runtime.graph_mode=false")


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark.py")


@pytest.fixture
def twins():
    """PyTorch's side of the benchmark and ours with the same weights."""
    from ms_unireid.apps.benchmarks import torch_unireid

    torch.manual_seed(1)
    theirs, ours = torch_unireid.UNIReID(CONFIG), build_model(CONFIG.model)
    parity.copy_weights(theirs, ours)
    return theirs, ours


def test_both_steps_are_the_same(twins, pynative):
    from ms_unireid.apps.benchmarks import torch_unireid

    theirs, ours = twins
    batch = train_step.make_batch(replace(CONFIG, data=replace(CONFIG.data, batch_size=6)))
    optimizer = torch_unireid.make_optimizer(theirs, CONFIG)
    loss = theirs(*torch_unireid.to_torch(batch))
    loss.backward()
    optimizer.step()
    found = TrainOneStepCell(ours, CONFIG)(*batch, CONFIG.train.learning_rate)
    assert float(found.loss.asnumpy()) == pytest.approx(loss.item(), rel=1e-5)
    assert parity.max_difference(parity.parameters(ours), parity.parameters(theirs)) < 1e-6


def test_both_encoders_are_the_same(twins, pynative):
    theirs, ours = twins
    images, _, token_ids = parity.numpy_batch(CONFIG.model, 5, 4)
    with torch.no_grad():
        image, text = (
            theirs.base_model.visual(torch.from_numpy(images)),
            encode._their_texts(theirs, token_ids, CONFIG),
        )
    np.testing.assert_allclose(ours.encode_image(Tensor(images)).asnumpy(), image, atol=1e-5)
    np.testing.assert_allclose(ours.encode_text(Tensor(token_ids)).asnumpy(), text, atol=1e-5)


def test_both_evaluations_are_the_same(data, pynative):
    overrides = (*UNCOMPILED, f"data.root={data}")
    config, evaluated = encode._load(overrides)
    theirs = encode._their_model("1", config)
    encoder = encode.random_encoder(config)
    parity.copy_weights(theirs, encoder.model)
    results = evaluate_features(encoder.encode(evaluated)).values()
    plain = encode._evaluate_plainly(theirs, config, evaluated)
    assert len(results) == len(plain) == 4
    for ours, row in zip(results, plain, strict=True):
        assert {name: pytest.approx(getattr(ours, name), abs=0.01) for name in row} == row


def test_small_measurements(tool, data, tmp_path, capsys, monkeypatch):
    """Ten seconds: five processes; the evaluations are in this one."""
    out, given = tmp_path / "out.json", ["--batch", "4", "--rounds", "2", "--threads", "1", "--warm-up", "0"]
    monkeypatch.setitem(encode.WARM_UPS, "image", 0)
    monkeypatch.setattr(runs, "alone", lambda job, *arguments: encode.JOBS[job](*map(str, arguments)))
    tool.main(["train-step", *given, "--baselines", "pytorch", "--json", str(out), *UNCOMPILED])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["ratio"].keys() == {"pytorch"} and result["rounds"] == 2
    ours, theirs = (result["seconds"][name]["median"] for name in ("ours", "pytorch"))
    assert result["ratio"]["pytorch"]["min"] <= 1.5 * ours / theirs <= 2.25 * result["ratio"]["pytorch"]["max"]
    assert "| PyTorch as installed" in capsys.readouterr().out
    arguments = ["--root", str(data), "--rounds", "1", "--evaluations", "1", "--threads", "1", "--json", str(out)]
    beside = ["--beside", "onnxruntime_int8"]
    tool.main(["encode", *arguments, *UNCOMPILED, *beside])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows[0]["beside"].keys() == set(beside[1:]) and not rows[1]["beside"]
    assert len(rows) == 3 and all(row["ratio"]["median"] > 0 for row in rows)
    assert "padded to the context length" in capsys.readouterr().out


def test_a_side_that_fails_is_reported():
    from ms_unireid.apps.benchmarks.runs import Standby

    with (
        Standby("step-ours", 1, "model.architecture=none") as side,
        pytest.raises(RuntimeError, match="ended with code"),
    ):
        side.work("step")


def test_what_the_towers_multiply_and_add():
    """By the convention of two operations for a multiplication and an addition, CLIP's ViT-B/16 takes 35 GFLOPs."""
    model = ModelConfig(image_size=(224, 224))
    assert runs.picture_operations(model) == pytest.approx(35.1e9, rel=0.01)
    assert runs.tower_operations(model.sizes.text, 77) == pytest.approx(6e9, rel=0.02)


def test_the_limit_is_that_of_the_slower_rate():
    result = {"machine": {"rates": {"float32": 100.0, "bfloat16": 200.0, "copy": 10.0}}}
    assert runs.limit(result, 500) == 5 and runs.limit(result, 500, side="ours_bf16") == 2.5
    assert runs.limit(result, 500, 80) == 8


def test_rates_of_a_machine(graph, monkeypatch):
    monkeypatch.setattr(products, "SIDE", 32)
    monkeypatch.setattr(products, "COPIED", 1 << 16)
    found = products.rates("-")
    assert found.keys() == {"float32", "bfloat16", "copy"} and all(1e6 < rate < 1e14 for rate in found.values())


def test_products_are_the_same_on_both_sides(graph, monkeypatch):
    monkeypatch.setattr(products, "TOKENS", 3)
    monkeypatch.setattr(products, "MAPS", {"c_fc": (4, 6)})
    monkeypatch.setattr(products, "stand_by", lambda works: {name: work()[0] for name, work in works.items()})
    ours, theirs = products.multiply_ours("1", "2"), products.multiply_pytorch("1", "2")
    x, weight = products._operands("2", "c_fc forward")
    gradient, _ = products._operands("2", "c_fc to the input")
    expected = {"forward": x @ weight.T, "to the input": gradient @ weight, "to the weight": gradient.T @ x}
    for form, product in expected.items():
        np.testing.assert_allclose(ours[f"c_fc {form}"], product, atol=1e-4)
        np.testing.assert_allclose(theirs[f"c_fc {form}"], product, atol=1e-4)
