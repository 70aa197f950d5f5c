"""Cross-modality interaction: Eq. 10."""

from mindspore import Tensor, ops

from ms_unireid.losses.contrastive import exp, log_softmax


def interaction_loss(text_logits: Tensor, sketch_logits: Tensor) -> Tensor:
    """Eq. 10: cross-entropy of the sketch's similarity distribution against the text's, averaged over queries.

    As the authors do, text teaches (no gradient into its side) and only the query-to-image direction is aligned.

    Args:
        text_logits: (M, M) from `similarity_logits`, rows captions, columns photos.
        sketch_logits: (M, M), rows sketches, columns photos.
    """
    target = exp(log_softmax(ops.stop_gradient(text_logits)))
    return -(target * log_softmax(sketch_logits)).sum(-1).mean()
