"""Adam against torch.optim.Adam with the authors' groups, and the published learning rates."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from mindspore import Parameter, Tensor, nn

from ms_unireid.adam import Adam
from ms_unireid.config import Config, DataConfig, TrainConfig
from ms_unireid.training.optimizer import learning_rates
from reference import optimizer as reference

STEPS = 20


class Net(torch.nn.Module):
    """One weight, bias, gain and scalar: every rule of the groups."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = torch.nn.Linear(4, 3)
        self.in_proj_bias = torch.nn.Parameter(torch.randn(6))
        self.ln_1 = torch.nn.LayerNorm(5)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.6592600))


class Step(nn.Cell):
    """Takes gradients as separate arguments: a tuple would be compiled again at every step."""

    def __init__(self, params, config):
        super().__init__(auto_prefix=False)
        self.adam, self.bias_factor = Adam(params, config), config.bias_lr_factor

    def construct(self, learning_rate, *grads):
        return self.adam(grads, learning_rate, self.bias_factor * learning_rate)


def gradients(values, step):
    """Gradients from a ten-thousandth of epsilon to a hundred times it, and some zeros."""
    rng = np.random.default_rng(step)
    grads = {name: rng.standard_normal(v.shape) * 10 ** rng.uniform(-7, -1, v.shape) for name, v in values.items()}
    grads["ln_1.weight"][0] = 0
    return {name: g.astype(np.float32) for name, g in grads.items()}


def rate(config, step):
    return config.learning_rate * (1 + step % 3)


def torch_run(config):
    """Return the parameters after every step of torch's own Adam."""
    net, history = Net(), []
    options = {"weight_decay": config.weight_decay, "bias_weight_decay": config.bias_weight_decay}
    options |= {"bias_lr_factor": config.bias_lr_factor, "eps": config.eps, "betas": (config.beta1, config.beta2)}
    adam = reference.make_adam(net, config.learning_rate, **options)
    base = [group["lr"] for group in adam.param_groups]
    for step in range(STEPS):
        for group, lr in zip(adam.param_groups, base, strict=True):
            group["lr"] = lr * (1 + step % 3)
        grads = gradients(parity.parameters(net), step)
        for name, parameter in net.named_parameters():
            parameter.grad = torch.tensor(grads[name])
        adam.step()
        history.append(parity.parameters(net))
    return history


def our_run(config):
    """Return the parameters after every step of ours."""
    params = [Parameter(Tensor(value, ms.float32), name=name) for name, value in parity.parameters(Net()).items()]
    adam, history = Step(params, config), []
    for step in range(STEPS):
        grads = parity.to_ms(gradients(parity.parameters(params), step).values())
        adam(Tensor(rate(config, step), ms.float32), *grads)
        history.append(parity.parameters(params))
    return history


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({}, 1e-6),
        ({"learning_rate": 1e-3}, 2e-6),
        ({"learning_rate": 1e-3, "eps": 1e-8, "beta1": 0.5, "beta2": 0.99}, 1e-5),
        ({"learning_rate": 1e-2, "weight_decay": 0.3, "bias_weight_decay": 0.1, "bias_lr_factor": 5.0}, 5e-6),
    ],
)
def test_adam_equals_torch(options, bound, mode):
    config = TrainConfig(**options)
    for step, (ours, theirs) in enumerate(zip(our_run(config), torch_run(config), strict=True), start=1):
        assert parity.max_difference(ours, theirs) < bound, step
    moved = parity.max_difference(theirs, parity.parameters(Net()))
    assert moved > 10 * bound


def test_first_step_by_hand(mode):
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5)
    weight, bias = (Parameter(Tensor([2.0], ms.float32), name=name) for name in ("a.weight", "a.bias"))
    rates = Tensor(0.1, ms.float32), Tensor(0.2, ms.float32)
    Adam([weight, bias], config)((Tensor([-0.997], ms.float32), Tensor([0.003], ms.float32)), *rates)
    # weight: gradient 0.003 once the decay is added; bias: twice the rate, no decay.
    assert float(weight.asnumpy()[0]) == pytest.approx(2 - 0.1 * 0.003 / 0.004, abs=1e-5)
    assert float(bias.asnumpy()[0]) == pytest.approx(2 - 0.2 * 0.003 / 0.004, abs=1e-6)


def test_zero_gradient_moves_nothing_but_by_decay(mode):
    params = [Parameter(Tensor([1.0], ms.float32), name=name) for name in ("a.weight", "a.bias")]
    adam = Adam(params, TrainConfig(learning_rate=0.01))
    for _ in range(3):
        adam((Tensor([0.0], ms.float32),) * 2, Tensor(0.01, ms.float32), Tensor(0.02, ms.float32))
    weight, bias = (float(p.asnumpy()[0]) for p in params)
    assert weight < 1
    assert bias == 1


def test_rates_are_the_published_ones():
    rates = learning_rates(Config())
    assert len(rates) == 60
    assert [f"{r:.6e}" for r in rates] == [f"{r:.6e}" for r in reference.PUBLISHED_LEARNING_RATES]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epochs": 30, "learning_rate": 3e-4, "warmup_epochs": 3, "warmup_factor": 0.01},
        {"final_learning_rate": 1e-6},
        {"warmup_epochs": 1},
        {"epochs": 6},
    ],
)
def test_rates_equal_those_of_torch(options):
    config = replace(TrainConfig(), **options)
    expected = reference.epoch_learning_rates(
        config.learning_rate, config.epochs, config.warmup_epochs, config.warmup_factor, config.final_learning_rate
    )
    assert learning_rates(Config(train=config)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_the_warmup_knows_no_final_rate_and_the_cosine_is_each_groups_own(factor):
    base, final = 1e-5, 4e-6
    config = Config(train=TrainConfig(learning_rate=base, final_learning_rate=final))
    cosine = [0.5 * (1 + np.cos(np.pi * k / 55)) for k in range(55)]
    expected = [factor * base * (0.1 * (1 - k / 5) + k / 5) for k in range(5)]
    expected += [final + (factor * base - final) * f for f in cosine]
    assert learning_rates(config, factor) == pytest.approx(expected, rel=1e-12)


def test_no_warmup_starts_at_the_base_rate():
    config = TrainConfig(warmup_epochs=0, epochs=4)
    expected = [1e-5 * 0.5 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]
    assert learning_rates(Config(train=config)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_a_run_no_longer_than_the_warmup(epochs):
    rates = learning_rates(Config(train=TrainConfig(epochs=epochs)))
    assert len(rates) == epochs
    assert rates[0] == pytest.approx(1e-6)
    assert all(np.isfinite(rates)) and sorted(rates) == rates and max(rates) <= 1e-5


@pytest.mark.parametrize("warmup", [0, 10, 50])
def test_rates_per_step_are_those_of_torch_stepped_once_a_step(warmup):
    config = TrainConfig(epochs=3, warmup_steps=warmup, learning_rate=1e-3, final_learning_rate=1e-6)
    expected = reference.epoch_learning_rates(1e-3, 3 * 7, warmup, target_lr=1e-6)
    assert learning_rates(Config(train=config), steps=7) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 8), ("sqrt", 8**0.5)])
def test_rates_of_a_larger_batch(rule, factor):
    config = Config(train=TrainConfig(scale_learning_rate=rule), data=DataConfig(batch_size=512))
    assert learning_rates(config) == pytest.approx([factor * rate for rate in learning_rates(Config())], rel=1e-12)
