"""Matrix products: the one place where half precision enters the model."""

import mindspore as ms
from mindspore import Tensor, nn, ops


class Product(nn.Cell):
    """A matrix product of float32 tensors, computed in float16 if `half` is set; the result is float32 either way.

    Args:
        batched: Multiply stacks of matrices (..., L, K) instead of two matrices.
        transpose_a: Multiply the first operand's transpose.
        transpose_b: Multiply by the second operand's transpose.
    """

    def __init__(self, batched: bool = False, transpose_a: bool = False, transpose_b: bool = False):
        super().__init__()
        self.half = False
        multiply = ops.BatchMatMul if batched else ops.MatMul
        self.multiply = multiply(transpose_a=transpose_a, transpose_b=transpose_b)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a (..., M, K) by b (..., K, N), or either given transposed."""
        if self.half:
            return self.multiply(a.astype(ms.float16), b.astype(ms.float16)).astype(ms.float32)
        return self.multiply(a, b)


def use_half_precision(model: nn.Cell) -> None:
    """Compute all of a model's matrix products in float16; call it before anything is compiled.

    Weights, normalisations, softmax, residual sums and features stay float32.
    """
    for _, cell in model.cells_and_names():
        if isinstance(cell, Product):
            cell.half = True
