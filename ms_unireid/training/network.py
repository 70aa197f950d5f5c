"""The model followed by the objective, whole and in the two halves that a cached step runs apart."""

from mindspore import Parameter, Tensor, nn, ops

from ms_unireid.losses.objective import Objective
from ms_unireid.models.unireid import UNIReID


class Encoders(nn.Cell):
    """The towers that the objective's tasks need; the others are not run.

    Attributes:
        modalities: Which features `construct` returns, in order.
    """

    def __init__(self, model: UNIReID, tasks: tuple[str, ...]):
        super().__init__(auto_prefix=False)
        self.model = model
        self.uses_text = "text" in tasks or "fusion" in tasks
        self.uses_sketch = "sketch" in tasks or "fusion" in tasks
        self.modalities = (
            "image",
            *(["sketch"] if self.uses_sketch else []),
            *(["text"] if self.uses_text else []),
        )

    def construct(self, images: Tensor, sketches: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        """Encode pictures (B, 3, H, W) and token_ids (B, L) as un-normalised features (B, D), one for each modality."""
        if self.uses_sketch:
            # Both through the shared tower at once, photos first.
            feats = ops.split(self.model.encode_image(ops.concat((images, sketches), 0)), images.shape[0], 0)
        else:
            feats = (self.model.encode_image(images),)
        return (*feats, self.model.encode_text(token_ids)) if self.uses_text else feats


class FeatureObjective(nn.Cell):
    """The objective of a batch's features.

    Args:
        model: For its fusion and its logit scale.
        objective: The losses.
        modalities: What `feats` are.
        gather: Joins each process's features to those of all processes; None contrasts within the process.
    """

    def __init__(
        self, model: UNIReID, objective: Objective, modalities: tuple[str, ...], gather: nn.Cell | None = None
    ):
        super().__init__(auto_prefix=False)
        self.model, self.objective, self.gather = model, objective, gather
        self.gathers = gather is not None
        self.fuses = "fusion" in objective.tasks
        self.sketch_place = modalities.index("sketch") if "sketch" in modalities else None
        self.text_place = modalities.index("text") if "text" in modalities else None

    def construct(self, loss_scale: Tensor, *feats: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss times `loss_scale`, a scalar, and the loss itself followed by its parts."""
        if self.gathers:
            # One exchange for all modalities: several could meet another process's in another order.
            feats = ops.split(self.gather(ops.concat(feats, 1)), feats[0].shape[1], 1)
        sketch = None if self.sketch_place is None else feats[self.sketch_place]
        text = None if self.text_place is None else feats[self.text_place]
        fused = self.model.fuse(sketch, text) if self.fuses else None
        loss, parts = self.objective(feats[0], sketch, text, fused, ops.exp(self.model.logit_scale))
        return loss * loss_scale, (loss, *parts)


class NetworkWithObjective(nn.Cell):
    """From a batch to its loss."""

    def __init__(self, model: UNIReID, objective: Objective, gather: nn.Cell | None = None):
        super().__init__(auto_prefix=False)
        self.model = model
        self.encoders = Encoders(model, objective.tasks)
        self.feature_objective = FeatureObjective(model, objective, self.encoders.modalities, gather)

    def construct(
        self, images: Tensor, sketches: Tensor, token_ids: Tensor, loss_scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return as `FeatureObjective` for pictures (B, 3, H, W) and token_ids (B, L)."""
        return self.feature_objective(loss_scale, *self.encoders(images, sketches, token_ids))


def reached_parameters(network: NetworkWithObjective) -> list[Parameter]:
    """List the parameters that the objective trains.

    Without text or fusion the text tower gets no gradient; as in PyTorch it is then left as it is, decay included.
    """
    visual = "base_model.visual."
    uses_text = network.encoders.uses_text
    return [
        p for p in network.model.trainable_params() if uses_text or p.name.startswith(visual) or p.name == "logit_scale"
    ]
