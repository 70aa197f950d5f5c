"""One compiled training step: forward of what the objective needs, gradients, update."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import Config
from ms_unireid.losses.objective import Objective
from ms_unireid.models.unireid import UNIReID
from ms_unireid.training.optimizer import Adam


class NetworkWithObjective(nn.Cell):
    """The model followed by the objective; towers that no task needs are not run."""

    def __init__(self, model: UNIReID, objective: Objective):
        super().__init__(auto_prefix=False)
        self.model, self.objective = model, objective
        tasks = objective.tasks
        self.uses_text = "text" in tasks or "fusion" in tasks
        self.uses_sketch = "sketch" in tasks or "fusion" in tasks
        self.uses_fusion = "fusion" in tasks

    def construct(self, images: Tensor, sketches: Tensor, token_ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss and its parts of a batch: pictures (B, 3, H, W), token_ids (B, L)."""
        model, sketch, text, fused = self.model, None, None, None
        if self.uses_sketch:
            visual = model.encode_image(ops.concat((images, sketches), 0))
            image, sketch = ops.split(visual, images.shape[0], 0)
        else:
            image = model.encode_image(images)
        if self.uses_text:
            text = model.encode_text(token_ids)
        if self.uses_fusion:
            fused = model.fuse(sketch, text)
        return self.objective(image, sketch, text, fused, ops.exp(model.logit_scale))


def reached_parameters(network: NetworkWithObjective) -> list[Parameter]:
    """List the parameters that the objective trains.

    Without text or fusion the text tower gets no gradient; as in PyTorch it is then left as it is, decay included.
    """
    visual = "base_model.visual."
    params = network.model.trainable_params()
    return [p for p in params if network.uses_text or p.name.startswith(visual) or p.name == "logit_scale"]


class TrainStep(nn.Cell):
    """Forward, backward and update in one cell; a cell compiles to a faster graph than a jitted function.

    Attributes:
        part_names: Names of the loss parts in the order `construct` returns them.
    """

    def __init__(self, model: UNIReID, config: Config):
        super().__init__(auto_prefix=False)
        objective = Objective(config.objective)
        self.network = NetworkWithObjective(model, objective)
        self.part_names = objective.part_names
        self.params = ParameterTuple(reached_parameters(self.network))
        self.optimizer = Adam(self.params, config.train)
        self.value_and_grad = ms.value_and_grad(self.network, None, self.params, has_aux=True)

    def construct(
        self, images: Tensor, sketches: Tensor, token_ids: Tensor, learning_rate: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one step on a batch.

        Args:
            images: Photos (B, 3, H, W) float32.
            sketches: Their sketches (B, 3, H, W) float32.
            token_ids: Their captions (B, L) int32.
            learning_rate: Base rate of the epoch, a float32 scalar.

        Returns:
            The loss before the step and its parts, scalars.
        """
        (loss, parts), grads = self.value_and_grad(images, sketches, token_ids)
        done = self.optimizer(grads, learning_rate)
        return ops.depend(loss, done), parts
