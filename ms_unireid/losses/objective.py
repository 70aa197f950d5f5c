"""The objective: equations composed by switches into every row of Table 2."""

from mindspore import Tensor, nn, ops

from ms_unireid.config import ObjectiveConfig
from ms_unireid.losses.contrastive import pair_loss, similarity_logits
from ms_unireid.losses.dynamic import modulated_loss, modulation_factor, prediction_confidence
from ms_unireid.losses.interaction import interaction_loss


class Objective(nn.Cell):
    """Sum of the tasks' losses (Eq. 3), with Eq. 8-9 on text and sketch if dynamic, plus weighted Eq. 10.

    Attributes:
        part_names: Names of the parts that `construct` returns after the loss, in order.
    """

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        self.tasks = config.tasks
        self.interacts = config.interaction_weight > 0
        self.both = "text" in config.tasks and "sketch" in config.tasks
        names = [f"loss_{task}" for task in config.tasks]
        if self.both:
            names += ["confidence_text", "confidence_sketch", "weight_text", "weight_sketch"]
        self.part_names = (*names, *(["interaction"] if self.interacts else []), "temperature")

    def construct(
        self, image: Tensor, sketch: Tensor | None, text: Tensor | None, fused: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the loss of one batch.

        Args:
            image: Photo features (M, D), un-normalised as all others.
            sketch: Sketch features (M, D); None if no task needs them.
            text: Caption features (M, D); None if no task needs them.
            fused: Fused features (M, D); None without the fusion task.
            scale: exp(logit_scale), a scalar.

        Returns:
            The loss and its parts, all scalars, the parts in the order of `part_names`: each task's own loss
            before any weight, mean confidences (Eq. 4-5), mean weights w (Eq. 6-7), L_c (Eq. 10) and tau.
        """
        queries = {"text": text, "sketch": sketch, "fusion": fused}
        logits = {task: similarity_logits(queries[task], image, scale) for task in self.tasks}
        losses = {task: pair_loss(logits[task]) for task in self.tasks}
        parts = tuple(losses[task].mean() for task in self.tasks)
        if self.both:
            losses, statistics = self._modulate(losses)
            parts = parts + statistics
        loss = losses[self.tasks[0]].mean()
        for task in self.tasks[1:]:
            loss = loss + losses[task].mean()
        if self.interacts:
            interaction = interaction_loss(logits["text"], logits["sketch"])
            loss = loss + self.config.interaction_weight * interaction
            parts = (*parts, interaction)
        return loss, (*parts, 1 / scale)

    def _modulate(self, losses: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        p_text, p_sketch = prediction_confidence(losses["text"]), prediction_confidence(losses["sketch"])
        w_text, w_sketch = modulation_factor(p_text, p_sketch), modulation_factor(p_sketch, p_text)
        statistics = (p_text.mean(), p_sketch.mean(), w_text.mean(), w_sketch.mean())
        if not self.config.dynamic:
            return losses, statistics
        if self.config.detach_weights:
            w_text, w_sketch = ops.stop_gradient(w_text), ops.stop_gradient(w_sketch)
        alpha, gamma = self.config.alpha, self.config.gamma
        weighted = {
            "text": modulated_loss(losses["text"], w_text, alpha, gamma),
            "sketch": modulated_loss(losses["sketch"], w_sketch, alpha, gamma),
        }
        if "fusion" in self.tasks:
            weighted["fusion"] = losses["fusion"]
        return weighted, statistics
