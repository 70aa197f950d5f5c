"""Whole training steps against torch: gradients of every objective, and parameters along two runs side by side."""

import gc
from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from mindspore import Tensor

from ms_unireid.config import Config, RuntimeConfig, TrainConfig
from ms_unireid.losses import Objective
from ms_unireid.models.forms import Operations
from ms_unireid.models.unireid import UNIReID, build_model
from ms_unireid.training.gradient import NetworkWithObjective
from ms_unireid.training.train_step import TrainOneStepCell
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


def batch(step, model=parity.TINY, pairs=PAIRS):
    return parity.numpy_batch(model, 100 + step, pairs)


def reference_loss(net, arrays, row):
    return losses.objective(*net(*parity.to_torch(arrays)), **losses.OBJECTIVES[row])["loss"]


def reference_gradients(net, arrays, row):
    """Return the loss and the gradients of the parameters that have one."""
    net.zero_grad(set_to_none=True)
    loss = reference_loss(net, arrays, row)
    loss.backward()
    return loss.item(), {n: p.grad.numpy().copy() for n, p in net.named_parameters() if p.grad is not None}


def reference_run(start, config, steps, pairs=PAIRS):
    """Train torch's twin; return losses and the parameters after each of CHECKED_STEPS."""
    net = parity.reference_for(config.model, 3)
    assert parity.max_difference(parity.parameters(net), start) == 0
    net.logit_scale.requires_grad_(config.model.learnable_temperature)
    adam = optimizer.make_adam(net, config.train.learning_rate)
    row = next(name for name, objective in parity.ROWS.items() if objective == config.objective)
    history, values = [], {}
    for step in range(1, steps + 1):
        adam.zero_grad(set_to_none=True)
        loss = reference_loss(net, batch(step, config.model, pairs), row)
        loss.backward()
        adam.step()
        history.append(loss.item())
        if step in CHECKED_STEPS:
            values[step] = parity.parameters(net)
    return history, values


def our_run(step_cell, start, rate, steps, model=parity.TINY, pairs=PAIRS):
    """Train ours from `start` with fresh moments; return as `reference_run`."""
    reset(step_cell, start)
    history, values = [], {}
    for step in range(1, steps + 1):
        history.append(float(step_cell(*batch(step, model, pairs), rate).loss))
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


def make_config(row="Full", rate=1e-5, form="auto", **model):
    return Config(
        model=replace(parity.TINY, **model),
        objective=parity.ROWS[row],
        train=TrainConfig(learning_rate=rate),
        runtime=RuntimeConfig(fused_ops=form),
    )


def make_step(row="Full", **options):
    config = make_config(row, **options)
    return TrainOneStepCell(build_model(config.model, 1, config.runtime), config)


@pytest.fixture(scope="module", params=parity.FORMS)
def full_step(request):
    """The full objective's step, compiled once per form for the whole module."""
    return make_step(form=request.param)


# Gradients.


def assert_same_gradients(row, model, theirs, arrays):
    """Compare the loss and every gradient of one objective; both models hold the same weights."""
    network = NetworkWithObjective(model, Objective(parity.ROWS[row]))
    params = network.trained_parameters()
    gradient = ms.value_and_grad(network, None, ms.ParameterTuple(params), has_aux=True)
    (loss, _), grads = gradient(*parity.to_ms(arrays), Tensor(1.0, ms.float32))
    expected_loss, expected = reference_gradients(theirs, arrays, row)
    assert float(loss.asnumpy()) == pytest.approx(expected_loss, rel=1e-5)
    found = {p.name: g.asnumpy() for p, g in zip(params, grads, strict=True)}
    difference, name = parity.gradient_difference(found, expected)
    assert difference < 2e-4, name


@pytest.mark.parametrize("row", parity.ROWS)
def test_gradients(row, theirs, start, pynative):
    for form in parity.FORMS:
        model = UNIReID(parity.TINY, 1, Operations(form))
        parity.load_values(model, start)
        assert_same_gradients(row, model, theirs, batch(0))


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


@pytest.mark.parametrize("form", parity.FORMS)
@pytest.mark.parametrize("rate", BOUNDS)
@pytest.mark.parametrize("row", ["T", "S", "Full"])
def test_one_step_without_compilation(row, rate, form, start, pynative):
    _, expected = reference_run(start, make_config(row, rate), 1)
    _, found = our_run(make_step(row, form=form), start, rate, 1)
    assert parity.max_difference(found[1], expected[1]) < BOUNDS[rate]


def test_parts_come_with_the_loss_before_the_step(start, full_step, graph):
    reset(full_step, start)
    result = full_step(*batch(1), 1e-3)
    loss, parts = float(result.loss), {name: float(part) for name, part in result.parts.items()}
    net = parity.reference_for(parity.TINY, 3)
    expected = losses.objective(*net(*parity.to_torch(batch(1))), **losses.OBJECTIVES["Full"])
    assert loss == pytest.approx(expected["loss"].item(), rel=1e-5)
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
    step_cell(images, sketches, token_ids[::-1].copy(), 1e-3)
    assert parity.max_difference(parity.parameters(step_cell.network.model), first) == 0


def test_text_alone_ignores_the_sketches(start, pynative):
    step_cell = make_step("T")
    _, values = our_run(step_cell, start, 1e-3, 1)
    unchanged = start.keys() - changed(values[1], start)
    assert not unchanged
    reset(step_cell, start)
    images, sketches, token_ids = batch(1)
    step_cell(images, -sketches, token_ids, 1e-3)
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


# Of the widths of ViT-B/16, and `make parity` the whole of it, in batches of two pairs.


@pytest.fixture(scope="module")
def full_size(request):
    """Return torch's model, ours with the same weights, and these weights."""
    torch.set_num_threads(2)
    theirs, ours = parity.reference_for(request.param, 3), build_model(request.param)
    start = parity.parameters(theirs)
    parity.load_values(ours, start)
    yield theirs, ours, start
    torch.set_num_threads(1)
    gc.collect()


WIDE, WHOLE = (
    pytest.mark.parametrize("full_size", [pytest.param(model, id=name)], indirect=True)
    for name, model in (("three blocks", parity.FULL_WIDTH), ("whole", parity.FULL_SIZE))
)


def assert_same_step(full_size, config):
    """Compare a step; the first moment after it is a tenth of the gradient with its decay."""
    theirs, ours, start = full_size
    parity.load_values(ours, start)
    expected_loss, expected = reference_gradients(theirs, batch(1, config.model, 2), "Full")
    _, values = reference_run(start, config, 1, 2)
    step_cell = TrainOneStepCell(ours, config)
    history, found = our_run(step_cell, start, 1e-5, 1, config.model, 2)
    assert history[0] == pytest.approx(expected_loss, rel=1e-5)
    assert parity.max_difference(found[1], values[1]) < 1e-6
    decays = zip(step_cell.params, step_cell.optimizer.exp_avg, step_cell.optimizer.decays, strict=True)
    gradients = {p.name: moment.asnumpy() * 10 - decay * start[p.name] for p, moment, decay in decays}
    difference, name = parity.gradient_difference(gradients, expected)
    assert difference < 2e-4, name
    return len(gradients)


@WIDE
def test_step_of_full_width(full_size, graph):
    assert_same_step(full_size, Config(model=parity.FULL_WIDTH))


@pytest.mark.exhaustive
@WHOLE
def test_full_size_step(full_size, graph):
    assert assert_same_step(full_size, Config()) == 302


@pytest.mark.exhaustive
@WHOLE
@pytest.mark.parametrize("row", parity.ROWS)
def test_full_size_gradients(row, full_size, pynative):
    """Four pairs: with two, the random features are so alike that the temperature's gradient cancels."""
    theirs, ours, start = full_size
    parity.load_values(ours, start)
    plain = UNIReID(parity.FULL_SIZE)
    parity.load_values(plain, start)
    for model in (plain, ours):
        assert_same_gradients(row, model, theirs, batch(0, parity.FULL_SIZE, 4))


@pytest.mark.exhaustive
@WHOLE
def test_full_size_runs_side_by_side(full_size, graph):
    _, ours, start = full_size
    step_cell = TrainOneStepCell(ours, Config())
    for rate in BOUNDS:
        expected_losses, expected = reference_run(start, Config(train=TrainConfig(learning_rate=rate)), 20, 2)
        found_losses, found = our_run(step_cell, start, rate, 20, parity.FULL_SIZE, 2)
        for step in CHECKED_STEPS:
            assert parity.max_difference(found[step], expected[step]) < BOUNDS[rate], (rate, step)
        assert found_losses == pytest.approx(expected_losses, rel=1e-5 if rate == 1e-5 else 1e-4)
