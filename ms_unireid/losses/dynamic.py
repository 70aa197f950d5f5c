"""Task-aware dynamic training: Eq. 4-9."""

from mindspore import Tensor, ops

from ms_unireid.losses.contrastive import exp

# The authors' guard against 0 / 0 when both confidences vanish; the paper has none.
EPS = 1e-9


def prediction_confidence(losses: Tensor) -> Tensor:
    """Eq. 4-5: p(i) = exp(-L(i)), 0-1, from the per-pair losses of one task (M,)."""
    return exp(-losses)


def modulation_factor(own: Tensor, other: Tensor) -> Tensor:
    """Eq. 6-7: the other task's confidence times the harmonic mean of both, 0-1.

    Args:
        own: Confidences (M,) of the task that is weighted.
        other: Confidences (M,) of the other task.
    """
    return (other + EPS) * (2 * own * other / (own + other + EPS))


def modulated_loss(losses: Tensor, factor: Tensor, alpha: float, gamma: float) -> Tensor:
    """Eq. 8-9: alpha * (1 + w(i))^gamma * L(i), all (M,).

    Through log1p: MindSpore's CPU Pow with a fractional exponent has the same flaw as its Log, see `log_softmax`.
    """
    return alpha * exp(gamma * ops.log1p(factor)) * losses
