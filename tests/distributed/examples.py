"""Computations of one process and of several, which test_two_processes.py compares."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_unireid.config import Config, DataConfig, EvalConfig, ModelConfig
from ms_unireid.data.evaluation_sets import load_evaluation_set
from ms_unireid.evaluation.encoder import Encoder
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import ALONE, Processes

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}
ROWS, WIDTH = 3, 4
# Modes and batch sizes: captions and pictures make 5 and 3 batches, or 2 and 1; the second process has fewer, or none.
EVALUATIONS = (("graph", 4), ("pynative", 16))


def rows_of(rank: int) -> np.ndarray:
    """Return a process's block of rows."""
    return np.random.default_rng((7, rank)).standard_normal((ROWS, WIDTH)).astype(np.float32)


def weights_of(rank: int) -> np.ndarray:
    """Return what a process multiplies the rows of two processes by."""
    return np.random.default_rng((8, rank)).standard_normal((2 * ROWS, WIDTH)).astype(np.float32)


def params_of(rank: int) -> ParameterTuple:
    """Return parameters of a few shapes, other values in every process."""
    rng = np.random.default_rng((9, rank))
    shapes = ((), (3,), (2, 5))
    return ParameterTuple(
        [Parameter(Tensor(rng.standard_normal(s).astype(np.float32)), name=f"p{i}") for i, s in enumerate(shapes)]
    )


class Weighted(nn.Cell):
    """A loss that differs from process to process: the joined rows times the process's own weights."""

    def __init__(self, gather: nn.Cell, rank: int):
        super().__init__(auto_prefix=False)
        self.gather, self.weights = gather, Tensor(weights_of(rank))

    def construct(self, rows: Tensor) -> Tensor:
        return (self.gather(rows) * self.weights).sum()


class Contrast(nn.Cell):
    """A loss in which each row meets all others, with one weight before the rows are joined and one after."""

    def __init__(self, gather: nn.Cell | None = None):
        super().__init__()
        self.gather, self.gathers = gather, gather is not None
        self.weight = Parameter(Tensor(rows_of(5)[:, :3]), name="weight")
        self.scale = Parameter(Tensor(1.5, ms.float32), name="scale")

    def construct(self, rows: Tensor) -> Tensor:
        feats = ops.matmul(rows[:, :3], self.weight)
        if self.gathers:
            feats = self.gather(feats)
        feats = feats / ops.sqrt((feats * feats).sum(-1, keepdims=True))
        return ops.square(ops.softmax(self.scale * ops.matmul(feats, feats.T), -1)).sum()


class ContrastGradient(nn.Cell):
    """The gradient of `Contrast` in a cell, because MindSpore rewrites a compiled cell more than a function."""

    def __init__(self, gather: nn.Cell | None = None):
        super().__init__(auto_prefix=False)
        net = Contrast(gather)
        self.value_and_grad = ms.value_and_grad(net, None, ParameterTuple(net.trainable_params()))

    def construct(self, rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.value_and_grad(rows)


def evaluate(data: Path, batch_size: int, processes: Processes = ALONE) -> dict[str, np.ndarray]:
    """Encode the test split with an untrained model; return its features and the reported progress."""
    config = Config(
        model=ModelConfig(architecture="tiny", image_size=(32, 16), context_length=24),
        data=DataConfig(root=str(data)),
        eval=EvalConfig(batch_size=batch_size),
    )
    progress = []
    extractor = Encoder(build_model(config.model, 3), config, lambda *now: progress.append(now), processes)
    feats = extractor.encode(load_evaluation_set(config.data, "test"))
    return {"photo": feats.photo, "sketch": feats.sketch, "text": feats.text, "progress": np.array(progress)}
