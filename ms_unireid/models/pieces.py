"""Blocks of a tower as one graph that serves all of them, forward and, in the fast form, backward.

MindSpore compiles every block of a graph anew, and on a CPU the kernels of each block take some ten batches to choose
their threads. Blocks whose parameters are inputs are compiled once.
"""

from mindspore import Tensor, nn

from ms_unireid.models.transformer import ResidualAttentionBlock

_PARAMETERS = 12  # of a block
_KEPT = 14  # tensors of a block that its gradient needs


def tensors_of(blocks: list[ResidualAttentionBlock]) -> list[Tensor]:
    """List blocks' parameters as tensors of the same memory: a graph is compiled anew for other Parameter objects."""
    return [Tensor(parameter) for block in blocks for parameter in parameters_of(block)]


def parameters_of(block: ResidualAttentionBlock) -> list:
    """List a block's parameters in the order of the inputs of a piece."""
    attn = block.attn
    found = [block.ln_1.weight, block.ln_1.bias, attn.in_proj_weight, attn.in_proj_bias]
    for cell in (attn.out_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj):
        found += [cell.weight, cell.bias]
    return found


class Blocks(nn.Cell):
    """Applies blocks like `block`; with `keeps`, in the fast form, it returns what their gradient needs."""

    def __init__(self, block: ResidualAttentionBlock, keeps: bool = False):
        super().__init__(auto_prefix=False)
        self.keeps = keeps
        self.ln_1, self.in_proj, self.core = block.ln_1.normalize, block.attn.in_proj, block.attn.core
        self.out_proj = block.attn.out_proj.operation
        self.ln_2, self.c_fc, self.c_proj = block.ln_2.normalize, block.mlp.c_fc.operation, block.mlp.c_proj.operation

    def construct(self, x: Tensor, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map x (B, L, D) to the same shape; `given` is what `tensors_of` returns.

        With `keeps` it returns that, then the tensors that `BlocksGradient` needs.
        """
        batch, length, width = x.shape
        rows, kept = x.reshape(-1, width), ()
        for i in range(0, len(given), _PARAMETERS):
            first = self.ln_1(rows, given[i], given[i + 1])
            qkv = self.in_proj(first[0], given[i + 2], given[i + 3]).reshape(batch, length, 3 * width)
            attended = self.core(qkv)
            mixed = attended[0].reshape(-1, width)
            between = rows + self.out_proj(mixed, given[i + 4], given[i + 5])
            second = self.ln_2(between, given[i + 6], given[i + 7])
            hidden = self.c_fc(second[0], given[i + 8], given[i + 9])
            if self.keeps:
                kept = (*kept, rows, *first, *attended, between, *second, hidden)
            rows = between + self.c_proj(hidden, given[i + 10], given[i + 11])
        return (rows.reshape(x.shape), *kept) if self.keeps else rows.reshape(x.shape)


class BlocksGradient(nn.Cell):
    """The gradient of `Blocks`, by those of its operations."""

    def __init__(self, forward: Blocks):
        super().__init__(auto_prefix=False)
        self.forward = forward

    def construct(self, dout: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x (B, L, D), and of the parameters in their order.

        `tensors` are the parameters, then what `Blocks` kept.
        """
        run, width = self.forward, dout.shape[-1]
        count = len(tensors) // (_PARAMETERS + _KEPT)
        drows, grads = dout.reshape(-1, width), ()
        for i in range(count - 1, -1, -1):
            given = tensors[_PARAMETERS * i : _PARAMETERS * (i + 1)]
            start = _PARAMETERS * count + _KEPT * i
            kept = tensors[start : start + _KEPT]
            rows, first, attended = kept[0], kept[1:4], kept[4:9]
            between, second, hidden = kept[9], kept[10:13], kept[13]
            dhidden, to_c_proj, to_c_proj_bias = run.c_proj.bprop(hidden, given[10], given[11], drows, drows)
            dnormal, to_c_fc, to_c_fc_bias = run.c_fc.bprop(second[0], given[8], given[9], hidden, dhidden)
            dbetween, to_ln_2, to_ln_2_bias = run.ln_2.bprop(between, given[6], given[7], second, (dnormal,))
            drows = drows + dbetween
            mixed = attended[0].reshape(-1, width)
            dmixed, to_out, to_out_bias = run.out_proj.bprop(mixed, given[4], given[5], drows, drows)
            (dqkv,) = run.core.bprop(first[0], attended, (dmixed.reshape(dout.shape),))
            dqkv = dqkv.reshape(-1, 3 * width)
            dnormal, to_in, to_in_bias = run.in_proj.bprop(first[0], given[2], given[3], dqkv, dqkv)
            dbefore, to_ln_1, to_ln_1_bias = run.ln_1.bprop(rows, given[0], given[1], first, (dnormal,))
            drows = drows + dbefore
            grads = (
                to_ln_1, to_ln_1_bias, to_in, to_in_bias, to_out, to_out_bias,
                to_ln_2, to_ln_2_bias, to_c_fc, to_c_fc_bias, to_c_proj, to_c_proj_bias, *grads,
            )  # fmt: skip
        return (drows.reshape(dout.shape), *grads)
