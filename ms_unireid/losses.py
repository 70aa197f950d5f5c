"""The equations of the paper in order, one pure function each, and the objective that composes them.

`present` (M,) is 0 for pairs that lack what a task asks with, else 1; None where none does. Such a pair is no query:
its row does not count, and no photo is compared with it. Its photo stays in the gallery of the other queries.
"""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_unireid.config import TASKS, ObjectiveConfig
from ms_unireid.modalities import canonical

E = math.e
# The authors' guard against 0 / 0 when both confidences vanish; the paper has none.
EPS = 1e-9
# IRRA's guard against the logarithm of 0, for a photo of another person.
SDM_EPS = 1e-8
# Hides a query from the photos: the exponential of its logit is 0.
HIDDEN = -1e4


def similarity_logits(query_feats: Tensor, gallery_feats: Tensor, scale: Tensor) -> Tensor:
    """Return scaled cosine similarities, rows queries and columns gallery: the exponents of Eq. 1-2.

    Features are (M, D), un-normalised; `scale` is exp(logit_scale) = 1 / tau, a scalar.
    """
    return scale * ops.MatMul(transpose_b=True)(_normalize(query_feats), _normalize(gallery_feats))


def query_to_gallery_loss(logits: Tensor) -> Tensor:
    """Eq. 1: -log of the probability that query i picks gallery item i; logits (M, M), result (M,)."""
    return -_diagonal(log_softmax(logits))


def gallery_to_query_loss(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Eq. 2: the same from the gallery's side; logits (M, M) with rows queries, result (M,)."""
    return query_to_gallery_loss(_from_gallery(logits, present))


def pair_loss(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """The per-pair term of Eq. 3, half of Eq. 1 plus half of Eq. 2; its mean is a task's loss. Result (M,)."""
    return 0.5 * (query_to_gallery_loss(logits) + gallery_to_query_loss(logits, present))


def same_person(persons: Tensor) -> Tensor:
    """Return 1 where two pairs of a batch show one person, else 0: (M, M) float32, from numbers of persons (M,)."""
    return ops.equal(persons.expand_dims(1), persons.expand_dims(0)).astype(ms.float32)


def identity_loss(logits: Tensor, same: Tensor, present: Tensor | None = None) -> Tensor:
    """`pair_loss` with every pair of the person as a positive; `same` is `same_person`'s, (M, M), the result (M,).

    A row's target is uniform over its positives, the sum outside the logarithm, as in L_out of Khosla et al.
    (Supervised Contrastive Learning, NeurIPS 2020), here from one modality to the other.
    """
    back = same if present is None else same * _shown(present)
    target, back = same / same.sum(-1, keepdims=True), back / back.sum(-1, keepdims=True)
    logs, back_logs = log_softmax(logits), log_softmax(_from_gallery(logits, present))
    return -0.5 * ((target * logs).sum(-1) + (back * back_logs).sum(-1))


def distribution_loss(logits: Tensor, same: Tensor, present: Tensor | None = None) -> Tensor:
    """Similarity distribution matching: KL(p_i || q_i + 1e-8), q_i uniform over the person's pairs; result (M,).

    SDM of IRRA (Jiang and Ye, CVPR 2023) adds up both directions; here each counts half, on the scale of Eq. 3.
    """
    back = same if present is None else same * _shown(present)
    return 0.5 * (_divergence(logits, same) + _divergence(_from_gallery(logits, present), back))


def _divergence(logits: Tensor, same: Tensor) -> Tensor:
    count = same.sum(-1, keepdims=True)
    # log(1 / count + SDM_EPS) by log1p, for the reason that `log_softmax` gives.
    positive = ops.log1p(SDM_EPS * count) - ops.log1p(count - 1)
    log_target, found = same * positive + (1 - same) * math.log(SDM_EPS), log_softmax(logits)
    return (exp(found) * (found - log_target)).sum(-1)


def prediction_confidence(losses: Tensor) -> Tensor:
    """Eq. 4-5: p(i) = exp(-L(i)), 0-1, from the per-pair losses of one task (M,)."""
    return exp(-losses)


def modulation_factor(own: Tensor, other: Tensor) -> Tensor:
    """Eq. 6-7: the other task's confidence times the harmonic mean of both, 0-1; `own` is the weighted task's, (M,)."""
    return (other + EPS) * (2 * own * other / (own + other + EPS))


def modulated_loss(losses: Tensor, factor: Tensor, alpha: float, gamma: float) -> Tensor:
    """Eq. 8-9: alpha * (1 + w(i))^gamma * L(i), all (M,).

    It takes log1p because MindSpore's CPU Pow with a fractional exponent has the flaw of its Log: see `log_softmax`.
    """
    return alpha * exp(gamma * ops.log1p(factor)) * losses


def interaction_loss(text_logits: Tensor, sketch_logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Eq. 10, L_c: align the sketch's similarity distribution Q_S with the text's, P_T; mean over queries.

    Eq. 10 is a cross-entropy, H(P_T, Q_S) = KL(P_T || Q_S) + H(P_T). Its target P_T is stopped (text teaches, as in the
    authors' code), so H(P_T) is a constant and the gradient of L_c is that of KL(P_T || Q_S). Only the query-to-image
    direction is aligned: logits are (M, M) from `similarity_logits`, rows captions or sketches, columns photos.
    """
    target = exp(log_softmax(ops.stop_gradient(text_logits)))
    return -mean((target * log_softmax(sketch_logits)).sum(-1), present)


def interaction_divergence(text_logits: Tensor, sketch_logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Return KL(P_T || Q_S) in nats: L_c without the entropy of P_T, and without gradient."""
    log_target, log_found = (log_softmax(ops.stop_gradient(logits)) for logits in (text_logits, sketch_logits))
    return mean((exp(log_target) * (log_target - log_found)).sum(-1), present)


def exp(x: Tensor) -> Tensor:
    """Return e^x to float32's precision, any shape.

    On a CPU MindSpore's Exp, Softmax and LogSoftmax are off by up to 8e-6, which shows in the loss and the gradient
    of a pair that is nearly solved; its Pow is exact.
    """
    return ops.pow(E, x)


def mean(x: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the mean of x (M,), 0 where no pair is present.

    On Ascend, sum and division have newer kernels than MindSpore's mean.
    """
    if present is None:
        return x.sum() / x.shape[0]
    return (x * present).sum() / ops.maximum(present.sum(), 1)


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the last axis; `exp` explains why MindSpore's is not used.

    It takes log1p of the sum, which is at least 1. MindSpore's CPU Log rounds by how its loop is split over threads,
    and timing in a process's first launches chooses the split: a resumed run would differ from an uninterrupted one.
    """
    shifted = logits - ops.stop_gradient(logits.max(-1, keepdims=True))
    return shifted - ops.log1p(exp(shifted).sum(-1, keepdims=True) - 1)


def _normalize(feats: Tensor) -> Tensor:
    return feats / ops.sqrt((feats * feats).sum(-1, keepdims=True))


def _from_gallery(logits: Tensor, present: Tensor | None) -> Tensor:
    """Return logits with rows photos and columns queries, those of queries that are not present hidden."""
    return logits.T if present is None else logits.T + HIDDEN * (1 - _shown(present))


def _shown(present: Tensor) -> Tensor:
    """Return 1 where a photo sees a query, (M, M): it sees those present, and its own, or its row would be empty."""
    return ops.maximum(present.expand_dims(0), ops.eye(present.shape[0], present.shape[0], ms.float32))


def _diagonal(square: Tensor) -> Tensor:
    return (square * ops.eye(square.shape[0], square.shape[0], square.dtype)).sum(-1)


class Objective(nn.Cell):
    """Sum of the tasks' losses (Eq. 3), with Eq. 8-9 on two of them if dynamic, plus weighted Eq. 10.

    `others` are the tasks that the paper does not have.
    """

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        self.tasks, self.modulated, self.aligned = (
            tuple(map(canonical, tasks)) for tasks in (config.tasks, config.modulated, config.aligned)
        )
        self.others = tuple(task for task in self.tasks if task not in TASKS)
        self.places = {task: place for place, task in enumerate(self.tasks, len(self.others))}
        self.needs_persons = config.positives != "pair"
        self.interacts = config.interaction_weight > 0
        self.both = set(self.modulated) <= set(self.tasks)
        names = [f"loss_{task}" for task in self.tasks]
        if self.both:
            names += [f"{what}_{task}" for what in ("confidence", "weight") for task in self.modulated]
        self.part_names = (*names, *(["interaction", "divergence"] if self.interacts else []), "temperature")

    def construct(
        self,
        image: Tensor,
        sketch: Tensor | None,
        text: Tensor | None,
        fused: Tensor | None,
        scale: Tensor,
        persons: Tensor | None = None,
        *others: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the loss of one batch from un-normalised features (M, D), None where no task needs them.

        `scale` is exp(logit_scale); `persons` (M,) numbers the pairs' persons, if `needs_persons`; `others` are the
        features of the tasks of that name, and then, if pairs lack what tasks ask with, `present` (M,) of each task of
        `tasks`. Where two tasks meet, in Eq. 4-10, only pairs count that have what both ask with.

        Returns the loss and its parts, all scalars, the parts in the order of `part_names`: each task's own loss before
        any weight, mean confidences (Eq. 4-5), mean weights w (Eq. 6-7), L_c (Eq. 10) with its divergence, and tau.
        """
        queries = {"text": text, "sketch": sketch, "fusion": fused}
        for i in range(len(self.others)):
            queries[self.others[i]] = others[i]
        logits = {task: similarity_logits(queries[task], image, scale) for task in self.tasks}
        same = same_person(persons) if self.needs_persons else None
        present = {task: None for task in self.tasks}
        if len(others) > len(self.others):
            present = {task: others[self.places[task]] for task in self.tasks}
        losses = {task: self._pair_losses(logits[task], same, present[task]) for task in self.tasks}
        parts = tuple(mean(losses[task], present[task]) for task in self.tasks)
        if self.both:
            losses, statistics = self._modulate(losses, present)
            parts = parts + statistics
        loss = mean(losses[self.tasks[0]], present[self.tasks[0]])
        for task in self.tasks[1:]:
            loss = loss + mean(losses[task], present[task])
        if self.interacts:
            teacher, student = logits[self.aligned[0]], logits[self.aligned[1]]
            both = self._both(present, self.aligned)
            interaction = interaction_loss(teacher, student, both)
            loss = loss + self.config.interaction_weight * interaction
            parts = (*parts, interaction, interaction_divergence(teacher, student, both))
        return loss, (*parts, 1 / scale)

    def _pair_losses(self, logits: Tensor, same: Tensor | None, present: Tensor | None) -> Tensor:
        if not self.needs_persons:
            return pair_loss(logits, present)
        if self.config.positives == "identity":
            return identity_loss(logits, same, present)
        return distribution_loss(logits, same, present)

    def _both(self, present: dict[str, Tensor | None], tasks: tuple[str, ...]) -> Tensor | None:
        """Return which pairs have what both tasks ask with."""
        one, other = present[tasks[0]], present[tasks[1]]
        return None if one is None else one * other

    def _modulate(
        self, losses: dict[str, Tensor], present: dict[str, Tensor | None]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        one, other = self.modulated
        both = self._both(present, self.modulated)
        p_one, p_other = prediction_confidence(losses[one]), prediction_confidence(losses[other])
        w_one, w_other = modulation_factor(p_one, p_other), modulation_factor(p_other, p_one)
        if both is not None:
            w_one, w_other = w_one * both, w_other * both
        statistics = (mean(p_one, present[one]), mean(p_other, present[other]), mean(w_one, both), mean(w_other, both))
        if not self.config.dynamic:
            return losses, statistics
        if self.config.detach_weights:
            w_one, w_other = ops.stop_gradient(w_one), ops.stop_gradient(w_other)
        alpha, gamma = self.config.alpha, self.config.gamma
        weighted = {
            one: modulated_loss(losses[one], w_one, alpha, gamma),
            other: modulated_loss(losses[other], w_other, alpha, gamma),
        }
        return {task: weighted[task] if task in self.modulated else losses[task] for task in self.tasks}, statistics
