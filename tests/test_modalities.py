"""Tasks as sums of named modalities: their names, the objective against PyTorch, and the queries of an evaluation.

Costs 25 seconds, most of it compilation.
"""

from dataclasses import replace

import mindspore as ms
import numpy as np
import parity
import pytest
import torch
from evaluation.splits import person_split, tri_split
from mindspore import Tensor
from test_losses import correlated_feats

from ms_unireid.config import Config, DataConfig, ObjectiveConfig, TrainConfig, load_config
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.protocols import evaluate_protocol
from ms_unireid.evaluation.queries import Part, make_queries, tasks_of
from ms_unireid.losses import Objective
from ms_unireid.modalities import modalities_of, symbol, task_of
from ms_unireid.models.unireid import build_model
from ms_unireid.training.gradient import NetworkWithObjective
from ms_unireid.training.train_step import TrainOneStepCell
from reference import losses as reference

BOTH = "data.modalities=[sketch, pencil]"
PICTURES = ("sketch", "pencil", "infrared")
MANY = ObjectiveConfig(
    tasks=("text", "pencil", "text+sketch", "pencil+infrared", "infrared+text"),
    modulated=("text", "pencil"),
    aligned=("pencil", "fusion"),
)


@pytest.mark.parametrize(
    ("written", "name", "parts", "shown"),
    [
        ("text", "text", ("text",), "T->R"),
        ("fusion", "fusion", ("text", "sketch"), "T+S->R"),
        ("sketch+text", "fusion", ("text", "sketch"), "T+S->R"),
        ("pencil+infrared", "pencil+infrared", ("pencil", "infrared"), "P+I->R"),
        ("sketch+infrared+text", "text+sketch+infrared", ("text", "sketch", "infrared"), "T+S+I->R"),
        ("pencil+sketch", "sketch+pencil", ("sketch", "pencil"), "S+P->R"),
        ("thermal+depth+pencil", "pencil+depth+thermal", ("pencil", "depth", "thermal"), "P+D+T->R"),
    ],
)
def test_names(written, name, parts, shown):
    found = task_of(modalities_of(written))
    assert (found, modalities_of(written), symbol(found)) == (name, parts, shown)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["objective.tasks=[text, pencil]", "objective.dynamic=false"],
            "tasks names 'pencil', which the data do not have",
        ),
        (["objective.tasks=[text, fusion, text+sketch]"], "at least one task, each once"),
        (["objective.tasks=[text, text+text]"], "names a modality of 'text\\+text' twice"),
        (["objective.tasks=[text, '+']"], "which the data do not have"),
        (
            ["data.modalities=[sketch, pencil]", "objective.modulated=[text, pencil]"],
            "dynamic weighs text against pencil",
        ),
        (["data.modalities=[sketch, pencil]", "objective.aligned=[text, pencil]"], "aligns pencil with text"),
        (["objective.modulated=[text, text]"], "objective.dynamic weighs text against text"),
        (["objective.aligned=[fusion, sketch+text]"], "aligns sketch\\+text with fusion"),
        (
            ["data.modalities=[sketch, pencil]", "objective.tasks=[text, sketch, sketch+pencil, pencil+sketch]"],
            "at least one task, each once",
        ),
        (["data.modalities=[sketch, photo]"], "data.modalities must be names of pictures"),
        (["data.modalities=[sketch, text]"], "data.modalities must be names of pictures"),
        (["data.modalities=[Sketch]"], "data.modalities must be names of pictures"),
        (["data.modalities=[sketch, sketch]"], "data.modalities must name each once"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, overrides)


def reference_loss(feats, config, scale):
    """Compute the loss with PyTorch, in the words of the paper: Eq. 3, 8-9 on the modulated pair, 10 on the aligned."""
    logits = {t: reference.logits(sum(feats[p] for p in modalities_of(t)), feats["image"], scale) for t in config.tasks}
    logits["fusion"] = logits["text+sketch"]
    target = torch.arange(len(feats["image"]))
    cross = torch.nn.functional.cross_entropy
    losses = {
        t: (cross(one, target, reduction="none") + cross(one.T, target, reduction="none")) / 2
        for t, one in logits.items()
    }
    total = 0
    for task in config.tasks:
        factor = 1
        if task in config.modulated:
            other = config.modulated[1 - config.modulated.index(task)]
            own_p, other_p = torch.exp(-losses[task]), torch.exp(-losses[other])
            factor = (1 + other_p * 2 * own_p * other_p / (own_p + other_p)) ** config.gamma
        total = total + (factor * losses[task]).mean()
    teacher, student = (logits[task] for task in config.aligned)
    return total + config.interaction_weight * cross(student, teacher.detach().softmax(1))


def test_the_objective_of_many_tasks_is_that_of_pytorch(pynative):
    rows = [*correlated_feats(3)[:3], *correlated_feats(4)[1:3]]
    names = ("image", "text", "sketch", "pencil", "infrared")
    leaves = {name: torch.from_numpy(row).requires_grad_() for name, row in zip(names, rows, strict=True)}
    scale = torch.tensor(14.0)
    loss = reference_loss(leaves, MANY, scale)
    loss.backward()
    objective = Objective(MANY)
    assert objective.others == ("pencil", "pencil+infrared", "text+infrared")

    def forward(image, text, sketch, pencil, infrared):
        others = (pencil, pencil + infrared, text + infrared)
        return objective(image, None, text, text + sketch, Tensor(14.0, ms.float32), None, *others)

    gradient = ms.value_and_grad(forward, (0, 1, 2, 3, 4), has_aux=True)
    (found, parts), grads = gradient(*(Tensor(row) for row in rows))
    assert float(found.asnumpy()) == pytest.approx(loss.item(), rel=1e-5)
    assert len(parts) == len(objective.part_names) and "weight_pencil" in objective.part_names
    expected = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    ours = {name: grad.asnumpy() for name, grad in zip(names, grads, strict=True)}
    assert parity.gradient_difference(ours, expected)[0] < 2e-4


def test_either_spelling_is_the_same_task():
    written = ObjectiveConfig(
        ("text", "pencil+sketch"), modulated=("text", "sketch+pencil"), aligned=("pencil+sketch", "text")
    )
    usual = ObjectiveConfig(
        ("text", "sketch+pencil"), modulated=("text", "sketch+pencil"), aligned=("sketch+pencil", "text")
    )
    text, image, drawn = (Tensor(row) for row in correlated_feats(3)[:3])
    values = [
        Objective(one)(image, None, text, None, Tensor(14.0, ms.float32), None, drawn) for one in (written, usual)
    ]
    assert Objective(written).part_names == Objective(usual).part_names
    assert float(values[0][0].asnumpy()) == float(values[1][0].asnumpy())
    feats = with_others(tri_split(1))
    assert tasks_of(feats, ["pencil+sketch", "sketch+pencil"]) == ("sketch+pencil",)
    made, again = (make_queries(task, feats) for task in ("pencil+sketch", "sketch+pencil"))
    np.testing.assert_array_equal(made.feats, again.feats)


@pytest.mark.parametrize(
    ("mode", "memory"),
    [
        ("graph", {}),
        ("pynative", {"cache_chunk": 2}),
        pytest.param("graph", {"cache_chunk": 2}, marks=pytest.mark.exhaustive),
        pytest.param("graph", {"accumulation_steps": 2}, marks=pytest.mark.exhaustive),
    ],
    indirect=["mode"],
    ids=str,
)
def test_a_step_takes_a_picture_of_each_modality(mode, memory):
    train = TrainConfig(learning_rate=1e-3, eps=1e-8, **memory)
    config = Config(model=parity.TINY, data=DataConfig(modalities=PICTURES), objective=MANY, train=train)
    photos, sketches, token_ids = parity.numpy_batch(parity.TINY, 1, 4)
    pictures = (sketches, *(parity.numpy_batch(parity.TINY, seed, 4)[1] for seed in (2, 3)))
    step = TrainOneStepCell(build_model(config.model), config)
    before = {p.name: p.asnumpy().copy() for p in step.network.model.get_parameters()}
    values = step(photos, pictures, token_ids).read()
    ms.set_context(mode=ms.PYNATIVE_MODE)
    plain = NetworkWithObjective(build_model(config.model), Objective(MANY), pictures=PICTURES)
    expected = plain(*map(Tensor, (photos, *pictures, token_ids)), Tensor(1.0, ms.float32))[0]
    if "accumulation_steps" not in memory:  # which contrasts the halves of the batch only
        assert values["loss"] == pytest.approx(float(expected.asnumpy()), rel=1e-5)
    assert parity.max_difference(before, {p.name: p.asnumpy() for p in step.network.model.get_parameters()}) > 0
    with pytest.raises(ConfigError, match="needs pictures of each, found 1 arrays"):
        step(photos, sketches, token_ids)


def with_others(feats, seed=5):
    """Add pencil drawings of two of three photos or persons, two of some, and infrared pictures of persons."""
    rng = np.random.default_rng(seed)
    if feats.caption_photos is not None:
        photos = np.flatnonzero(rng.random(len(feats.person_ids)) < 0.7).repeat(2)
        pencil = Part(rng.standard_normal((len(photos), 8)), feats.person_ids[photos], photos)
    else:
        persons = np.unique(feats.person_ids)[::2].repeat(2)
        pencil = Part(rng.standard_normal((len(persons), 8)), persons)
    owners = rng.permutation(np.unique(feats.person_ids))[:6].repeat(2)
    return replace(feats, others={"pencil": pencil, "infrared": Part(rng.standard_normal((12, 8)), owners)})


def literal(task, feats):
    """List (feature, person, photo) of every query of a task, with loops."""
    found = [(np.zeros(8), None, None)]
    for name in modalities_of(task):
        part, joined = feats.part(name), []
        for feature, person, photo in found:
            rows = range(len(part.feats))
            if photo is not None and part.photos is not None:
                rows = [row for row in rows if part.photos[row] == photo][:1]
            for row in rows:
                if person in (None, part.persons[row]):
                    own = None if part.photos is None else part.photos[row]
                    joined.append((feature + part.feats[row], part.persons[row], own if photo is None else photo))
        found = joined
    return found


@pytest.mark.parametrize("task", ["pencil", "infrared", "text+pencil", "sketch+pencil", "text+sketch+pencil"])
@pytest.mark.parametrize("split", [tri_split, person_split])
def test_queries_of_any_subset(task, split):
    feats = with_others(split(1))
    made, expected = make_queries(task, feats), literal(task, feats)
    assert len(made.feats) == len(expected) > 0
    np.testing.assert_allclose(made.feats, [feature for feature, *_ in expected], rtol=1e-6, atol=1e-9)
    assert made.person_ids.tolist() == [person for _, person, _ in expected]
    assert made.photos.tolist() == [-1 if photo is None else photo for *_, photo in expected]


def test_tasks_that_a_split_has_queries_for():
    feats = with_others(tri_split(1))
    assert tasks_of(tri_split(1)) == ("text", "sketch", "fusion")
    assert tasks_of(feats)[3:] == ("pencil", "infrared", "text+sketch+pencil+infrared")
    assert len(tasks_of(feats, ["all"])) == 15
    assert tasks_of(feats, ["sketch+text", "thermal", "pencil"]) == ("fusion", "pencil")
    only_text = replace(feats, sketch=feats.sketch[:0], sketch_photos=np.zeros(0, int), others={})
    assert tasks_of(only_text) == ("text",)
    assert [task for task, _ in evaluate_protocol("paper", only_text)] == ["text", "text"]


def test_the_papers_rows_do_not_change_when_modalities_are_added():
    before, after = (evaluate_protocol("all", feats) for feats in (tri_split(2), with_others(tri_split(2))))
    assert before.items() <= after.items() and len(after) > len(before)
