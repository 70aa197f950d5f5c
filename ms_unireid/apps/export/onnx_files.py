"""Edits MindSpore's ONNX files: any batch size, names of inputs and outputs, int8 weights.

MindSpore writes ONNX for one batch size, as numbers in the target shapes of `Reshape`. The files are therefore written
for a prime batch size that divides no size of the model, so that these numbers can be found and replaced.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_unireid.apps.optional import need
from ms_unireid.errors import ExportError
from ms_unireid.installation import install_extra

_BATCH_AXIS = "batch"
INSTALL = f"install it with: {install_extra('onnx')}"
_FIRST_CANDIDATE = 11


def need_onnx() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime; EnvironmentProblem if one is not installed."""
    return need("onnx", "the ONNX export", INSTALL), need("onnxruntime", "the check of ONNX files", INSTALL)


def marker_batch_size(sizes: Iterable[int]) -> int:
    """Return the smallest prime of at least 11 that divides none of the sizes, and so no product of them."""
    sizes = set(sizes)
    number = _FIRST_CANDIDATE
    while not all(number % d for d in range(2, math.isqrt(number) + 1)) or not all(size % number for size in sizes):
        number += 1
    return number


def open_batch(path: Path, batch: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rewrite an ONNX file for any batch size, and name its inputs and outputs in order.

    `batch` is the size that the file was written for, from `marker_batch_size`.

    Raises:
        ExportError: If a shape holds the batch size in a way that cannot be replaced.
    """
    onnx, _ = need_onnx()
    model = onnx.load(str(path))
    _open_reshapes(onnx, model.graph, _inferred_shapes(onnx, model), batch, path)
    del model.graph.value_info[:]
    for name, value in zip(inputs, model.graph.input, strict=True):
        _rename(model.graph, value, name)
    for name, value in zip(outputs, model.graph.output, strict=True):
        _rename(model.graph, value, name)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH_AXIS
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantize(source: Path, target: Path) -> None:
    """Write a copy of an ONNX file whose matrix products of activations and weights are int8; the rest stays float32.

    Weights have a scale per output channel. Activations have a scale per batch, so a row's features depend a little on
    the other rows.
    """
    need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Folds constants: the parts of the last block's projection become weights.
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    quantize_dynamic(
        str(target),
        str(target),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,  # 7 bits: sums of products of 8 bits overflow on processors without VNNI
        weight_type=QuantType.QInt8,
    )


def opset(path: Path) -> int:
    """Return the version of an ONNX file's operator set."""
    onnx, _ = need_onnx()
    model = onnx.load(str(path), load_external_data=False)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _inferred_shapes(onnx: ModuleType, model: Any) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.output)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _open_reshapes(onnx: ModuleType, graph: Any, shapes: dict[str, list[int]], batch: int, path: Path) -> None:
    """Replace the batch size in the target shape of each Reshape by -1."""
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    for number, node in enumerate(list(graph.node)):
        if node.op_type != "Reshape":
            continue
        shape = shapes.get(node.output[0], [])
        opened = [-1 if size and size % batch == 0 else size for size in shape]
        if opened == shape and shape:
            continue
        if node.input[1] not in constants or opened.count(-1) != 1 or 0 in opened:
            raise ExportError(f"{path.name}: cannot open the batch size in the shape {shape} of {node.name}")
        target = onnx.helper.make_tensor(f"open_shape_{number}", onnx.TensorProto.INT64, [len(opened)], opened)
        graph.initializer.append(target)
        node.input[1] = target.name
    used = {name for node in graph.node for name in node.input}
    for constant in constants.values():
        if constant.output[0] not in used:
            graph.node.remove(constant)


def _rename(graph: Any, value: Any, name: str) -> None:
    old, value.name = value.name, name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                if found == old:
                    names[index] = name
