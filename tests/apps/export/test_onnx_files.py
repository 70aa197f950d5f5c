"""ONNX files of one batch size become files of any: the marker size, the reshapes, what is refused."""

import mindspore  # noqa: F401 - 2.7.0 cannot be imported behind onnx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ms_unireid.apps.export.onnx_files import marker_batch_size, open_batch
from ms_unireid.errors import ExportError

BATCH = 11


def write(path, shape: list[int]) -> None:
    """Write a network that lays out (11, 6) in another shape, with the batch size in that shape."""
    constant = helper.make_tensor("s", TensorProto.INT64, [len(shape)], shape)
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=constant),
        helper.make_node("Reshape", ["given", "shape"], ["rows"]),
    ]
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, [BATCH, 6])
    found = helper.make_tensor_value_info("rows", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [found])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=4)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))


@pytest.mark.parametrize("sizes", [{3, 64}, {11, 13, 17}, {768, 3072, 193, 77, 512, 384, 128}, set(range(1, 40))])
def test_the_marker_batch_size_divides_no_product_of_sizes(sizes):
    batch = marker_batch_size(sizes)
    assert batch >= 11 and all(batch % d for d in range(2, batch))
    product = np.prod([float(size) for size in sizes if size < 50])
    assert all(size % batch for size in sizes) and product % batch


def target(shape: list[int], rows: int) -> list[int]:
    """Return the same shape for another number of rows."""
    return [size // BATCH * rows if size > 0 and size % BATCH == 0 else size for size in shape]


@pytest.mark.parametrize("shape", [[BATCH, 2, 3], [BATCH * 2, -1], [-1, 3], [3, BATCH, 2]])
def test_any_batch_size_goes_through_an_opened_reshape(tmp_path, shape):
    write(tmp_path / "n.onnx", shape)
    open_batch(tmp_path / "n.onnx", BATCH, ["x"], ["y"])
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"))
    assert [i.shape[0] for i in session.get_inputs()] == ["batch"]
    for rows in (1, 4, BATCH):
        x = np.arange(rows * 6, dtype=np.float32).reshape(rows, 6)
        assert np.array_equal(session.run(["y"], {"x": x})[0], x.reshape(target(shape, rows)))


def test_two_open_lengths_in_one_shape_are_refused(tmp_path):
    write(tmp_path / "n.onnx", [BATCH, 6])
    model = onnx.load(str(tmp_path / "n.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = BATCH
    model.graph.node[0].attribute[0].t.CopyFrom(helper.make_tensor("s", TensorProto.INT64, [2], [BATCH, BATCH]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, str(tmp_path / "n.onnx"))
    with pytest.raises(ExportError, match=r"n\.onnx: .*cannot open the batch size"):
        open_batch(tmp_path / "n.onnx", BATCH, ["x"], ["y"])
