"""The gradient of a batch by small graphs: one of a block serves all blocks of a tower but the last."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.models.clip import CLIP
from ms_unireid.models.pieces import Blocks, BlocksGradient, parameters_of, tensors_of
from ms_unireid.models.vision import VisionTransformer
from ms_unireid.training.gradient import AddToSums, NetworkWithObjective, ProjectedGradient
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

    def __init__(self, tower: VisionTransformer | CLIP, first: nn.Cell, params: Sequence[Parameter], prefix: str):
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

    def forward(self, inputs: Sequence[Tensor], keeps: bool) -> Tensor:
        """Return the input of the last block (B, L, D), and keep what the gradient needs, if it is needed."""
        self.inputs, self.kept = inputs, []
        (x,) = self.first(*inputs)
        for block in self.blocks:
            x, *kept = self.block(x, *tensors_of([block]))
            if keeps:
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


class _Towers:
    """The towers that a network needs, up to their last blocks."""

    def __init__(self, network: NetworkWithObjective, params: Sequence[Parameter]):
        base, encoders = network.model.base_model, network.encoders
        self.places, self.inputs = (0, *encoders.places), encoders.inputs
        pictures = _Pictures(base.visual, len(self.places))
        self.towers = [_Tower(base.visual, pictures, params, "base_model.visual.")]
        if encoders.uses_text:
            self.towers.append(_Tower(base, _Captions(base), params, "base_model."))
        taken = {param.name for tower in self.towers for param in tower.parameters()}
        self.names = [param.name for param in params]
        self.rest = ParameterTuple([param for param in params if param.name not in taken])

    def forward(self, batch: Sequence[Tensor], keeps: bool = True) -> list[Tensor]:
        """Return the inputs of the last blocks, and the captions if there are any."""
        hidden = [self.towers[0].forward([batch[place] for place in self.places], keeps)]
        if len(self.towers) == 1:
            return hidden
        captions = batch[self.inputs - 1]
        return [*hidden, self.towers[1].forward([captions], keeps), captions]

    def backward(self, slopes: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
        """Return all gradients, from those of the last blocks' inputs and of the parameters in `rest`."""
        found = dict(zip((param.name for param in self.rest), grads, strict=True))
        for tower, slope in zip(self.towers, slopes, strict=True):
            found |= tower.backward(slope)
        return [found[name] for name in self.names]


class _Readouts(nn.Cell):
    """The last blocks of the towers."""

    def __init__(self, network: NetworkWithObjective):
        super().__init__(auto_prefix=False)
        self.base, self.pick = network.model.base_model, network.model.pick
        self.pictures, self.uses_text = 1 + len(network.encoders.places), network.encoders.uses_text
        self.inputs = 3 if self.uses_text else 1
        # For a tuple of one MindSpore returns no tuple.
        self.places = (0, 1) if self.uses_text else 0

    def construct(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Turn the last blocks' inputs, with text its token_ids (B, L), into features (B, D)."""
        feats = self.base.visual.read(tensors[0])
        feats = self.pick.parts(feats, self.pictures) if self.pictures > 1 else (feats,)
        return (*feats, self.base.read(tensors[1], tensors[2])) if self.uses_text else feats


class _Rest(nn.Cell):
    """The last blocks of the towers, and the objective."""

    def __init__(self, network: NetworkWithObjective):
        super().__init__(auto_prefix=False)
        self.readouts, self.feature_objective = _Readouts(network), network.feature_objective
        self.inputs = self.readouts.inputs

    def construct(self, *tensors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take what `_Readouts` takes, the loss scale, and persons where they are needed."""
        feats = self.readouts(*tensors[: self.inputs])
        return self.feature_objective(tensors[self.inputs], *feats, *tensors[self.inputs + 1 :])


class _RestGradient(nn.Cell):
    def __init__(self, rest: _Rest, params: ParameterTuple, scale: LossScale):
        super().__init__(auto_prefix=False)
        self.scale, self.inputs = scale, rest.inputs
        self.value_and_grad = ms.value_and_grad(rest, rest.readouts.places, params, has_aux=True)

    def construct(self, *tensors: Tensor) -> tuple:
        (_, values), grads = self.value_and_grad(*tensors[: self.inputs], self.scale.value, *tensors[self.inputs :])
        return values, *grads


def _as_tuple(slopes: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return slopes if isinstance(slopes, tuple) else (slopes,)


class PiecewiseGradient:
    """The gradient of a batch, that of `BatchGradient` up to rounding, with a part of its compilation and memory.

    The operations must be in the fast form.
    """

    def __init__(self, network: NetworkWithObjective, params: ParameterTuple, scale: LossScale):
        self.towers = _Towers(network, params)
        self.rest = _RestGradient(_Rest(network), self.towers.rest, scale)

    def __call__(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return (loss, *parts) and the gradients of loss * loss scale."""
        values, slopes, grads = self.rest(*self.towers.forward(batch), *batch[self.towers.inputs :])
        return values, self.towers.backward(_as_tuple(slopes), grads)


class PiecewiseEncoders:
    """The towers as `CachedGradient` takes them; their gradient, of `params`, goes to `sums`."""

    def __init__(self, network: NetworkWithObjective, params: Sequence[Parameter], sums: Sequence[Parameter]):
        self.towers, self.readouts, self.add = _Towers(network, params), _Readouts(network), AddToSums(sums)
        self.inputs = self.towers.inputs
        self.gradient = ProjectedGradient(self.readouts, self.towers.rest, self.readouts.places)

    def __call__(self, *chunk: Tensor) -> tuple[Tensor, ...]:
        """Encode as `TaskEncoders` does."""
        return self.readouts(*self.towers.forward(chunk, keeps=False))

    def add_gradient(self, *inputs: Tensor) -> None:
        """Take what `ProjectedGradient` takes."""
        chunk, feature_grads = inputs[: self.inputs], inputs[self.inputs :]
        _, (slopes, grads) = self.gradient(*self.towers.forward(chunk), *feature_grads)
        self.add(*self.towers.backward(_as_tuple(slopes), grads))
