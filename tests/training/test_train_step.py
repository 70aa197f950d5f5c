"""Whole training steps against torch: gradients of every objective, and parameters along two runs side by side."""

import gc
from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
from mindspore import Tensor

from ms_unireid.config import Config, ObjectiveConfig, TrainConfig
from ms_unireid.losses.objective import Objective
from ms_unireid.models.unireid import build_model
from ms_unireid.training.train_step import NetworkWithObjective, TrainStep, reached_parameters
from reference import losses, optimizer

PAIRS = 6
CHECKED_STEPS = (1, 5, 20)
BOUNDS = {1e-5: 1e-6, 1e-3: 2e-5}
TEXT_TOWER = ("token_embedding", "positional_embedding", "text_projection", "ln_final", "transformer")


def is_text(name):
    return name.removeprefix("base_model.").split(".")[0] in TEXT_TOWER


@pytest.fixture(scope="module")
def theirs():
    return parity.reference_for(parity.TINY, 3)


@pytest.fixture(scope="module")
def start(theirs):
    """The initial values of every run."""
    return parity.parameters(theirs)


def batch(step):
    return parity.numpy_batch(parity.TINY, 100 + step, PAIRS)


def reference_loss(net, arrays, row):
    return losses.objective(*net(*parity.to_torch(arrays)), **losses.OBJECTIVES[row])["loss"]


def reference_gradients(net, arrays, row):
    """Return the loss and the gradients of the parameters that have one."""
    net.zero_grad(set_to_none=True)
    loss = reference_loss(net, arrays, row)
    loss.backward()
    return loss.item(), {n: p.grad.numpy().copy() for n, p in net.named_parameters() if p.grad is not None}


def reference_run(start, config, steps):
    """Train torch's twin; return losses and the parameters after each of CHECKED_STEPS."""
    net = parity.reference_for(parity.TINY, 3)
    assert parity.max_difference(parity.parameters(net), start) == 0
    net.logit_scale.requires_grad_(config.model.learnable_temperature)
    adam = optimizer.make_adam(net, config.train.learning_rate)
    row = next(name for name, objective in parity.ROWS.items() if objective == config.objective)
    history, values = [], {}
    for step in range(1, steps + 1):
        adam.zero_grad(set_to_none=True)
        loss = reference_loss(net, batch(step), row)
        loss.backward()
        adam.step()
        history.append(loss.item())
        if step in CHECKED_STEPS:
            values[step] = parity.parameters(net)
    return history, values


def our_run(step_cell, start, rate, steps):
    """Train ours from `start` with fresh moments; return as `reference_run`."""
    reset(step_cell, start)
    history, values = [], {}
    for step in range(1, steps + 1):
        loss, _ = step_cell(*parity.to_ms(batch(step)), Tensor(rate, ms.float32))
        history.append(float(loss.asnumpy()))
        if step in CHECKED_STEPS:
            values[step] = parity.parameters(step_cell.network.model)
    return history, values


def reset(step_cell, start):
    adam = step_cell.optimizer
    parity.load_values(step_cell.network.model, start)
    for moment in (*adam.exp_avg, *adam.exp_avg_sq):
        moment.set_data(Tensor(np.zeros(moment.shape, np.float32)))
    for power in (adam.beta1_power, adam.beta2_power):
        power.set_data(Tensor(1.0, ms.float32))


def make_config(row="Full", rate=1e-5, **model):
    return Config(
        model=replace(parity.TINY, **model), objective=parity.ROWS[row], train=TrainConfig(learning_rate=rate)
    )


def make_step(row="Full", **model):
    config = make_config(row, **model)
    return TrainStep(build_model(config.model), config)


@pytest.fixture(scope="module")
def full_step():
    """The full objective's step; compiled once for the whole module."""
    return make_step()


# Gradients.


@pytest.mark.parametrize("row", parity.ROWS)
def test_gradients(row, theirs, start, pynative):
    model = build_model(parity.TINY)
    parity.load_values(model, start)
    network = NetworkWithObjective(model, Objective(parity.ROWS[row]))
    params = reached_parameters(network)
    gradient = ms.value_and_grad(network, None, ms.ParameterTuple(params), has_aux=True)
    (loss, _), grads = gradient(*parity.to_ms(batch(0)))
    expected_loss, expected = reference_gradients(theirs, batch(0), row)
    assert float(loss.asnumpy()) == pytest.approx(expected_loss, rel=1e-5)
    found = {p.name: g.asnumpy() for p, g in zip(params, grads, strict=True)}
    difference, name = parity.gradient_difference(found, expected)
    assert difference < 2e-4, name


def test_gradients_compiled(theirs, start, full_step, graph):
    """The first moment after one step is a tenth of the gradient with its decay."""
    expected_loss, expected = reference_gradients(theirs, batch(1), "Full")
    history, _ = our_run(full_step, start, 1e-5, 1)
    decays = zip(full_step.params, full_step.optimizer.exp_avg, full_step.optimizer.decays, strict=True)
    found = {p.name: moment.asnumpy() * 10 - decay * start[p.name] for p, moment, decay in decays}
    assert history[0] == pytest.approx(expected_loss, rel=1e-5)
    difference, name = parity.gradient_difference(found, expected)
    assert difference < 2e-4, name


# Parameters along a run.


@pytest.mark.parametrize("rate", BOUNDS)
def test_runs_side_by_side(rate, start, full_step, graph):
    expected_losses, expected = reference_run(start, make_config(rate=rate), 20)
    found_losses, found = our_run(full_step, start, rate, 20)
    assert found.keys() == expected.keys() == set(CHECKED_STEPS)
    for step in CHECKED_STEPS:
        assert parity.max_difference(found[step], expected[step]) < BOUNDS[rate], step
    assert found_losses == pytest.approx(expected_losses, rel=1e-5 if rate == 1e-5 else 1e-4)
    assert parity.max_difference(expected[20], start) > 10 * rate


@pytest.mark.parametrize("rate", BOUNDS)
@pytest.mark.parametrize("row", ["T", "S", "Full"])
def test_one_step_without_compilation(row, rate, start, pynative):
    _, expected = reference_run(start, make_config(row, rate), 1)
    _, found = our_run(make_step(row), start, rate, 1)
    assert parity.max_difference(found[1], expected[1]) < BOUNDS[rate]


def test_parts_come_with_the_loss_before_the_step(start, full_step, graph):
    reset(full_step, start)
    loss, parts = full_step(*parity.to_ms(batch(1)), Tensor(1e-3, ms.float32))
    parts = {name: float(p.asnumpy()) for name, p in zip(full_step.part_names, parts, strict=True)}
    net = parity.reference_for(parity.TINY, 3)
    expected = losses.objective(*net(*parity.to_torch(batch(1))), **losses.OBJECTIVES["Full"])
    assert float(loss.asnumpy()) == pytest.approx(expected["loss"].item(), rel=1e-5)
    assert parts["loss_sketch"] == pytest.approx(expected["plain_sketch"].item(), rel=1e-5)
    assert parts["weight_text"] == pytest.approx(expected["w_text"].item(), rel=5e-5)
    assert parts["temperature"] == pytest.approx(0.07, rel=1e-5)


# What a row must not touch, bit for bit.


def changed(values, start):
    return {name for name in start if not np.array_equal(values[name], start[name])}


def test_sketch_alone_leaves_the_text_tower(start, mode):
    step_cell = make_step("S")
    _, values = our_run(step_cell, start, 1e-3, 1)
    assert changed(values[1], start) == {name for name in start if not is_text(name)}
    first = values[1]
    reset(step_cell, start)
    images, sketches, token_ids = batch(1)
    step_cell(*parity.to_ms((images, sketches, token_ids[::-1])), Tensor(1e-3, ms.float32))
    assert parity.max_difference(parity.parameters(step_cell.network.model), first) == 0


def test_text_alone_ignores_the_sketches(start, pynative):
    step_cell = make_step("T")
    _, values = our_run(step_cell, start, 1e-3, 1)
    unchanged = start.keys() - changed(values[1], start)
    assert not unchanged
    reset(step_cell, start)
    images, sketches, token_ids = batch(1)
    step_cell(*parity.to_ms((images, -sketches, token_ids)), Tensor(1e-3, ms.float32))
    assert parity.max_difference(parity.parameters(step_cell.network.model), values[1]) == 0


def test_fusion_alone_trains_both_towers(start, pynative):
    _, values = our_run(make_step("F"), start, 1e-3, 1)
    assert changed(values[1], start) == set(start)


def test_fixed_temperature(start, pynative):
    config = make_config(rate=1e-3, learnable_temperature=False)
    _, expected = reference_run(start, config, 5)
    _, found = our_run(make_step(learnable_temperature=False), start, 1e-3, 5)
    assert found[5]["logit_scale"] == start["logit_scale"]
    assert parity.max_difference(found[5], expected[5]) < BOUNDS[1e-3]


def test_zero_rate_changes_nothing(start, full_step, graph):
    _, values = our_run(full_step, start, 0.0, 1)
    assert not changed(values[1], start)


# The whole ViT-B/16.


def reference_full_step(start_seed, arrays, rate):
    """Return loss, gradients, initial values and values after one step of torch's full-size model."""
    net = parity.reference_for(parity.FULL_SIZE, start_seed)
    start = parity.parameters(net)
    loss, grads = reference_gradients(net, arrays, "Full")
    optimizer.make_adam(net, rate).step()
    return loss, grads, start, parity.parameters(net)


@pytest.mark.full_size
def test_full_size_step(graph):
    rate, arrays = 1e-5, parity.numpy_batch(parity.FULL_SIZE, 5, 2)
    expected_loss, grads, start, values = reference_full_step(3, arrays, rate)
    gc.collect()
    step_cell = TrainStep(build_model(parity.FULL_SIZE), Config(objective=ObjectiveConfig()))
    parity.load_values(step_cell.network.model, start)
    loss, _ = step_cell(*parity.to_ms(arrays), Tensor(rate, ms.float32))
    assert float(loss.asnumpy()) == pytest.approx(expected_loss, rel=1e-5)
    adam = step_cell.optimizer
    floor = 1e-6 * max(np.abs(g).max() for g in grads.values())
    assert len(step_cell.params) == len(grads) == 302
    for p, moment, decay in zip(step_cell.params, adam.exp_avg, adam.decays, strict=True):
        gradient, expected = moment.asnumpy() * 10 - decay * start[p.name], grads.pop(p.name)
        assert np.abs(gradient - expected).max() < 2e-4 * max(np.abs(expected).max(), floor), p.name
        assert np.abs(p.asnumpy() - values.pop(p.name)).max() < 1e-6, p.name
