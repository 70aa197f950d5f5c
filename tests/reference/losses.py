"""Training objectives of UNIReID in PyTorch (equations 1-10 of Chen et al., CVPR 2023, as the authors coded them).

All feats are un-normalised (B, D); `scale` is exp(logit_scale), a scalar. Row k of every matrix belongs to pair k.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

EPSILON = 1e-9
ALL_TASKS = ("text", "sketch", "fusion")

# Short name of a row of the paper's Table 2 -> keyword arguments of `objective`.
OBJECTIVES = {
    "T": {"tasks": ("text",)},
    "S": {"tasks": ("sketch",)},
    "F": {"tasks": ("fusion",)},
    "Ls": {"tasks": ALL_TASKS},
    "Dyn": {"tasks": ALL_TASKS, "dynamic": True, "alpha": 1.0, "gamma": 3.5},
    "Full": {"tasks": ALL_TASKS, "dynamic": True, "alpha": 1.0, "gamma": 3.5, "interaction_weight": 0.5},
    "Ls_plus_Lc": {"tasks": ALL_TASKS, "dynamic": True, "alpha": 1.0, "gamma": 0.0, "interaction_weight": 0.5},
    "TS_nofusion": {"tasks": ("text", "sketch")},
    "four": {"tasks": (*ALL_TASKS, "sketch_text")},
}


def logits(rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the scaled cosine similarities (B, B) of feats (B, D); the norm has no epsilon."""
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    columns = columns / torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    return scale * torch.einsum("id,jd->ij", rows, columns)


def per_sample_loss(image: torch.Tensor, query: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric contrastive loss (B,) of each pair: half its row's plus half its column's cross-entropy."""
    similarity = logits(image, query, scale)
    target = torch.arange(len(image))
    by_image = F.cross_entropy(similarity, target, reduction="none")
    by_query = F.cross_entropy(similarity.T, target, reduction="none")
    return 0.5 * (by_image + by_query)


def _person_targets(persons: torch.Tensor) -> torch.Tensor:
    """Return (B, B) float32: each row uniform over the columns of its person, 0 elsewhere; persons (B,)."""
    same = (persons[:, None] == persons[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def identity_loss(image: torch.Tensor, query: torch.Tensor, scale: torch.Tensor, persons: torch.Tensor) -> torch.Tensor:
    """Return (B,): L_out of Khosla et al. (2020) between two modalities, half from each side; persons (B,)."""
    similarity, target = logits(image, query, scale), _person_targets(persons)
    by_image = F.cross_entropy(similarity, target.to(similarity), reduction="none")
    by_query = F.cross_entropy(similarity.T, target.to(similarity), reduction="none")
    return 0.5 * (by_image + by_query)


def distribution_loss(
    image: torch.Tensor, query: torch.Tensor, scale: torch.Tensor, persons: torch.Tensor
) -> torch.Tensor:
    """Return (B,): similarity distribution matching of IRRA (Jiang and Ye, 2023), half from each side; persons (B,)."""
    similarity, target = logits(image, query, scale), _person_targets(persons)
    total = 0.0
    for rows in (similarity, similarity.T):
        found = rows.softmax(dim=1)
        total = total + (found * (rows.log_softmax(dim=1) - torch.log(target.to(rows) + 1e-8))).sum(dim=1)
    return 0.5 * total


def by_person(positives: str, persons: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return the `per_pair` of `objective` for positives "identity" or "distribution"."""
    return partial({"identity": identity_loss, "distribution": distribution_loss}[positives], persons=persons)


def itc(image: torch.Tensor, query: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the scalar symmetric contrastive loss of feats (B, D) (Eq. 1-3, one task)."""
    similarity = logits(image, query, scale)
    target = torch.arange(len(image))
    return 0.5 * (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target))


def task_weights(loss_text: torch.Tensor, loss_sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (w_text, w_sketch), each (B,) in [0, 1], from per-sample losses (B,) (Eq. 4-7 with the code's epsilon)."""
    p_text, p_sketch = torch.exp(-loss_text), torch.exp(-loss_sketch)
    harmonic = 2 * p_text * p_sketch / (p_text + p_sketch + EPSILON)
    return (p_sketch + EPSILON) * harmonic, (p_text + EPSILON) * harmonic


def focal_factor(weight: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Return alpha (1 + w)^gamma for weights of any shape (the factor of Eq. 8-9)."""
    return alpha * (1 + weight) ** gamma


def dynamic_terms(
    loss_text: torch.Tensor, loss_sketch: torch.Tensor, alpha: float, gamma: float, detach_weights: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scalar modulated means (text, sketch) of per-sample losses (B,); their sum is L_dyn (Eq. 8-9)."""
    w_text, w_sketch = task_weights(loss_text, loss_sketch)
    if detach_weights:
        w_text, w_sketch = w_text.detach(), w_sketch.detach()
    text = (focal_factor(w_text, alpha, gamma) * loss_text).mean()
    sketch = (focal_factor(w_sketch, alpha, gamma) * loss_sketch).mean()
    return text, sketch


def interaction_loss(
    image: torch.Tensor, sketch: torch.Tensor, text: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the scalar L_c (Eq. 10): cross-entropy of the sketch's distribution over images under the text's.

    Rows are queries and the softmax runs over images. The text side, its image feats and scale included, is detached.
    """
    teacher = logits(text, image, scale).detach().softmax(dim=1)
    student = logits(sketch, image, scale)
    return F.cross_entropy(student, teacher)


def _task_losses(image, sketch, text, fused, scale, per_pair) -> dict[str, torch.Tensor]:
    """Return the plain scalar loss of every task, whether the objective has it or not."""
    return {
        "text": per_pair(image, text, scale).mean(),
        "sketch": per_pair(image, sketch, scale).mean(),
        "fusion": per_pair(image, fused, scale).mean(),
        "sketch_text": per_pair(sketch, text, scale).mean(),
    }


def objective(
    image: torch.Tensor,
    sketch: torch.Tensor,
    text: torch.Tensor,
    fused: torch.Tensor,
    scale: torch.Tensor,
    tasks: tuple[str, ...] = ALL_TASKS,
    dynamic: bool = False,
    alpha: float = 1.0,
    gamma: float = 3.5,
    interaction_weight: float = 0.0,
    detach_weights: bool = False,
    per_pair: Callable[..., torch.Tensor] = per_sample_loss,
) -> dict[str, torch.Tensor]:
    """Compose a training objective.

    Args:
        image: Photo feats (B, D).
        sketch: Sketch feats (B, D).
        text: Caption feats (B, D).
        fused: Fused query feats (B, D).
        scale: Scalar exp(logit_scale).
        tasks: Tasks summed, out of text, sketch, fusion and sketch_text.
        dynamic: Replace the text and the sketch task by their modulated means; both must be in `tasks`.
        alpha: Factor of the modulation.
        gamma: Exponent of the modulation.
        interaction_weight: Weight of L_c in the total.
        detach_weights: Stop the gradient through the modulation weights.
        per_pair: The losses (B,) of one task's pairs; see `by_person`.

    Returns:
        Scalars: "loss"; per task in `tasks` the term that entered the total under its name, and its plain form under
        "plain_<task>"; batch means "p_text", "p_sketch", "w_text", "w_sketch" (without gradient); and the unweighted
        "interaction". The means and the interaction are there whatever the options.

    Raises:
        ValueError: `dynamic` without both the text and the sketch task.
    """
    if dynamic and not {"text", "sketch"} <= set(tasks):
        raise ValueError("dynamic needs the tasks text and sketch")
    plain = _task_losses(image, sketch, text, fused, scale, per_pair)
    loss_text, loss_sketch = per_pair(image, text, scale), per_pair(image, sketch, scale)
    terms = {task: plain[task] for task in tasks}
    if dynamic:
        terms["text"], terms["sketch"] = dynamic_terms(loss_text, loss_sketch, alpha, gamma, detach_weights)
    interaction = interaction_loss(image, sketch, text, scale)
    total = sum(terms.values())
    if interaction_weight:
        total = total + interaction_weight * interaction
    w_text, w_sketch = task_weights(loss_text.detach(), loss_sketch.detach())
    return {
        "loss": total,
        **terms,
        **{f"plain_{task}": plain[task] for task in tasks},
        "p_text": torch.exp(-loss_text.detach()).mean(),
        "p_sketch": torch.exp(-loss_sketch.detach()).mean(),
        "w_text": w_text.mean(),
        "w_sketch": w_sketch.mean(),
        "interaction": interaction,
    }
