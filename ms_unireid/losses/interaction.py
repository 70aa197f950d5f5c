"""Cross-modality interaction: Eq. 10."""

from mindspore import Tensor, ops


def interaction_loss(text_logits: Tensor, sketch_logits: Tensor) -> Tensor:
    """Eq. 10: cross-entropy of the sketch's similarity distribution against the text's, averaged over queries.

    As the authors do, text teaches (no gradient into its side) and only the query-to-image direction is aligned.

    Args:
        text_logits: (M, M) from `similarity_logits`, rows captions, columns photos.
        sketch_logits: (M, M), rows sketches, columns photos.
    """
    target = ops.Softmax(-1)(ops.stop_gradient(text_logits))
    return -(target * ops.LogSoftmax(-1)(sketch_logits)).sum(-1).mean()
