"""The training cell as users call it: in a loop, by MindSpore's Model, and for weights and gradients by name.

Costs 40 seconds, most of it compilation.
"""

import re
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import parity
import pytest
from mindspore import nn

import ms_unireid as mu
from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset
from ms_unireid.config import Config, RuntimeConfig, TrainConfig
from ms_unireid.data.transforms import normalize
from ms_unireid.errors import CheckpointError, ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
CONFIG = Config(model=parity.TINY, train=TrainConfig(learning_rate=1e-3, eps=1e-8))


def batch(number=0):
    return parity.numpy_batch(parity.TINY, 100 + number, 6)


def weights_of(model):
    return {p.name: p.asnumpy().copy() for p in model.get_parameters()}


@pytest.fixture(scope="module")
def step():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return mu.TrainOneStepCell(mu.build_model(CONFIG.model), CONFIG)


def test_it_is_mindspores_cell(step):
    assert isinstance(step, nn.TrainOneStepCell)
    assert step.optimizer.parameters is step.weights and len(step.weights) == len(step.params)


def test_weights_come_and_go_from_memory(step, pynative):
    before = weights_of(step.network.model)
    step(*batch())
    after = weights_of(step.network.model)
    mu.load_weights(step.network.model, before)
    assert parity.max_difference(weights_of(step.network.model), before) == 0 < parity.max_difference(before, after)
    with pytest.raises(CheckpointError, match=r"weights: does not fit the model: 1 missing \(logit_scale\)"):
        mu.load_weights(step.network.model, {n: a for n, a in before.items() if n != "logit_scale"})
    with pytest.raises(CheckpointError, match=r"1 of another shape \(base_model\.ln_final\.bias is \(3,\)"):
        mu.load_weights(step.network.model, before | {"base_model.ln_final.bias": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra\)"):
        mu.load_weights(step.network.model, before | {"extra": np.zeros(3)})
    assert parity.max_difference(weights_of(step.network.model), before) == 0


def test_gradients_by_name(step, pynative):
    before = weights_of(step.network.model)
    found = step.gradients(*batch())
    assert found.keys() == before.keys()
    assert parity.max_difference(weights_of(step.network.model), before) == 0
    images, _, token_ids = batch()
    planes = np.random.default_rng(0).integers(0, 256, (2, *images.shape), np.uint8)
    planes = np.concatenate([planes, planes[:, :, :1] > 200], 2)
    as_pixels, on_device, normalized = (
        step.gradients(*pictures, token_ids) for pictures in (planes, map(ms.Tensor, planes), normalize(planes))
    )
    assert parity.max_difference(as_pixels, normalized) == parity.max_difference(on_device, normalized) == 0
    chunked = replace(CONFIG, train=replace(CONFIG.train, cache_chunk=2))
    other = mu.TrainOneStepCell(mu.build_model(CONFIG.model), chunked)
    mu.load_weights(other.network.model, before)
    difference, name = parity.gradient_difference(other.gradients(*batch()), found)
    assert difference < 2e-4, name


def test_a_model_of_another_precision_is_refused():
    mixed = replace(CONFIG, runtime=RuntimeConfig(precision="mixed"))
    with pytest.raises(
        ConfigError, match=r"precision='fp32'.*the config needs .*precision='mixed'.*build_model\(config\.model"
    ):
        mu.TrainOneStepCell(mu.build_model(CONFIG.model), mixed)


def snippets() -> list[str]:
    """Return the Python examples of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("mode", [pytest.param("graph", marks=pytest.mark.exhaustive), "pynative"], indirect=True)
def test_the_pages_loop_and_its_model_run(tmp_path, monkeypatch, capfd, mode):
    """The page's code unchanged, on a small data set and a tiny model."""
    monkeypatch.chdir(tmp_path)
    generate_tri_dataset(Path("FOLDER"), SyntheticConfig(4, 2, 2, photos_per_identity=2, captions_per_photo=1))
    tiny = [f"{key}={value}" for key, value in {"architecture": "tiny", "image_size": [32, 16]}.items()]
    changes = [*(f"model.{change}" for change in tiny), "data.batch_size=4", "train.eps=1e-8"]
    load_config = mu.load_config
    monkeypatch.setattr(mu, "load_config", lambda name, given: load_config(name, [*given, *changes]), raising=False)
    search, loop, by_model = snippets()
    names = {"mu": mu, "ms": ms}
    exec(loop, names)
    assert np.isfinite(float(names["result"].loss)) and "temperature" in names["result"].parts
    before = weights_of(names["model"])
    exec(by_model, names)
    assert parity.max_difference(weights_of(names["model"]), before) > 0
    out = capfd.readouterr().out
    assert out.count("'loss_fusion'") == 2 and out.count("loss is") == 2
    compile(search, "python.md", "exec")


class Recorded(ms.Callback):
    """The losses of a run of `mindspore.Model`."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def step_end(self, run_context):
        self.losses.append(float(run_context.original_args().net_outputs.loss))


@pytest.mark.parametrize("mode", [pytest.param("graph", marks=pytest.mark.exhaustive), "pynative"], indirect=True)
def test_a_users_loop_and_mindspores_model_take_the_same_steps(mode):
    """Both as docs/python.md shows them; the rate is the config's."""
    own = mu.TrainOneStepCell(mu.build_model(CONFIG.model), CONFIG)
    own.set_train()
    losses = [float(own(*batch(number)).loss) for number in range(3)]
    cell = mu.TrainOneStepCell(mu.build_model(CONFIG.model), CONFIG)
    columns = ["images", "sketches", "token_ids"]
    data = ms.dataset.GeneratorDataset([batch(number) for number in range(3)], columns, shuffle=False)
    recorded = Recorded()
    ms.Model(cell).train(1, data, callbacks=[recorded, ms.LossMonitor(1)], dataset_sink_mode=False)
    assert recorded.losses == losses and losses[2] < losses[0]
    assert parity.max_difference(weights_of(cell.network.model), weights_of(own.network.model)) == 0
