"""Sanity of the reference itself against facts that do not come from its own code."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from reference import losses, metrics, model, optimizer, transforms
from reference.tokenizer import Tokenizer

TABLE = Path(__file__).parents[2] / "ms_unireid" / "data" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return model.UNIReID(**model.VIT_B_16)


@pytest.fixture(scope="module")
def tokenizer():
    if not TABLE.exists():
        pytest.skip("vocabulary table not there")
    return Tokenizer(TABLE)


@pytest.fixture
def feats():
    torch.manual_seed(0)
    image, sketch, text = torch.randn(3, 6, 16, dtype=torch.float64).requires_grad_()
    return image, sketch, text, text + sketch, torch.tensor(1 / 0.07, dtype=torch.float64)


def test_full_size_state_dict(full_size):
    shapes = {name: tuple(value.shape) for name, value in full_size.state_dict().items()}
    assert len(shapes) == 302
    assert sum(math.prod(shape) for shape in shapes.values()) == 149_617_665
    expected = {
        "logit_scale": (),
        "base_model.positional_embedding": (77, 512),
        "base_model.text_projection": (512, 512),
        "base_model.token_embedding.weight": (49408, 512),
        "base_model.ln_final.weight": (512,),
        "base_model.visual.class_embedding": (768,),
        "base_model.visual.positional_embedding": (193, 768),
        "base_model.visual.proj": (768, 512),
        "base_model.visual.conv1.weight": (768, 3, 16, 16),
        "base_model.visual.ln_pre.bias": (768,),
        "base_model.visual.ln_post.weight": (768,),
        "base_model.visual.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
        "base_model.visual.transformer.resblocks.0.mlp.c_fc.weight": (3072, 768),
        "base_model.transformer.resblocks.11.attn.in_proj_bias": (1536,),
        "base_model.transformer.resblocks.3.attn.out_proj.weight": (512, 512),
        "base_model.transformer.resblocks.0.mlp.c_proj.weight": (512, 2048),
        "base_model.transformer.resblocks.0.ln_2.bias": (512,),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_overlapping_patches_lengthen_the_position_table():
    assert model.random_model(0, stride=4).base_model.visual.positional_embedding.shape == (1 + 7 * 3, 48)


def test_random_feats_are_well_scaled_and_distinct():
    net = model.random_model(1)
    *all_feats, scale = net(*model.random_batch(2, 5))
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    for feats in all_feats:
        assert feats.shape == (5, 40)
        assert 0.2 < feats.std().item() < 5
        normalized = F.normalize(feats)
        assert (normalized @ normalized.T - 2 * torch.eye(5)).max() < 0.97
    assert torch.equal(all_feats[3], all_feats[1] + all_feats[2])


def test_every_parameter_matters():
    net = model.random_model(1).double()
    images, sketches, token_ids = model.random_batch(2, 5)
    outputs = net(images.double(), sketches.double(), token_ids)
    losses.objective(*outputs, **losses.OBJECTIVES["Full"])["loss"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 1e-12, name
        assert parameter.ndim == 0 or parameter.std() > 0.02, name


def test_text_ignores_what_follows_the_end_token():
    net = model.random_model(3)
    token_ids = torch.tensor([[98, 5, 6, 99, 0, 0, 0, 0, 0, 0, 0, 0]])
    noisy = token_ids.clone()
    noisy[0, 4:] = torch.arange(10, 18)
    torch.testing.assert_close(net.encode_text(token_ids), net.encode_text(noisy))
    noisy[0, 1] = 7
    assert (net.encode_text(token_ids) - net.encode_text(noisy)).abs().max() > 1e-2


def test_resize_position_table_keeps_the_class_row_and_linear_ramps():
    ramp = torch.arange(14.0).reshape(14, 1, 1).expand(14, 14, 1).reshape(196, 1)
    resized = model.resize_position_table(torch.cat([torch.tensor([[-5.0]]), ramp]), (24, 8))
    assert resized.shape == (193, 1)
    assert resized[0].item() == -5
    rows = resized[1:].reshape(24, 8)
    centres = ((torch.arange(24) + 0.5) * 14 / 24 - 0.5).clamp(0, 13)
    torch.testing.assert_close(rows, centres[:, None].expand(24, 8))


def test_uniform_feats_cost_the_log_of_the_batch():
    same = torch.ones(7, 4)
    assert losses.itc(same, 3 * same, torch.tensor(14.0)).item() == pytest.approx(math.log(7), rel=1e-6)


def test_itc_is_the_mean_of_the_per_sample_losses(feats):
    image, _, text, _, scale = feats
    torch.testing.assert_close(losses.itc(image, text, scale), losses.per_sample_loss(image, text, scale).mean())


def test_focal_factor_limits():
    hopeless, perfect = torch.tensor([1000.0, 0.0], dtype=torch.float64)
    for loss, factor in ((hopeless, 1.0), (perfect, 2**3.5)):
        for weight in losses.task_weights(loss, loss):
            assert losses.focal_factor(weight, 1.0, 3.5).item() == pytest.approx(factor, abs=1e-7)


def test_task_weights_by_hand():
    loss_text, loss_sketch = -torch.log(torch.tensor([0.5, 0.2], dtype=torch.float64))
    w_text, w_sketch = losses.task_weights(loss_text, loss_sketch)
    assert w_text.item() == pytest.approx(0.2 * 2 * 0.5 * 0.2 / 0.7, rel=1e-7)
    assert w_sketch.item() == pytest.approx(0.5 * 2 * 0.5 * 0.2 / 0.7, rel=1e-7)


def test_interaction_is_kl_plus_entropy_with_the_gradient_of_kl(feats):
    image, sketch, text, _, scale = feats
    leaves = [x.detach().clone().requires_grad_() for x in (image, sketch, text)]
    loss = losses.interaction_loss(*leaves, scale)
    teacher = losses.logits(leaves[2], leaves[0], scale).softmax(1).detach()
    kl = F.kl_div(losses.logits(leaves[1], leaves[0], scale).log_softmax(1), teacher, reduction="batchmean")
    entropy = -(teacher * teacher.log()).sum(1).mean()
    torch.testing.assert_close(loss, kl + entropy)
    of_loss, of_kl = torch.autograd.grad(loss, leaves[:2], retain_graph=True), torch.autograd.grad(kl, leaves[:2])
    torch.testing.assert_close(of_loss, of_kl)
    assert torch.autograd.grad(loss, leaves[2], allow_unused=True) == (None,)


def test_objectives_compose(feats):
    parts = {name: losses.objective(*feats, **options) for name, options in losses.OBJECTIVES.items()}
    loss = {name: part["loss"] for name, part in parts.items()}
    torch.testing.assert_close(loss["Ls"], loss["T"] + loss["S"] + loss["F"])
    torch.testing.assert_close(loss["TS_nofusion"], loss["T"] + loss["S"])
    torch.testing.assert_close(loss["four"], loss["Ls"] + losses.itc(feats[1], feats[2], feats[4]))
    torch.testing.assert_close(loss["Ls_plus_Lc"], loss["Ls"] + 0.5 * parts["Ls"]["interaction"])
    torch.testing.assert_close(loss["Full"], loss["Dyn"] + 0.5 * parts["Dyn"]["interaction"])
    assert loss["Dyn"] > loss["Ls"]
    with pytest.raises(ValueError, match="dynamic"):
        losses.objective(*feats, tasks=("text",), dynamic=True)


def test_detached_weights_change_the_gradient_only(feats):
    _, _, text, _, _ = feats
    values, gradients = [], []
    for detach in (False, True):
        loss = losses.objective(*feats, **losses.OBJECTIVES["Dyn"], detach_weights=detach)["loss"]
        values.append(loss)
        gradients.append(torch.autograd.grad(loss, text, retain_graph=True)[0])
    assert values[0] == values[1]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6


def test_learning_rates_are_the_published_ones():
    printed = [f"{rate:.6e}" for rate in optimizer.epoch_learning_rates()]
    assert printed == [f"{rate:.6e}" for rate in optimizer.PUBLISHED_LEARNING_RATES]
    assert len(printed) == 60


def test_adam_groups(full_size):
    groups = {group["name"]: group for group in optimizer.make_adam(full_size, 1e-5).param_groups}
    biases = [group for name, group in groups.items() if "bias" in name]
    assert len(groups) == 302
    assert len(biases) == 147
    assert sum(group["params"][0].numel() for group in biases) == 171_008
    assert {(group["lr"], group["weight_decay"]) for group in biases} == {(2e-5, 0.0)}
    assert {(g["lr"], g["weight_decay"]) for name, g in groups.items() if "bias" not in name} == {(1e-5, 4e-5)}
    assert {(group["eps"], group["betas"]) for group in groups.values()} == {(1e-3, (0.9, 0.999))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_attn.in_proj_weight", (5.0, 0.1)),
        ("cross_attn.in_proj_bias", (2.0, 0.0)),
        ("classifier.weight", (5.0, 0.1)),
        ("classifier.bias", (5.0, 0.0)),
        ("logit_scale", (1.0, 0.1)),
    ],
)
def test_later_group_rules_win(name, expected):
    assert optimizer.parameter_group(name, 1.0, 2.0, 0.1, 0.0, 5.0) == expected


def test_adam_steps_by_hand():
    net = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(net.weight, 0.5)
    adam = optimizer.make_adam(net, lr=0.1, weight_decay=0.2)
    value, m, v = 0.5, 0.0, 0.0
    for t, gradient in enumerate((1e-3, -4e-4, 2e-2), start=1):
        net.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        adam.step()
        g = gradient + 0.2 * value
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-3)
        assert net.weight.item() == pytest.approx(value, rel=1e-12)


def test_target_rate_is_common_to_all_groups():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    adam = torch.optim.Adam([{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 2.0}])
    schedule = optimizer.make_schedule(adam, epochs=4, warmup_epochs=2, warmup_factor=0.1, target_lr=0.5)
    for expected in ([0.1, 0.2], [0.55, 1.1], [1.0, 2.0], [0.75, 1.25]):
        assert schedule.get_last_lr() == pytest.approx(expected)
        adam.step()
        schedule.step()


def test_metrics_by_hand():
    similarity = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    result = metrics.evaluate(similarity, [2, 1, 9], [1, 2, 1, 2])
    # Query 0 hits at ranks 2 and 4, query 1 (all ties, gallery order) at 1 and 3, query 2 never.
    np.testing.assert_allclose(result["AP"], [50.0, 100 * (1 + 2 / 3) / 2, np.nan])
    np.testing.assert_allclose(result["INP"], [50.0, 200 / 3, np.nan])
    assert result["first_rank"].tolist() == [2, 1, 0]
    assert (result["num_queries"], result["num_skipped"]) == (2, 1)
    assert (result["R1"], result["R5"], result["R10"]) == (50.0, 100.0, 100.0)
    assert result["mAP"] == pytest.approx((50 + 250 / 3) / 2)
    assert result["mINP"] == pytest.approx((50 + 200 / 3) / 2)
    assert metrics.chance_r1([2, 1, 9], [1, 2, 1, 2]) == 50.0


def test_metrics_without_the_source_photo():
    query_ids, gallery_ids = [1, 2], [1, 1, 2]
    keep = metrics.keep_without_source(query_ids, [0, 2], gallery_ids, [0, 1, 2])
    assert keep.tolist() == [[False, True, True], [True, True, False]]
    result = metrics.evaluate([[0.9, 0.1, 0.5], [0.0, 0.0, 1.0]], query_ids, gallery_ids, keep)
    assert (result["R1"], result["mAP"], result["num_queries"], result["num_skipped"]) == (0.0, 50.0, 1, 1)
    assert metrics.chance_r1(query_ids, gallery_ids, keep) == 50.0
    with pytest.raises(ValueError, match="no query"):
        metrics.evaluate([[0.0]], [1], [2])


def test_vocabulary(tokenizer):
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest().startswith("924691ac")
    assert len(tokenizer.ids) == 49408
    assert tokenizer.encode("jekyll") == [49405]
    assert tokenizer.encode("!") == [256]
    assert tokenizer.encode("<|StartOfText|> <|endoftext|>") == [49406, 49407]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello world!", [49406, 3306, 1002, 256, 49407]),
        ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("  A &amp;amp; DOG\n", [49406, 320, 261, 1929, 49407]),
        ("", [49406, 49407]),
    ],
)
def test_known_ids(tokenizer, text, ids):
    (row,) = tokenizer(text)
    assert row.tolist() == ids + [0] * (77 - len(ids))


def test_long_captions_are_cut_and_end_with_the_end_token(tokenizer):
    rows = tokenizer(["cat " * 75, "cat " * 76, "a man in red"])
    assert rows.shape == (3, 77)
    assert rows[0].tolist() == rows[1].tolist() == [49406] + [2368] * 75 + [49407]
    assert np.flatnonzero(rows[2] == 49407).tolist() == [5]


def test_evaluation_transform():
    white = transforms.evaluation_transform(Image.new("RGBA", (5, 9), (255, 0, 128, 0)), (6, 4))
    assert white.shape == (3, 6, 4)
    assert white.dtype == np.float32
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (128 / 255 - 0.40821073) / 0.27577711]
    np.testing.assert_allclose(white[:, 2, 1], expected, rtol=1e-6)
