"""Three ways to a batch's gradient: at once, summed over parts, or exact with the memory of a part."""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.training.network import NetworkWithObjective

# A batch on the device: photos, sketches (B, 3, H, W) and token ids (B, L).
Batch = tuple[Tensor, Tensor, Tensor]


class BatchGradient(nn.Cell):
    """The gradient of a batch in one graph."""

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.network = network
        self.value_and_grad = ms.value_and_grad(network, None, params, has_aux=True)

    def construct(
        self, images: Tensor, sketches: Tensor, token_ids: Tensor, loss_scale: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return (loss, *parts) and the gradients of loss * loss_scale."""
        (_, values), grads = self.value_and_grad(images, sketches, token_ids, loss_scale)
        return values, grads


def _clear(sums: ParameterTuple) -> None:
    for total in sums:
        total.set_data(ops.zeros_like(total))


class _Adding(nn.Cell):
    """A gradient whose results are added to sums within its graph."""

    def __init__(self, gradient: nn.Cell, sums: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.gradient, self.sums = gradient, ParameterTuple(sums)

    def construct(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values, grads = self.gradient(*inputs)
        done = True
        for i in range(len(self.sums)):
            done = ops.depend(done, ops.assign_add(self.sums[i], grads[i]))
        return ops.depend(values, done)


class SplitGradient:
    """The mean gradient of a batch's parts, each contrasted within itself (gradient accumulation).

    Args:
        network: Model and objective.
        params: The trained parameters.
        parts: How many.
    """

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, parts: int):
        self.parts = parts
        self.sums = params.clone(prefix="summed", init="zeros")
        self.adding = _Adding(BatchGradient(network, params), self.sums)

    def __call__(self, batch: Batch, loss_scale: float) -> tuple[Tensor, ...]:
        """Return (loss, *parts) and leave the gradients of loss * loss_scale in `sums`.

        A part counts by its share of the pairs.
        """
        _clear(self.sums)
        count = len(batch[0])
        edges = [len(block) for block in np.array_split(np.arange(count), min(self.parts, count // 2))]
        totals, start = None, 0
        for size in edges:
            part = [t[start : start + size] for t in batch]
            share = size / count
            values = self.adding(*part, Tensor(loss_scale * share, ms.float32))
            weighted = [share * value for value in values]
            totals = weighted if totals is None else [a + b for a, b in zip(totals, weighted, strict=True)]
            start += size
        return tuple(totals)


class _FeatureGradient(nn.Cell):
    """The gradient of a whole batch's loss with respect to its features and the logit scale."""

    def __init__(self, network: NetworkWithObjective, logit_scale: list[Parameter]):
        super().__init__(auto_prefix=False)
        objective = network.feature_objective
        places = tuple(range(1, 1 + len(network.encoders.modalities)))
        self.learns_scale = bool(logit_scale)
        weights = ParameterTuple(logit_scale) if logit_scale else None
        self.value_and_grad = ms.value_and_grad(objective, places, weights, has_aux=True)

    def construct(self, loss_scale: Tensor, *feats: Tensor) -> tuple:
        (_, values), grads = self.value_and_grad(loss_scale, *feats)
        if self.learns_scale:
            return values, grads[0], grads[1]
        return values, grads, ()


class _Projected(nn.Cell):
    """The features of a part times what the whole batch's loss asks of them: its gradient is the part's share."""

    def __init__(self, encoders: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoders = encoders

    def construct(self, images: Tensor, sketches: Tensor, token_ids: Tensor, *asked: Tensor) -> Tensor:
        feats = self.encoders(images, sketches, token_ids)
        total = (feats[0] * asked[0]).sum()
        for i in range(1, len(asked)):
            total = total + (feats[i] * asked[i]).sum()
        return total


class _ProjectedGradient(nn.Cell):
    def __init__(self, encoders: nn.Cell, params: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.value_and_grad = ms.value_and_grad(_Projected(encoders), None, params)

    def construct(self, *inputs: Tensor) -> tuple:
        return self.value_and_grad(*inputs)


class CachedGradient:
    """The gradient of a batch, encoded `chunk` pairs at a time; equal to `BatchGradient`'s but for rounding.

    The features of all chunks are encoded without a gradient; the whole batch's loss gives the gradient of each
    feature; then each chunk is encoded again and takes its share back through the towers.

    Args:
        network: Model and objective.
        params: The trained parameters.
        chunk: Pairs encoded at once.
    """

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, chunk: int):
        self.chunk, self.encoders = chunk, network.encoders
        self.sums = params.clone(prefix="summed", init="zeros")
        by_name = {p.name: total for p, total in zip(params, self.sums, strict=True)}
        scale = [p for p in params if p.name == "logit_scale"]
        towers = [p for p in params if p.name != "logit_scale"]
        self.scale_sums = [by_name[p.name] for p in scale]
        self.feature_gradient = _FeatureGradient(network, scale)
        gradient = _ProjectedGradient(network.encoders, ParameterTuple(towers))
        self.adding = _Adding(gradient, [by_name[p.name] for p in towers])

    def __call__(self, batch: Batch, loss_scale: float) -> tuple[Tensor, ...]:
        """Return (loss, *parts) and leave the gradients of loss * loss_scale in `sums`."""
        _clear(self.sums)
        starts = range(0, len(batch[0]), self.chunk)
        chunks = [[t[start : start + self.chunk] for t in batch] for start in starts]
        encoded = [self.encoders(*chunk) for chunk in chunks]
        feats = [ops.concat(pieces, 0) for pieces in zip(*encoded, strict=True)]
        values, asked, of_scale = self.feature_gradient(Tensor(loss_scale, ms.float32), *feats)
        for total, grad in zip(self.scale_sums, of_scale, strict=True):
            total.set_data(grad)
        for start, chunk in zip(starts, chunks, strict=True):
            self.adding(*chunk, *[a[start : start + self.chunk] for a in asked])
        return values
