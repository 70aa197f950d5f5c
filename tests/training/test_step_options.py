"""Memory, precision, clipping and averaging: each option against the plain step, and its own arithmetic."""

import json
from collections.abc import Iterator
from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from mindspore import Tensor, nn

from ms_unireid.config import Config, RuntimeConfig, TrainConfig
from ms_unireid.errors import ConfigError
from ms_unireid.losses import Objective
from ms_unireid.models.ops import MatMul
from ms_unireid.models.unireid import build_model
from ms_unireid.training.gradient import NetworkWithObjective
from ms_unireid.training.loss_scale import LossScale, TooManyOverflows
from ms_unireid.training.train_step import TrainOneStepCell
from reference import losses

PAIRS, RATE = 6, 1e-3
# Adam moves a word whose gradient all but vanishes by the rate, 1e-3, like any other, and its rounding with it.
BETWEEN_FORMS = 3e-6
MIXED = RuntimeConfig(precision="mixed", initial_loss_scale=1024.0)


def make(row="Full", runtime=None, **train):
    config = Config(
        model=parity.TINY,
        objective=parity.ROWS[row],
        train=TrainConfig(learning_rate=RATE, **train),
        runtime=runtime or RuntimeConfig(),
    )
    return TrainOneStepCell(build_model(config.model, 1, config.runtime), config)


def batch(number=0, pairs=PAIRS):
    return parity.numpy_batch(parity.TINY, 100 + number, pairs)


def take(step, number=0, pairs=PAIRS):
    """Take a step."""
    return step(*batch(number, pairs), RATE)


def run(step, steps=2, pairs=PAIRS):
    """Take steps; return the results and the parameters after them."""
    results = [take(step, number, pairs) for number in range(steps)]
    return results, parity.parameters(step.network.model)


@pytest.fixture(scope="module")
def plain():
    """The plain step's results and parameters, without compilation."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return run(make())


# The same numbers with less memory.


@pytest.mark.parametrize("chunk", [1, 4, PAIRS, 50])
def test_a_cached_step_equals_the_plain_one(plain, pynative, chunk):
    results, values = run(make(cache_chunk=chunk))
    assert parity.max_difference(values, plain[1]) < 1e-6
    for ours, theirs in zip(results, plain[0], strict=True):
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-6)
        assert ours.parts == pytest.approx(theirs.parts, rel=1e-5, abs=1e-6)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-5)


@pytest.mark.parametrize("row", ["T", "S", "F", "Dyn"])
def test_a_cached_step_of_other_objectives(pynative, row):
    _, expected = run(make(row), 1)
    _, found = run(make(row, cache_chunk=4), 1)
    assert parity.max_difference(found, expected) < 1e-6


PERSONS = np.array([4, 0, 4, 1, 0, 4], np.int32)


def by_person(**train):
    """A step of the whole objective with the photos of a person as positives."""
    config = Config(
        model=replace(parity.TINY, stride=4),
        objective=replace(parity.ROWS["Full"], positives="identity"),
        train=TrainConfig(learning_rate=RATE, **train),
    )
    return TrainOneStepCell(build_model(config.model, 1), config)


def persons_loss(net, arrays, persons):
    per_pair = losses.by_person("identity", torch.from_numpy(persons))
    return losses.objective(*net(*parity.to_torch(arrays)), **losses.OBJECTIVES["Full"], per_pair=per_pair)["loss"]


@pytest.fixture(scope="module")
def by_person_in_torch():
    """The gradients of the whole batch, and of its halves, with overlapping patches."""
    net = parity.reference_for(replace(parity.TINY, stride=4), 1)
    with torch.no_grad():
        for name, value in parity.parameters(build_model(replace(parity.TINY, stride=4), 1)).items():
            net.get_parameter(name).copy_(torch.from_numpy(value))
    found = []
    for blocks in ([range(6)], [range(3), range(3, 6)]):
        net.zero_grad()
        for block in blocks:
            part = [a[list(block)] for a in batch()]
            (persons_loss(net, part, PERSONS[list(block)]) / len(blocks)).backward()
        found.append({n: p.grad.numpy().copy() for n, p in net.named_parameters()})
    return found


@pytest.fixture(scope="module")
def compiled_by_person():
    """A step with a moving average, compiled where a test compiles."""
    return by_person(ema_decay=0.9)


@pytest.mark.parametrize("options", [{"cache_chunk": 4}, {"accumulation_steps": 2}], ids=str)
def test_positives_of_a_person_with_memory_options(by_person_in_torch, pynative, options):
    check_by_person(by_person(**options), by_person_in_torch["accumulation_steps" in options])


def test_positives_of_a_person_compiled(by_person_in_torch, compiled_by_person, graph):
    check_by_person(compiled_by_person, by_person_in_torch[0])


def check_by_person(step, expected):
    difference, name = parity.gradient_difference(step.gradients(*batch(), persons=PERSONS), expected)
    assert difference < 2e-4, name
    before = float(step(*batch(), RATE, persons=PERSONS).loss)
    assert float(step(*batch(), RATE, persons=PERSONS).loss) < before


@pytest.mark.parametrize("row", ["S", "Full"])
def test_persons_are_gathered_beside_the_features(row, pynative):
    """With one process, whose rows are all rows."""
    model, objective = build_model(parity.TINY, 1), Objective(replace(parity.ROWS[row], positives="identity"))
    persons = Tensor(PERSONS + 2**24 - 8)  # float32 has no more whole numbers

    def values(gather):
        network = NetworkWithObjective(model, objective, gather)
        gradient = ms.value_and_grad(network, None, ms.ParameterTuple(network.trained_parameters()), has_aux=True)
        (loss, _), grads = gradient(*parity.to_ms(batch()), Tensor(1.0, ms.float32), persons)
        return [float(loss), *(grad.asnumpy() for grad in grads)]

    for ours, expected in zip(values(nn.Identity()), values(None), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("persons", [None, PERSONS[:4]])
def test_a_step_without_the_persons_it_needs(persons):
    with pytest.raises(
        ConfigError, match=r"objective\.positives=identity: .* persons of its 6 pairs, found .* persons="
    ):
        by_person()(*batch(), RATE, persons=persons)


def test_a_cached_step_compiled(plain, graph):
    _, values = run(make(cache_chunk=3))
    assert parity.max_difference(values, plain[1]) < 1e-6


@pytest.mark.parametrize("mode", ["pynative", pytest.param("graph", marks=pytest.mark.exhaustive)], indirect=True)
def test_recomputed_blocks_change_nothing(plain, mode):
    _, values = run(make(runtime=RuntimeConfig(recompute=True)))
    assert parity.max_difference(values, plain[1]) < 1e-6


def test_accumulated_parts_give_the_mean_gradient(pynative):
    """Against torch: the mean, weighted by size, of the gradients of parts of 2, 2 and 1 + ... pairs."""
    pairs, parts = 7, 3
    step = make(accumulation_steps=parts)
    start = parity.parameters(step.network.model)
    theirs = parity.reference_for(parity.TINY, 1)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(torch.from_numpy(start[name]))
    result = take(step, 0, pairs)
    arrays, total = parity.to_torch(batch(0, pairs)), 0.0
    for block in np.array_split(np.arange(pairs), parts):
        part = [a[block] for a in arrays]
        loss = losses.objective(*theirs(*part), **losses.OBJECTIVES["Full"])["loss"] * len(block) / pairs
        loss.backward()
        total += loss.item()
    assert float(result.loss) == pytest.approx(total, rel=1e-5)
    norm = torch.sqrt(sum((p.grad**2).sum() for p in theirs.parameters() if p.grad is not None)).item()
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)


# Clipping and averaging.


def test_the_norm_and_clipping_are_torchs(pynative):
    free, clipped = make(), make(clip_norm=0.5)
    norm = take(free).gradient_norm
    assert take(clipped).gradient_norm == pytest.approx(norm) and norm > 0.5
    ratio = 0.5 / (norm + 1e-6)
    for ours, theirs, decay in zip(
        clipped.optimizer.exp_avg, free.optimizer.exp_avg, free.optimizer.decays, strict=True
    ):
        name = ours.name.removeprefix("exp_avg.")
        start = parity.parameters(build_model(parity.TINY, 1))[name]
        expected = (theirs.asnumpy() * 10 - decay * start) * ratio
        np.testing.assert_allclose(ours.asnumpy() * 10 - decay * start, expected, rtol=2e-3, atol=1e-6)


def test_a_large_limit_clips_nothing(plain, pynative):
    _, values = run(make(clip_norm=1e6))
    assert parity.max_difference(values, plain[1]) < 1e-6


def test_the_moving_average(pynative):
    step = make(ema_decay=0.5)
    assert parity.max_difference(averages(step), parity.parameters(step.network.model)) == 0
    check_averages(step, 0.5)


def test_the_moving_average_compiled(compiled_by_person, graph):
    check_averages(compiled_by_person, 0.9, persons=PERSONS)


def averages(step):
    return {p.name.removeprefix("average."): p.asnumpy().copy() for p in step.averages}


def check_averages(step, decay, **options):
    expected = averages(step)
    for number in range(3):
        step(*batch(number), RATE, **options)
        now = parity.parameters(step.network.model)
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
    own = parity.parameters(step.network.model)
    with step.averaged():
        assert parity.max_difference(parity.parameters(step.network.model), expected) < 1e-6
    assert parity.max_difference(parity.parameters(step.network.model), own) == 0
    assert {p.name for p in step.state() if p.name.startswith("average.")} == {f"average.{name}" for name in own}


# The two forms of the towers' operations; `auto` is the fast one on a CPU, where these tests run.


@pytest.mark.parametrize("options", [{}, {"cache_chunk": 4}], ids=["plain", "cached"])
def test_both_forms_of_the_operations_agree(plain, options, pynative):
    results, values = run(make(runtime=RuntimeConfig(fused_ops="plain"), **options))
    assert parity.max_difference(values, plain[1]) < BETWEEN_FORMS
    for ours, theirs in zip(results, plain[0], strict=True):
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-6)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-5)


def test_the_plain_form_compiled_and_recomputed(plain, graph):
    _, values = run(make(runtime=RuntimeConfig(fused_ops="plain", recompute=True)))
    assert parity.max_difference(values, plain[1]) < BETWEEN_FORMS


@pytest.mark.parametrize(("form", "fast"), [("auto", True), ("fast", True), ("plain", False)])
def test_the_chosen_form(form, fast):
    names = parity.parameters(build_model(parity.TINY)).keys()
    model = make(runtime=RuntimeConfig(fused_ops=form)).network.model
    assert any("Fast" in type(cell).__name__ for _, cell in model.cells_and_names()) == fast
    assert parity.parameters(model).keys() == names


# Half precision.


def test_mixed_precision_keeps_float32_weights_and_losses(pynative):
    step = make(runtime=MIXED)
    (result,), values = run(step, 1)
    (expected,), plain_values = run(make(), 1)
    assert {p.dtype for p in (*step.network.model.get_parameters(), *step.state())} == {ms.float32}
    loss, exact = float(result.loss), float(expected.loss)
    assert loss == pytest.approx(exact, rel=2e-3) and loss != exact
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=2e-2)
    assert not result.skipped and parity.max_difference(values, plain_values) < 3 * RATE


@pytest.mark.parametrize(("form", "products"), [("plain", 2 * 4 + 4), ("fast", 2 * 5 + 10)])
def test_only_products_are_half(form, products, pynative):
    """Features, and so similarity and losses, are float32; every matrix product of the towers is not.

    Both towers share the products of their linear maps.
    """
    model = make(runtime=replace(MIXED, fused_ops=form)).network.model
    found = [cell for _, cell in model.cells_and_names() if isinstance(cell, MatMul)]
    assert len(found) == products and all(cell.precision == "mixed" for cell in found)
    images, sketches, token_ids = parity.to_ms(batch())
    assert {t.dtype for t in model(images, sketches, token_ids)} == {ms.float32}
    big = Tensor(np.full((2, 2), 300.0, np.float32))
    assert np.isfinite(MatMul()(big, big).asnumpy()).all()
    halved = MatMul(precision="mixed")(big, big)
    assert np.isinf(halved.asnumpy()).all() and halved.dtype == ms.float32


# Steps that sum gradients up share what follows the sums, and a step takes long where it is not compiled.
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("graph", {"ema_decay": 0.9}),
        pytest.param("pynative", {"ema_decay": 0.9}, marks=pytest.mark.exhaustive),
        pytest.param("graph", {"cache_chunk": 4}, marks=pytest.mark.exhaustive),
    ],
    indirect=["mode"],
    ids=str,
)
def test_an_overflow_skips_the_step(mode, options):
    """A step, a step with an overflow, and steps until the scale has shrunk enough."""
    step = make(runtime=replace(MIXED, max_overflows=50), **options)
    assert not take(step).skipped
    before = state_of(step)
    step.loss_scale.restore({"value": 2.0**40})
    result = take(step)
    assert result.skipped and not np.isfinite(result.gradient_norm) and np.isfinite(float(result.loss))
    assert state_of(step) == before
    assert step.loss_scale.state() == {"value": 2.0**39, "steps": 0, "overflows": 1, "in_a_row": 1}
    assert result.read()["loss_scale"] == 2.0**39
    step.loss_scale.restore({"value": 2.0**20})
    taken = next(number for number in range(50) if not take(step).skipped)
    state = step.loss_scale.state()
    assert state == {"value": 2.0 ** (20 - taken), "steps": 1, "overflows": 1 + taken, "in_a_row": 0} and taken > 0
    assert state_of(step).keys() == before.keys() and not any(state_of(step)[name] == before[name] for name in MOVED)


# The state that every step changes.
MOVED = ("logit_scale", "exp_avg.logit_scale", "exp_avg_sq.logit_scale", "beta1_power", "beta2_power")


def state_of(step) -> dict[str, bytes]:
    return {p.name: p.asnumpy().tobytes() for p in (*step.network.model.get_parameters(), *step.state())}


def scaler(**values) -> LossScale:
    return LossScale(RuntimeConfig(precision="mixed", initial_loss_scale=8.0, **values))


def expected_scale(finite: list[bool], dynamic: bool, window: int) -> Iterator[dict[str, float]]:
    """Follow the rule on the host: double after `window` steps without an overflow, halve at one, at least 1."""
    value, steps, overflows, in_a_row = 8.0, 0, 0, 0
    for good in finite:
        steps, in_a_row = (steps + 1, 0) if good else (0, in_a_row + 1)
        overflows += not good
        if dynamic and not good:
            value = max(1.0, value / 2)
        elif dynamic and steps >= window:
            value, steps = value * 2, 0
        yield {"value": value, "steps": steps, "overflows": overflows, "in_a_row": in_a_row}


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_the_scale_follows_its_rule(graph, kind):
    """Half way it goes on in another object, as in a resumed run, from what a checkpoint holds."""
    scale = scaler(loss_scale=kind, loss_scale_window=3)
    finite = (np.random.default_rng(5).random(60) < 0.7).tolist()
    for number, (good, expected) in enumerate(zip(finite, expected_scale(finite, kind == "dynamic", 3), strict=True)):
        reported = dict(zip(scale.reported, map(float, scale(Tensor(good))), strict=True))
        assert scale.state() == expected
        assert reported == {"loss_scale": expected["value"], **{k: expected[k] for k in ("overflows", "in_a_row")}}
        if number == 30:
            other = scaler(loss_scale=kind, loss_scale_window=3)
            other.restore(json.loads(json.dumps(scale.state())))
            scale = other


def test_too_many_overflows_in_a_row_stop_the_run():
    scale = scaler(max_overflows=3)
    scale.check(2, 4.0)
    with pytest.raises(TooManyOverflows, match=r"overflowed in 3 steps in a row.* runtime\.precision=fp32"):
        scale.check(3, 2.0)


def test_float32_has_no_scale():
    scale = LossScale(RuntimeConfig())
    assert scale.state()["value"] == 1 and not scale.active and not scale.reported
