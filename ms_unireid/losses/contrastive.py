"""Task-specific modality learning: Eq. 1-3."""

import math

from mindspore import Tensor, ops

E = math.e


def similarity_logits(query_feats: Tensor, gallery_feats: Tensor, scale: Tensor) -> Tensor:
    """Return scaled cosine similarities, rows queries and columns gallery: the exponents of Eq. 1-2.

    Args:
        query_feats: (M, D) un-normalised.
        gallery_feats: (M, D) un-normalised.
        scale: exp(logit_scale) = 1 / tau, a scalar.
    """
    return scale * ops.MatMul(transpose_b=True)(_normalize(query_feats), _normalize(gallery_feats))


def query_to_gallery_loss(logits: Tensor) -> Tensor:
    """Eq. 1: -log of the probability that query i picks gallery item i; logits (M, M), result (M,)."""
    return -_diagonal(log_softmax(logits))


def gallery_to_query_loss(logits: Tensor) -> Tensor:
    """Eq. 2: the same from the gallery's side; logits (M, M) with rows queries, result (M,)."""
    return query_to_gallery_loss(logits.T)


def pair_loss(logits: Tensor) -> Tensor:
    """The per-pair term of Eq. 3, half of Eq. 1 plus half of Eq. 2; its mean is a task's loss. Result (M,)."""
    return 0.5 * (query_to_gallery_loss(logits) + gallery_to_query_loss(logits))


def exp(x: Tensor) -> Tensor:
    """Return e^x to float32's precision, any shape.

    On a CPU MindSpore's Exp, Softmax and LogSoftmax are off by up to 8e-6, a visible share of the loss and of the
    gradient of a pair that is nearly solved; its Pow is exact.
    """
    return ops.pow(E, x)


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the last axis; see `exp` for why not MindSpore's.

    Through log1p: MindSpore's CPU Log rounds by where its loop is cut, and the cut is searched for by timing during
    a process's first launches, so that a resumed run would differ from a straight one. The sum is at least 1.
    """
    shifted = logits - ops.stop_gradient(logits.max(-1, keepdims=True))
    return shifted - ops.log1p(exp(shifted).sum(-1, keepdims=True) - 1)


def _normalize(feats: Tensor) -> Tensor:
    return feats / ops.sqrt((feats * feats).sum(-1, keepdims=True))


def _diagonal(square: Tensor) -> Tensor:
    return (square * ops.eye(square.shape[0], square.shape[0], square.dtype)).sum(-1)
