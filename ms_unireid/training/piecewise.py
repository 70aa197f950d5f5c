"""The gradient of a batch by small graphs: one of a block serves all blocks of a tower but the last."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.models.clip import CLIP
from ms_unireid.models.pieces import Blocks, BlocksGradient, parameters_of, tensors_of
from ms_unireid.models.vision import VisionTransformer
from ms_unireid.training.gradient import NetworkWithObjective, ProjectedGradient
from ms_unireid.training.loss_scale import LossScale

_BEFORE_BLOCKS = ("conv1.", "class_embedding", "positional_embedding", "ln_pre.", "token_embedding.")


class _Pictures(nn.Cell):
    """The visual tower up to its first block, for photos and the other pictures of a batch."""

    def __init__(self, tower: VisionTransformer, inputs: int):
        super().__init__(auto_prefix=False)
        self.tower, self.inputs = tower, inputs

    def construct(self, *pictures: Tensor) -> tuple[Tensor]:
        return (self.tower.embed(ops.concat(pictures, 0) if self.inputs > 1 else pictures[0]),)


class _Captions(nn.Cell):
    """The text tower up to its first block."""

    inputs = 1

    def __init__(self, tower: CLIP):
        super().__init__(auto_prefix=False)
        self.tower = tower

    def construct(self, token_ids: Tensor) -> tuple[Tensor]:
        return (self.tower.embed(token_ids),)


class _Tower:
    """A tower up to its last block; `prefix` is that of its parameters' names."""

    def __init__(self, tower: VisionTransformer | CLIP, first: nn.Cell, params: ParameterTuple, prefix: str):
        blocks = tower.transformer.resblocks
        self.blocks = list(blocks)[:-1]
        self.first = first
        starts = tuple(f"{prefix}{name}" for name in _BEFORE_BLOCKS)
        self.params = [param for param in params if param.name.startswith(starts)]
        self.first_gradient = ProjectedGradient(first, ParameterTuple(self.params))
        self.block = Blocks(blocks[0], keeps=True)
        self.block_gradient = BlocksGradient(self.block)

    def parameters(self) -> list[Parameter]:
        """List the parameters of what comes before the last block."""
        return [*self.params, *(param for block in self.blocks for param in parameters_of(block))]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the input of the last block (B, L, D), and keep what the gradient needs."""
        self.inputs, self.kept = inputs, []
        (x,) = self.first(*inputs)
        for block in self.blocks:
            x, *kept = self.block(x, *tensors_of([block]))
            self.kept.append(kept)
        return x

    def backward(self, dx: Tensor) -> dict[str, Tensor]:
        """Return the gradients by the parameters' names; what was kept is let go on the way."""
        found = {}
        for block in reversed(self.blocks):
            dx, *grads = self.block_gradient(dx, *tensors_of([block]), *self.kept.pop())
            found |= zip((param.name for param in parameters_of(block)), grads, strict=True)
        _, grads = self.first_gradient(*self.inputs, dx)
        self.inputs = ()
        return found | dict(zip((param.name for param in self.params), grads, strict=True))


class _Rest(nn.Cell):
    """The last blocks of the towers, and the objective."""

    def __init__(self, network: NetworkWithObjective, pictures: int):
        super().__init__(auto_prefix=False)
        self.base, self.pick, self.pictures = network.model.base_model, network.model.pick, pictures
        self.feature_objective, self.uses_text = network.feature_objective, network.encoders.uses_text

    def construct(self, loss_scale: Tensor, *tensors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take the last blocks' inputs, with text its token_ids (B, L), and persons where they are needed."""
        feats, others = self.base.visual.read(tensors[0]), tensors[1:]
        feats = self.pick.parts(feats, self.pictures) if self.pictures > 1 else (feats,)
        if self.uses_text:
            feats, others = (*feats, self.base.read(tensors[1], tensors[2])), tensors[3:]
        return self.feature_objective(loss_scale, *feats, *others)


class _RestGradient(nn.Cell):
    def __init__(self, rest: _Rest, params: ParameterTuple, towers: int, scale: LossScale):
        super().__init__(auto_prefix=False)
        self.scale = scale
        self.several = towers > 1
        # For a tuple of one MindSpore returns no tuple.
        places = tuple(range(1, 1 + towers)) if self.several else 1
        self.value_and_grad = ms.value_and_grad(rest, places, params, has_aux=True)

    def construct(self, *tensors: Tensor) -> tuple:
        (_, values), grads = self.value_and_grad(self.scale.value, *tensors)
        return values, grads[0] if self.several else (grads[0],), grads[1]


class PiecewiseGradient:
    """The gradient of a batch, that of `BatchGradient` up to rounding, with a part of its compilation and memory.

    The operations must be in the fast form.
    """

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, scale: LossScale):
        base, encoders = network.model.base_model, network.encoders
        self.names = [param.name for param in params]
        self.places, self.inputs = (0, *encoders.places), encoders.inputs
        pictures = _Pictures(base.visual, len(self.places))
        self.towers = [_Tower(base.visual, pictures, params, "base_model.visual.")]
        if encoders.uses_text:
            self.towers.append(_Tower(base, _Captions(base), params, "base_model."))
        taken = {param.name for tower in self.towers for param in tower.parameters()}
        rest = ParameterTuple([param for param in params if param.name not in taken])
        self.rest_names = [param.name for param in rest]
        self.rest = _RestGradient(_Rest(network, len(self.places)), rest, len(self.towers), scale)

    def __call__(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return (loss, *parts) and the gradients of loss * loss scale."""
        hidden = [self.towers[0].forward(*[batch[place] for place in self.places])]
        captions = [batch[self.inputs - 1]] if len(self.towers) > 1 else []
        hidden += [self.towers[1].forward(*captions) for _ in captions]
        values, slopes, grads = self.rest(*hidden, *captions, *batch[self.inputs :])
        del hidden
        found = dict(zip(self.rest_names, grads, strict=True))
        for tower, slope in zip(self.towers, slopes, strict=True):
            found |= tower.backward(slope)
        return values, [found[name] for name in self.names]
