"""The network with its objective, and three ways to compute a batch's gradient: whole, by parts, or by chunks."""

from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.adam import adding
from ms_unireid.losses import Objective
from ms_unireid.modalities import TEXT, modalities_of
from ms_unireid.models.unireid import UNIReID
from ms_unireid.training.loss_scale import LossScale


class TaskEncoders(nn.Cell):
    """The towers that the objective's tasks need, no others; `modalities` names the features that they return.

    `pictures` are the modalities of the pictures in a batch, beside its photos.
    """

    def __init__(self, model: UNIReID, tasks: tuple[str, ...], pictures: tuple[str, ...] = ("sketch",)):
        super().__init__(auto_prefix=False)
        self.model = model
        used = {part for task in tasks for part in modalities_of(task)}
        self.uses_text = TEXT in used
        self.places = tuple(1 + place for place, name in enumerate(pictures) if name in used)
        self.modalities = (
            "image",
            *(pictures[place - 1] for place in self.places),
            *([TEXT] if self.uses_text else []),
        )
        self.inputs = 2 + len(pictures)

    def construct(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Encode pictures (B, 3, H, W) and token_ids (B, L) as un-normalised features (B, D), one for each modality."""
        if self.places:
            # All go through the shared tower at once, photos first.
            pictures = (batch[0],)
            for place in self.places:
                pictures = (*pictures, batch[place])
            feats = self.model.pick.parts(self.model.encode_image(ops.concat(pictures, 0)), len(pictures))
        else:
            feats = (self.model.encode_image(batch[0]),)
        return (*feats, self.model.encode_text(batch[-1])) if self.uses_text else feats


class FeatureObjective(nn.Cell):
    """Computes the loss of a batch from the features of `modalities`, its persons if needed, and what is present.

    `gather` joins each process's features to those of all processes; None contrasts within the process.
    """

    def __init__(
        self, model: UNIReID, objective: Objective, modalities: tuple[str, ...], gather: nn.Cell | None = None
    ):
        super().__init__(auto_prefix=False)
        self.model, self.objective, self.gather = model, objective, gather
        self.gathers = gather is not None
        self.count, self.needs_persons = len(modalities), objective.needs_persons
        # The features of each task, pictures first: text stands behind them.
        self.places = {
            task: tuple(sorted(modalities.index(part) for part in modalities_of(task))) for task in objective.tasks
        }
        self.others = objective.others

    def construct(self, loss_scale: Tensor, *feats: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss times `loss_scale`, a scalar, and the loss itself followed by its parts.

        The features are (B, D) float32. Persons, if needed, come behind them, (B,) int32, and then, if pairs lack what
        tasks ask with, 1 or 0 for each pair, (B,) float32 for each task.
        """
        extras = feats[self.count :]
        if self.gathers:
            # One exchange for all modalities: several could run in another order in another process.
            blocks = feats[: self.count]
            for one in extras:
                # As wide as a modality, for the one exchange; float32 is exact for 2^24 persons.
                blocks = (*blocks, ops.zeros_like(feats[0]) + one.astype(ms.float32).expand_dims(1))
            feats, extras = self.model.pick.parts(self.gather(ops.concat(blocks, 1)), len(blocks), 1), ()
            for block in feats[self.count :]:
                extras = (*extras, ops.stop_gradient(block.max(axis=-1)))
        sketch, text, fused = self._query("sketch", feats), self._query("text", feats), self._query("fusion", feats)
        others = ()
        for task in self.others:
            others = (*others, self._query(task, feats))
        persons = None
        if self.needs_persons:
            persons, extras = extras[0], extras[1:]
        scale = ops.exp(self.model.logit_scale)
        loss, parts = self.objective(feats[0], sketch, text, fused, scale, persons, *(others + extras))
        return loss * loss_scale, (loss, *parts)

    def _query(self, task: str, feats: tuple[Tensor, ...]) -> Tensor | None:
        """Return the features of a task's queries (B, D); None if it is not trained."""
        if task not in self.places:
            return None
        parts = ()
        for place in self.places[task]:
            parts = (*parts, feats[place])
        return self.model.fuse(*parts)


class NetworkWithObjective(nn.Cell):
    """Computes the loss of a batch from its pictures and captions, and what else `FeatureObjective` takes."""

    def __init__(
        self,
        model: UNIReID,
        objective: Objective,
        gather: nn.Cell | None = None,
        pictures: tuple[str, ...] = ("sketch",),
    ):
        super().__init__(auto_prefix=False)
        self.model = model
        self.encoders = TaskEncoders(model, objective.tasks, pictures)
        self.inputs = self.encoders.inputs
        self.feature_objective = FeatureObjective(model, objective, self.encoders.modalities, gather)

    def construct(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what `FeatureObjective` returns.

        The inputs are photos and other pictures (B, 3, H, W), token_ids (B, L), the loss scale, and persons and what is
        present as there.
        """
        feats = self.encoders(*inputs[: self.inputs])
        return self.feature_objective(inputs[self.inputs], *feats, *inputs[self.inputs + 1 :])

    def trained_parameters(self) -> list[Parameter]:
        """List the parameters that the objective trains.

        Without text or fusion the text tower has no gradient; as in PyTorch its weights then do not even decay.
        """
        kept = [] if self.encoders.uses_text else ["base_model.visual.", "logit_scale"]
        return [p for p in self.model.trainable_params() if not kept or p.name.startswith(tuple(kept))]


class BatchGradient(nn.Cell):
    """The gradient of a batch in one graph."""

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, scale: LossScale):
        super().__init__(auto_prefix=False)
        self.network, self.scale = network, scale
        self.value_and_grad = ms.value_and_grad(network, None, params, has_aux=True)

    def construct(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return (loss, *parts) and the gradients of loss * loss scale."""
        count = self.network.inputs
        (_, values), grads = self.value_and_grad(*batch[:count], self.scale.value, *batch[count:])
        return values, grads


def _clear(sums: ParameterTuple) -> None:
    for total in sums:
        total.set_data(ops.zeros_like(total))


class AddToSums(nn.Cell):
    """Adds gradients to sums, in their order."""

    def __init__(self, sums: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.sums, self.add_to, self.map = ParameterTuple(sums), adding(), ops.Map()

    def construct(self, *grads: Tensor) -> tuple[Tensor, ...]:
        """Return the sums."""
        return self.map(self.add_to, self.sums, grads)


class _AddedGradient(nn.Cell):
    """Adds gradients to sums within the graph that computes them; returns what else it computes."""

    def __init__(self, gradient: nn.Cell, sums: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.gradient, self.add = gradient, AddToSums(sums)

    def construct(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values, grads = self.gradient(*inputs)
        return ops.depend(values, self.add(*grads))


class _PartGradient(BatchGradient):
    """The gradient of a part of a batch, times the part's share of the batch, the last input."""

    def construct(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        share, count = inputs[-1], self.network.inputs
        (_, values), grads = self.value_and_grad(*inputs[:count], self.scale.value * share, *inputs[count:-1])
        return ops.Map()(ops.partial(ops.mul, share), values), grads


class SplitGradient:
    """Gradient accumulation: the mean gradient of a batch's parts; a pair is contrasted with its part only."""

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, scale: LossScale, parts: int):
        self.parts = parts
        self.sums = params.clone(prefix="summed", init="zeros")
        self.add_gradient = _AddedGradient(_PartGradient(network, params, scale), self.sums)

    def __call__(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], tuple[()]]:
        """Return (loss, *parts), weighted by pairs, and leave the gradients of loss * loss scale in `sums`."""
        _clear(self.sums)
        count = len(batch[0])
        edges = [len(block) for block in np.array_split(np.arange(count), min(self.parts, count // 2))]
        totals, start = None, 0
        for size in edges:
            part = [t[start : start + size] for t in batch]
            values = self.add_gradient(*part, Tensor(size / count, ms.float32))
            totals = values if totals is None else [a + b for a, b in zip(totals, values, strict=True)]
            start += size
        return tuple(totals), ()


class _FeatureGradient(nn.Cell):
    """The gradient of a whole batch's loss with respect to its features and the logit scale."""

    def __init__(self, network: NetworkWithObjective, logit_scale: list[Parameter], scale: LossScale):
        super().__init__(auto_prefix=False)
        self.scale = scale
        objective = network.feature_objective
        places = tuple(range(1, 1 + len(network.encoders.modalities)))
        self.learns_scale = bool(logit_scale)
        weights = ParameterTuple(logit_scale) if logit_scale else None
        self.value_and_grad = ms.value_and_grad(objective, places, weights, has_aux=True)

    def construct(self, *feats: Tensor) -> tuple:
        (_, values), grads = self.value_and_grad(self.scale.value, *feats)
        if self.learns_scale:
            return values, grads[0], grads[1]
        return values, grads, ()


class _Projected(nn.Cell):
    """Features times their gradients, summed: the derivative of this scalar is the chunk's share of the gradient."""

    def __init__(self, encoders: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoders, self.inputs = encoders, encoders.inputs

    def construct(self, *inputs: Tensor) -> Tensor:
        feats, feature_grads = self.encoders(*inputs[: self.inputs]), inputs[self.inputs :]
        total = (feats[0] * feature_grads[0]).sum()
        for i in range(1, len(feature_grads)):
            total = total + (feats[i] * feature_grads[i]).sum()
        return total


class ProjectedGradient(nn.Cell):
    """The gradient that features' gradients give the parameters of the cell that encodes them.

    With `places`, of the encoder's inputs, it is a tuple: theirs, then that of the parameters.
    """

    def __init__(self, encoders: nn.Cell, params: ParameterTuple, places: int | tuple[int, ...] | None = None):
        super().__init__(auto_prefix=False)
        self.value_and_grad = ms.value_and_grad(_Projected(encoders), places, params)

    def construct(self, *inputs: Tensor) -> tuple:
        """Take the encoder's inputs and the features' gradients; return their product and the gradients."""
        return self.value_and_grad(*inputs)


class CachedGradient:
    """The gradient of a batch, encoded `chunk` pairs at a time; equal to `BatchGradient`'s up to rounding.

    The features of all chunks are encoded without a gradient; the whole batch's loss gives the gradient of each
    feature; then each chunk is encoded again and takes its share back through the towers. `pieces` makes what does
    both from the network, the towers' parameters and their sums; None: a graph each.
    """

    def __init__(
        self,
        network: NetworkWithObjective,
        params: ParameterTuple,
        scale: LossScale,
        chunk: int,
        pieces: Callable[..., Any] | None = None,
    ):
        self.chunk = chunk
        self.sums = params.clone(prefix="summed", init="zeros")
        by_name = {p.name: total for p, total in zip(params, self.sums, strict=True)}
        logit_scale = [p for p in params if p.name == "logit_scale"]
        towers = [p for p in params if p.name != "logit_scale"]
        self.scale_sums = [by_name[p.name] for p in logit_scale]
        self.feature_gradient = _FeatureGradient(network, logit_scale, scale)
        tower_sums = [by_name[p.name] for p in towers]
        if pieces is None:
            self.encoders = network.encoders
            gradient = ProjectedGradient(network.encoders, ParameterTuple(towers))
            self.add_gradient = _AddedGradient(gradient, tower_sums)
        else:
            self.encoders = pieces(network, towers, tower_sums)
            self.add_gradient = self.encoders.add_gradient

    def __call__(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], tuple[()]]:
        """Return (loss, *parts) and leave the gradients of loss * loss scale in `sums`."""
        _clear(self.sums)
        starts = range(0, len(batch[0]), self.chunk)
        count = self.encoders.inputs
        chunks = [[t[start : start + self.chunk] for t in batch[:count]] for start in starts]
        encoded = [self.encoders(*chunk) for chunk in chunks]
        feats = [ops.concat(pieces, 0) for pieces in zip(*encoded, strict=True)]
        values, feature_grads, scale_grad = self.feature_gradient(*feats, *batch[count:])
        for total, grad in zip(self.scale_sums, scale_grad, strict=True):
            total.set_data(grad)
        for start, chunk in zip(starts, chunks, strict=True):
            self.add_gradient(*chunk, *[g[start : start + self.chunk] for g in feature_grads])
        return values, ()
