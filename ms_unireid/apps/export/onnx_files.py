"""What MindSpore's ONNX files need before they are of use: an open batch size, names, and int8 weights if asked.

MindSpore writes ONNX for one batch size only, as numbers in the target shapes of `Reshape`. Written for a batch size
that is a prime and divides no size of the model, those numbers can be told from all others.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_unireid.apps.optional import need
from ms_unireid.errors import ExportError
from ms_unireid.installation import install_extra

OPEN = "batch"
INSTALL = f"install it with: {install_extra('onnx')}"
_FIRST_CANDIDATE = 11


def need_onnx() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime.

    Raises:
        EnvironmentProblem: If one is not installed.
    """
    return need("onnx", "the export as ONNX", INSTALL), need("onnxruntime", "the check of ONNX files", INSTALL)


def marker_batch_size(sizes: Iterable[int]) -> int:
    """Return the least prime, from 11 on, that divides none of the sizes, and so no product of them."""
    sizes = set(sizes)
    number = _FIRST_CANDIDATE
    while not all(number % d for d in range(2, math.isqrt(number) + 1)) or not all(size % number for size in sizes):
        number += 1
    return number


def open_batch(path: Path, batch: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rewrite an ONNX file of one batch size for any, and name what goes in and comes out.

    Args:
        path: The file.
        batch: Batch size that it was written for, from `marker_batch_size`.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.

    Raises:
        ExportError: If the batch size is in the file in a way that cannot be opened.
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
        value.type.tensor_type.shape.dim[0].dim_param = OPEN
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantize(source: Path, target: Path) -> None:
    """Write an ONNX file once more, its matrix products of activations and weights in int8.

    Weights have a scale for each output channel, activations one that is taken from each batch as it comes (so a
    row's features depend a little on the rows beside it). Normalisation, softmax and attention stay float32.
    """
    need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # It computes beforehand what depends on weights alone: the last block's projection taken apart.
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    quantize_dynamic(
        str(target), str(target), op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )


def opset(path: Path) -> int:
    """Return the version of the operator set that an ONNX file is written in."""
    onnx, _ = need_onnx()
    model = onnx.load(str(path), load_external_data=False)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _inferred_shapes(onnx: ModuleType, model: Any) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.output)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _open_reshapes(onnx: ModuleType, graph: Any, shapes: dict[str, list[int]], batch: int, path: Path) -> None:
    """Replace the target of each Reshape that holds the batch size by one that leaves it open."""
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    for number, node in enumerate(list(graph.node)):
        if node.op_type != "Reshape":
            continue
        shape = shapes.get(node.output[0], [])
        opened = [-1 if size and size % batch == 0 else size for size in shape]
        if opened == shape and shape:
            continue
        if node.input[1] not in constants or opened.count(-1) != 1 or 0 in opened:
            raise ExportError(f"{path.name}: {node.name} has shape {shape}, whose batch size cannot be left open")
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
            for place, found in enumerate(names):
                if found == old:
                    names[place] = name
