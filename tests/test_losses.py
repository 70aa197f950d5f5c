"""The equations and the objective of every row of Table 2 against the PyTorch reference."""

import math
from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from mindspore import Tensor, nn, ops

from ms_unireid.config import ObjectiveConfig
from ms_unireid.losses import (
    Objective,
    distribution_loss,
    gallery_to_query_loss,
    identity_loss,
    interaction_loss,
    log_softmax,
    modulated_loss,
    modulation_factor,
    pair_loss,
    prediction_confidence,
    query_to_gallery_loss,
    same_person,
    similarity_logits,
)
from reference import losses as reference

SCALE = 1 / 0.07
LEAVES = ("image", "sketch", "text", "fused", "logit_scale")
COMPILED = ("T", "Ls", "Full")


def correlated_feats(seed=0, pairs=7, width=24, noise=0.9):
    """Photo, sketch, text and fused features that find each other well, but not always."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((pairs, width))
    feats = [(base + noise * rng.standard_normal(base.shape)).astype(np.float32) * s for s in (1, 3, 0.5)]
    return [*feats, feats[1] + 0.1 * feats[2]]


def reference_run(row, feats, scale=SCALE, dtype=torch.float32, **options):
    """Return the reference's parts and its gradients with regard to the leaves, zero where there are none."""
    leaves = [torch.from_numpy(f).to(dtype).requires_grad_() for f in feats]
    leaves.append(torch.tensor(math.log(scale), dtype=dtype, requires_grad=True))
    parts = reference.objective(*leaves[:4], leaves[4].exp(), **{**reference.OBJECTIVES[row], **options})
    parts["loss"].backward()
    parts["divergence"] = torch_divergence(*leaves[:3], leaves[4].exp())
    grads = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]
    return {name: p.item() for name, p in parts.items()}, dict(zip(LEAVES, grads, strict=True))


def torch_divergence(image, sketch, text, scale):
    """Return KL(P_T || Q_S), the mean over queries."""
    teacher, student = (reference.logits(query, image, scale).log_softmax(1) for query in (text, sketch))
    return torch.nn.functional.kl_div(student, teacher.detach(), log_target=True, reduction="batchmean")


def our_run(config, feats, scale=SCALE, persons=None):
    """Return our parts, `loss` included, and gradients as `reference_run` does."""
    objective = Objective(config)
    persons = None if persons is None else Tensor(persons, ms.int32)

    def forward(image, sketch, text, fused, logit_scale):
        return objective(image, sketch, text, fused, ms.ops.exp(logit_scale), persons)

    gradient = ms.value_and_grad(forward, (0, 1, 2, 3, 4), has_aux=True)
    (loss, parts), grads = gradient(*parity.to_ms(feats), Tensor(math.log(scale), ms.float32))
    parts = {name: float(p.asnumpy()) for name, p in zip(objective.part_names, parts, strict=True)}
    return {"loss": float(loss.asnumpy()), **parts}, {name: g.asnumpy() for name, g in zip(LEAVES, grads, strict=True)}


def expected_parts(parts, config):
    """Translate the reference's parts into those that ours must report."""
    expected = {"loss": parts["loss"], "temperature": 1 / SCALE}
    expected |= {f"loss_{task}": parts[f"plain_{task}"] for task in config.tasks}
    if {"text", "sketch"} <= set(config.tasks):
        expected |= {f"confidence_{task}": parts[f"p_{task}"] for task in ("text", "sketch")}
        expected |= {f"weight_{task}": parts[f"w_{task}"] for task in ("text", "sketch")}
    if config.interaction_weight:
        expected |= {name: parts[name] for name in ("interaction", "divergence")}
    return expected


def check_row(row, config, feats, persons=None, **options):
    parts, grads = reference_run(row, feats, **options)
    found, our_grads = our_run(config, feats, persons=persons)
    assert found == pytest.approx(expected_parts(parts, config), rel=1e-5)
    assert parity.gradient_difference(our_grads, grads)[0] < 2e-4
    return parts, our_grads


@pytest.mark.parametrize("row", parity.ROWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_rows(row, seed, pynative):
    parts, _ = check_row(row, parity.ROWS[row], correlated_feats(seed))
    assert 0.1 < parts["p_text"] < 0.95
    assert 0.05 < parts["w_sketch"] < 0.95


@pytest.mark.parametrize("row", COMPILED)
def test_rows_compiled(row, graph):
    check_row(row, parity.ROWS[row], correlated_feats())


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": 2.0, "alpha": 0.25}, {"interaction_weight": 1.0}])
def test_options(options, pynative):
    check_row("Full", replace(ObjectiveConfig(), **options), correlated_feats(2), **options)


def test_gamma_zero_is_the_plain_sum(pynative):
    feats = correlated_feats(3)
    plain, _ = our_run(parity.ROWS["Ls_plus_Lc"], feats)
    undone, _ = our_run(ObjectiveConfig(gamma=0.0), feats)
    assert undone == pytest.approx(plain, rel=1e-6)
    check_row("Ls_plus_Lc", ObjectiveConfig(gamma=0.0), feats)


def test_detached_weights(mode):
    feats, config = correlated_feats(4), ObjectiveConfig(detach_weights=True)
    _, detached = check_row("Full", config, feats, detach_weights=True)
    _, flowing = our_run(ObjectiveConfig(), feats)
    assert parity.gradient_difference(flowing, detached)[0] > 0.01


def test_tasks_only_touch_their_features(pynative):
    feats = correlated_feats()
    _, grads = our_run(parity.ROWS["S"], feats)
    assert not grads["text"].any() and not grads["fused"].any()
    assert grads["sketch"].any() and grads["image"].any()


def test_unused_features_may_be_missing(mode):
    image, sketch, text, fused = parity.to_ms(correlated_feats())
    scale = Tensor(SCALE, ms.float32)
    given = {"T": (None, text, None), "S": (sketch, None, None), "F": (None, None, fused)}
    for row, (s, t, f) in given.items():
        loss, _ = Objective(parity.ROWS[row])(image, s, t, f, scale)
        full, _ = Objective(parity.ROWS[row])(image, sketch, text, fused, scale)
        assert loss.asnumpy() == full.asnumpy()


def test_part_names():
    assert Objective(ObjectiveConfig()).part_names == (
        "loss_text", "loss_sketch", "loss_fusion", "confidence_text", "confidence_sketch", "weight_text",
        "weight_sketch", "interaction", "divergence", "temperature",
    )  # fmt: skip
    assert Objective(parity.ROWS["F"]).part_names == ("loss_fusion", "temperature")
    assert "interaction" not in Objective(parity.ROWS["Dyn"]).part_names


def test_order_of_the_batch_does_not_matter(pynative):
    feats = correlated_feats(5)
    order = np.random.default_rng(0).permutation(len(feats[0]))
    parts, grads = our_run(ObjectiveConfig(), feats)
    permuted, permuted_grads = our_run(ObjectiveConfig(), [f[order] for f in feats])
    assert permuted == pytest.approx(parts, rel=2e-6)
    np.testing.assert_allclose(permuted_grads["sketch"], grads["sketch"][order], atol=1e-5)


def test_length_of_the_features_does_not_matter(pynative):
    feats = correlated_feats(6)
    parts, _ = our_run(ObjectiveConfig(), feats)
    scaled, _ = our_run(ObjectiveConfig(), [f * s for f, s in zip(feats, (100, 0.01, 1, 7), strict=True)])
    assert scaled == pytest.approx(parts, rel=1e-5)


# Several pairs of a person, beyond the paper.

PERSONS = np.array([3, 0, 3, 5, 0, 3, 1])


@pytest.mark.parametrize("positives", ["identity", "distribution"])
@pytest.mark.parametrize("row", ["F", "Ls", "Full"])
def test_all_pairs_of_a_person(row, positives, mode):
    config = replace(parity.ROWS[row], positives=positives)
    per_pair = reference.by_person(positives, torch.from_numpy(PERSONS))
    parts, _ = check_row(row, config, correlated_feats(7), PERSONS, per_pair=per_pair)
    assert parts["loss"] != pytest.approx(reference_run(row, correlated_feats(7))[0]["loss"], rel=1e-2)


def test_distinct_persons_are_pairs(pynative):
    feats = correlated_feats(8)
    parts, grads = our_run(ObjectiveConfig(), feats)
    found, found_grads = our_run(ObjectiveConfig(positives="identity"), feats, persons=np.arange(len(feats[0])))
    assert found == pytest.approx(parts, rel=2e-6)
    assert parity.gradient_difference(found_grads, grads)[0] < 1e-5


@pytest.mark.parametrize("positives", ["identity", "distribution"])
@pytest.mark.parametrize("kind", ["identical", "perfect", "hopeless"])
def test_limits_with_persons(kind, positives, pynative):
    feats, persons = extreme_feats(kind), np.array([0, 0, 1, 2])
    per_pair = reference.by_person(positives, torch.from_numpy(persons))
    parts, grads = reference_run("Ls", feats, scale=100, dtype=torch.float64, per_pair=per_pair)
    found, our_grads = our_run(replace(parity.ROWS["Ls"], positives=positives), feats, 100, persons)
    assert found["loss"] == pytest.approx(parts["loss"], rel=1e-5, abs=1e-6)
    for name in ("image", "sketch", "text", "fused"):
        np.testing.assert_allclose(our_grads[name], grads[name], rtol=2e-4, atol=2e-4)


# Limits, against the reference in float64.


def extreme_feats(kind):
    rng = np.random.default_rng(0)
    if kind == "identical":
        return [np.ones((4, 6), np.float32)] * 4
    if kind == "perfect":
        return [np.eye(4, 6, dtype=np.float32)] * 4
    if kind == "hopeless":
        image = np.eye(4, 6, dtype=np.float32)
        return [image, -image, -image, -image]
    return [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("kind", ["identical", "perfect", "hopeless", "random"])
def test_limits(kind, pynative):
    feats = extreme_feats(kind)
    parts, grads = reference_run("Full", feats, scale=100, dtype=torch.float64)
    found, our_grads = our_run(ObjectiveConfig(), feats, scale=100)
    assert all(np.isfinite(value) for value in found.values())
    assert all(np.isfinite(g).all() for g in our_grads.values())
    assert found["loss"] == pytest.approx(parts["loss"], rel=1e-5, abs=1e-6)
    for name in ("image", "sketch", "text", "fused"):
        np.testing.assert_allclose(our_grads[name], grads[name], rtol=2e-4, atol=2e-4)


def test_identical_features_cost_the_log_of_the_batch(pynative):
    parts, _ = our_run(parity.ROWS["Ls_plus_Lc"], extreme_feats("identical"))
    assert parts["loss_text"] == pytest.approx(math.log(4), rel=1e-6)
    assert parts["interaction"] == pytest.approx(math.log(4), rel=1e-6)
    assert parts["loss"] == pytest.approx(3.5 * math.log(4), rel=1e-6)
    assert parts["confidence_text"] == pytest.approx(0.25, rel=1e-5)
    assert parts["weight_text"] == pytest.approx(0.0625, rel=1e-5)


# The equations, one by one.


@pytest.fixture
def logits():
    image, _, text, _ = correlated_feats()
    scale = torch.tensor(SCALE)
    expected = reference.logits(torch.from_numpy(text), torch.from_numpy(image), scale)
    return similarity_logits(*parity.to_ms((text, image)), Tensor(SCALE, ms.float32)), expected


def test_equations_1_to_3(logits, mode):
    ours, theirs = logits
    target = torch.arange(len(theirs))
    np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=1e-5, atol=1e-5)
    forth = torch.nn.functional.cross_entropy(theirs, target, reduction="none").numpy()
    back = torch.nn.functional.cross_entropy(theirs.T, target, reduction="none").numpy()
    np.testing.assert_allclose(query_to_gallery_loss(ours).asnumpy(), forth, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gallery_to_query_loss(ours).asnumpy(), back, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(pair_loss(ours).asnumpy(), (forth + back) / 2, rtol=1e-5, atol=2e-6)


def test_equations_4_to_9(mode):
    values = np.array([[0, 0.01, 0.5, 2, 9, 300], [0, 3, 0.1, 2, 0.01, 300]], np.float32)
    own, other = (prediction_confidence(Tensor(v)) for v in values)
    weights = reference.task_weights(*(torch.from_numpy(v).double() for v in values))
    for pair, expected, loss in zip(((own, other), (other, own)), weights, values, strict=True):
        factor = modulation_factor(*pair)
        np.testing.assert_allclose(factor.asnumpy(), expected.numpy(), rtol=2e-5, atol=1e-9)
        weighted = reference.focal_factor(expected, 0.7, 3.5).numpy() * loss
        np.testing.assert_allclose(modulated_loss(Tensor(loss), factor, 0.7, 3.5).asnumpy(), weighted, rtol=2e-5)
    np.testing.assert_allclose(own.asnumpy(), np.exp(-values[0]), rtol=1e-5, atol=1e-9)


def test_equation_10(mode):
    image, sketch, text, _ = correlated_feats()
    scale = Tensor(SCALE, ms.float32)
    text_logits, sketch_logits = (similarity_logits(*parity.to_ms((q, image)), scale) for q in (text, sketch))
    feats = (torch.from_numpy(f) for f in (image, sketch, text))
    expected = reference.interaction_loss(*feats, torch.tensor(SCALE)).item()
    assert float(interaction_loss(text_logits, sketch_logits).asnumpy()) == pytest.approx(expected, rel=1e-5)
    assert float(interaction_loss(sketch_logits, text_logits).asnumpy()) != pytest.approx(expected, rel=1e-3)


def test_the_gradient_of_equation_10_is_that_of_the_divergence(pynative):
    image, sketch, text, _ = correlated_feats()
    scale = Tensor(SCALE, ms.float32)

    def loss(sketch):
        return interaction_loss(similarity_logits(text, image, scale), similarity_logits(sketch, image, scale))

    image, sketch, text = parity.to_ms((image, sketch, text))
    found = ms.grad(loss)(sketch).asnumpy()
    leaf = torch.from_numpy(sketch.asnumpy()).requires_grad_()
    torch_divergence(torch.from_numpy(image.asnumpy()), leaf, torch.from_numpy(text.asnumpy()), SCALE).backward()
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found, leaf.grad.numpy(), atol=1e-5 * np.abs(found).max())


def launches(cell, *inputs, count=12):
    """Return the distinct results of calling a cell again and again, as bytes."""
    return {tuple(t.asnumpy().tobytes() for t in cell(*inputs)) for _ in range(count)}


class _Ours(nn.Cell):
    def construct(self, logits, losses, factors):
        same = same_person(ops.cast(losses * 3, ms.int32))
        by_person = identity_loss(logits, same), distribution_loss(logits, same)
        return (log_softmax(logits), modulated_loss(losses, factors, 1.0, 3.5), *by_person)


@pytest.mark.parametrize("size", [4, 6, 17])
def test_a_result_does_not_depend_on_how_often_it_was_computed(graph, size):
    """MindSpore's CPU kernels try other cuts of their loops in launches 6 to 15; some then round differently."""
    rng = np.random.default_rng(size)
    logits, losses, factors = rng.normal(size=(size, size)), rng.random(size), rng.random(size)
    inputs = [Tensor(a.astype(np.float32)) for a in (logits, losses, factors)]
    assert len(launches(_Ours(), *inputs)) == 1
