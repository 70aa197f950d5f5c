"""Pairs that lack what a task asks with: the loss against plain loops, its gradients, and a training step.

Costs 20 seconds, most of it compilation.
"""

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from mindspore import Tensor, nn
from test_losses import correlated_feats

from ms_unireid.config import Config, DataConfig, ObjectiveConfig, TrainConfig
from ms_unireid.errors import ConfigError
from ms_unireid.losses import Objective
from ms_unireid.modalities import modalities_of
from ms_unireid.models.unireid import build_model
from ms_unireid.training.gradient import FeatureObjective
from ms_unireid.training.train_step import TrainOneStepCell

NAMES, SCALE = ("image", "sketch", "text"), 14.0
PAPER = ObjectiveConfig()
# Of seven pairs: all have a caption but one, four have a sketch.
HAS = {"text": np.array([1, 1, 1, 0, 1, 1, 1]), "sketch": np.array([1, 0, 1, 1, 0, 0, 1])}
PRESENT = np.stack([HAS["text"], HAS["sketch"], HAS["text"] * HAS["sketch"]], 1).astype(np.float32)
PERSONS = np.array([0, 0, 1, 1, 0, 2, 1], np.int32)


def one_way(logits, own, candidates, positives, kind):
    """Return the loss of one row: `own` finds its own column, or the positives, among the candidates."""
    logs = {c: value for c, value in zip(candidates, logits[candidates].log_softmax(0), strict=True)}
    if kind == "pair":
        return -logs[own]
    if kind == "identity":
        return -sum(logs[c] for c in positives) / len(positives)
    target = {c: np.log(1e-8 + (c in positives) / len(positives)) for c in candidates}
    return sum(logs[c].exp() * (logs[c] - target[c]) for c in candidates)


def literal(feats, present, config, persons):
    """Compute the loss with a loop over pairs; whoever lacks something is not looked at."""
    everyone = list(range(len(feats["image"])))
    unit = {name: rows / rows.norm(dim=1, keepdim=True) for name, rows in feats.items()}
    losses, logits = {}, {}
    for column, task in enumerate(config.tasks):
        query = sum(feats[part] for part in modalities_of(task))
        logits[task] = SCALE * (query / query.norm(dim=1, keepdim=True)) @ unit["image"].T
        there = [i for i in everyone if present[i, column]]
        losses[task] = {}
        for i in there:
            alike = [j for j in everyone if persons[j] == persons[i]]
            seen = [j for j in alike if j in there]
            forth = one_way(logits[task][i], i, everyone, alike, config.positives)
            back = one_way(logits[task][:, i], i, there, seen, config.positives)
            losses[task][i] = (forth + back) / 2
    total, (one, other) = 0, config.modulated
    for task, found in losses.items():
        weighted = []
        for i, loss in found.items():
            weight = 1
            if task in config.modulated and config.dynamic and i in losses[one] and i in losses[other]:
                own_p, other_p = (torch.exp(-losses[t][i]) for t in ((one, other) if task == one else (other, one)))
                weight = (1 + other_p * 2 * own_p * other_p / (own_p + other_p)) ** config.gamma
            weighted.append(weight * loss)
        total = total + sum(weighted) / max(len(weighted), 1)
    both = [i for i in losses[one] if i in losses[other]]
    teacher, student = (logits[task] for task in config.aligned)
    crossed = [-(teacher[i].detach().softmax(0) * student[i].log_softmax(0)).sum() for i in both]
    return total + config.interaction_weight * sum(crossed) / max(len(both), 1)


def run(feats, present, config=PAPER, persons=PERSONS):
    """Return loss, parts and the gradients of photos, sketches and texts; `present` may be None."""
    objective = Objective(config)
    columns = () if present is None else tuple(map(Tensor, np.ascontiguousarray(present.T)))
    of = Tensor(persons) if config.positives != "pair" else None

    def forward(image, sketch, text):
        return objective(image, sketch, text, text + sketch, Tensor(SCALE, ms.float32), of, *columns)

    (loss, parts), grads = ms.value_and_grad(forward, (0, 1, 2), has_aux=True)(*map(Tensor, feats))
    named = dict(zip(objective.part_names, (float(one.asnumpy()) for one in parts), strict=True))
    return float(loss.asnumpy()), named, dict(zip(NAMES, (grad.asnumpy() for grad in grads), strict=True))


@pytest.mark.parametrize("positives", ["pair", "identity", "distribution"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_the_loss_is_that_of_a_loop_over_pairs(positives, dynamic, pynative):
    config = ObjectiveConfig(positives=positives, dynamic=dynamic)
    feats = correlated_feats(5)[:3]
    leaves = {name: torch.from_numpy(row).requires_grad_() for name, row in zip(NAMES, feats, strict=True)}
    expected = literal(leaves, PRESENT, config, PERSONS)
    expected.backward()
    loss, _, grads = run(feats, PRESENT, config)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert parity.gradient_difference(grads, {n: leaf.grad.numpy() for n, leaf in leaves.items()})[0] < 2e-4


def test_what_stands_in_does_not_matter(pynative):
    feats = correlated_feats(6)[:3]
    other = [feats[0], *(row.copy() for row in feats[1:])]
    for name, row in zip(NAMES[1:], other[1:], strict=True):
        row[HAS[name] == 0] *= -3
    first, again = run(feats, PRESENT), run(other, PRESENT)
    assert first[:2] == again[:2]
    for name in NAMES:
        np.testing.assert_array_equal(first[2][name], again[2][name])
    for name in NAMES[1:]:
        assert not first[2][name][HAS[name] == 0].any() and first[2][name][HAS[name] == 1].all(1).all()


def test_with_nothing_missing_no_number_changes(pynative):
    feats = correlated_feats(7)[:3]
    plain, whole = run(feats, None), run(feats, np.ones_like(PRESENT))
    assert plain[:2] == whole[:2]
    for name in NAMES:
        np.testing.assert_array_equal(plain[2][name], whole[2][name])


@pytest.mark.parametrize("positives", ["pair", "identity", "distribution"])
def test_a_batch_that_a_task_has_no_pair_of(positives, pynative):
    nobody = PRESENT * np.array([1, 0, 0], np.float32)
    loss, parts, grads = run(correlated_feats(8)[:3], nobody, ObjectiveConfig(positives=positives))
    assert parts["loss_sketch"] == parts["loss_fusion"] == parts["interaction"] == parts["weight_text"] == 0
    assert loss == pytest.approx(parts["loss_text"]) and loss > 0
    assert not grads["sketch"].any() and all(np.isfinite(grad).all() for grad in grads.values())


@pytest.mark.slow
@pytest.mark.parametrize("positives", ["pair", "identity"])
def test_what_is_exchanged_between_processes_is_the_same(positives, mode):
    config = ObjectiveConfig(positives=positives)
    model, feats = build_model(parity.TINY), [Tensor(row) for row in correlated_feats(9)[:3]]
    extras = [Tensor(PERSONS)] if positives != "pair" else []
    extras += map(Tensor, np.ascontiguousarray(PRESENT.T))
    alone, joined = (
        FeatureObjective(model, Objective(config), NAMES, gather)(Tensor(1.0, ms.float32), *feats, *extras)
        for gather in (None, nn.Identity())
    )
    assert [float(one.asnumpy()) for one in alone[1]] == [float(one.asnumpy()) for one in joined[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "memory"),
    [
        ("graph", {}),
        ("pynative", {"cache_chunk": 2}),
        pytest.param("graph", {"cache_chunk": 2}, marks=pytest.mark.exhaustive),
    ],
    indirect=["mode"],
    ids=str,
)
def test_a_step_takes_what_is_present(mode, memory):
    config = Config(model=parity.TINY, data=DataConfig(), train=TrainConfig(**memory))
    photos, sketches, token_ids = parity.numpy_batch(parity.TINY, 1, 4)
    step, present = TrainOneStepCell(build_model(config.model), config), PRESENT[:4]
    again = np.where(HAS["sketch"][:4, None, None, None], sketches, photos)
    grads = [step.gradients(photos, drawn, token_ids, present=present) for drawn in (sketches, again)]
    assert parity.max_difference(*grads) == 0
    whole = step.gradients(photos, sketches, token_ids, present=np.ones_like(present))
    assert parity.max_difference(whole, grads[0]) > 0
    for wrong in (present[:3], present[:, :2], present[0]):
        with pytest.raises(ConfigError, match="expected 0 or 1 for 4 pairs and 3 tasks"):
            step(photos, sketches, token_ids, present=wrong)
