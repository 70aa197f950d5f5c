"""A user's network in onnxruntime: every key of the YAML file, and errors where file and network do not fit."""

import numpy as np
import pytest
import yaml
from apps.sketch.photo_factory import person

from ms_unireid.apps.sketch.background import OnnxBackground
from ms_unireid.apps.sketch.external import OnnxStyle
from ms_unireid.apps.sketch.onnx_model import (
    OnnxDescription,
    OnnxInput,
    OnnxModel,
    OnnxOutput,
    from_network,
    to_network,
)
from ms_unireid.config import overridden
from ms_unireid.errors import ConfigError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402


def write_network(folder, operator="Identity", channels=3, size=(64, 48), layout="NCHW", **attributes):
    """Write a network of one operator, and its description."""
    shape = [1, channels, *size] if layout == "NCHW" else [1, *size, channels]
    node = helper.make_node(operator, ["picture"], ["drawing"], **attributes)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("picture", shape), ("drawing", None))
    ]
    graph = helper.make_graph([node], "one", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    return describe(folder, {"size": list(size), "layout": layout})


def describe(folder, given=None, output=None):
    (folder / "net.yaml").write_text(
        yaml.safe_dump({"model": "net.onnx", "input": given or {}, "output": output or {}})
    )
    return folder / "net.yaml"


def grey_of(photo: np.ndarray, channel: int) -> np.ndarray:
    return photo[..., channel].astype(float) / 255


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("order", "channel"), [("RGB", 0), ("BGR", 2)])
def test_an_identity_network_returns_the_channel(tmp_path, layout, order, channel):
    write_network(tmp_path, layout=layout, size=(160, 120))
    path = describe(tmp_path, {"size": [160, 120], "layout": layout, "channels": order})
    photo = np.asarray(person())
    found = OnnxModel(path, "test").run(photo)
    assert found.shape == (160, 60) and np.abs(found - grey_of(photo, channel)).max() < 0.01


def test_range_mean_and_deviation():
    picture = np.full((2, 3, 3), 255, np.uint8)
    wanted = input_spec({"range": [0, 255], "mean": [100.0, 0.0, 5.0], "std": [10.0, 1.0, 5.0]})
    assert to_network(picture, wanted)[0, :, 0, 0].tolist() == [15.5, 255.0, 50.0]
    wanted = input_spec({"range": [-1, 1], "channels": "grey"})
    assert to_network(picture, wanted).shape == (1, 1, 2, 3)
    assert to_network(picture, wanted) == pytest.approx(1, abs=1e-5)


def input_spec(values):
    return overridden(OnnxInput(), values, "test")


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (OnnxOutput(), [0.0, 0.5, 1.0]),
        (OnnxOutput(invert=True), [1.0, 0.5, 0.0]),
        (OnnxOutput(threshold=0.5), [0.0, 1.0, 1.0]),
        (OnnxOutput(range=(0.0, 4.0)), [0.0, 0.125, 0.5]),
        (OnnxOutput(activation="sigmoid"), [0.5, 0.6225, 0.8808]),
    ],
)
def test_output_keys(output, wanted):
    result = np.array([[[[0.0, 0.5, 2.0]]]], np.float32)
    assert from_network(result, OnnxDescription(output=output), None)[0] == pytest.approx(wanted, abs=1e-3)


def test_own_range_and_softmax():
    result = np.array([[[[1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0]]]], np.float32)
    own = from_network(result, OnnxDescription(output=OnnxOutput(range=None)), None)
    assert own[0].tolist() == [0.0, 0.5, 1.0]
    soft = from_network(result, OnnxDescription(output=OnnxOutput(activation="softmax", channel=1)), None)
    assert soft[0] == pytest.approx([0.5, 0.2689, 0.1192], abs=1e-3)


def test_background_and_style_use_it(tmp_path):
    path = write_network(tmp_path)
    photo = np.asarray(person())
    mask = OnnxBackground(str(path)).load()(photo, "a.png")
    assert mask.shape == (160, 60) and 0 < mask.mean() <= 1
    style = OnnxStyle(str(path))
    sketch = style.load()(photo, mask, np.random.default_rng(1))
    assert sketch.shape == (160, 60) and sketch.dtype == np.uint8
    other = style.varied(np.random.default_rng(2)).load()(photo, mask, np.random.default_rng(2))
    assert (other != sketch).any()
    assert len(OnnxStyle(str(path)).versions()["drawing network"]) == 16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "net.onnx").write_bytes(b"junk"), "net.onnx: not an ONNX network"),
        (lambda folder: (folder / "net.onnx").unlink(), "expected the name of an ONNX file beside it"),
        (lambda folder: (folder / "net.yaml").write_text("model: [1"), "not valid YAML"),
        (lambda folder: (folder / "net.yaml").unlink(), "cannot be read"),
        (lambda folder: describe(folder, {"sise": [1, 2]}), "did you mean 'input.size'"),
        (lambda folder: describe(folder, {"layout": "CHWN"}), "cannot be 'CHWN'"),
        (lambda folder: describe(folder, {"std": [0.0]}), "std not 0"),
        (lambda folder: describe(folder, {"name": "x"}), "the network has no 'x'; it has picture"),
        (lambda folder: describe(folder, {"size": [10, 10]}), "the network refuses its input"),
        (lambda folder: describe(folder, {"size": [64, 48]}, {"channel": 7}), "the network gives 3 channels"),
    ],
)
def test_a_network_that_does_not_fit_is_reported(tmp_path, spoil, message):
    path = write_network(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message):
        OnnxModel(path, "test").run(np.asarray(person()))


def test_an_output_that_is_not_a_picture_is_reported(tmp_path):
    path = write_network(tmp_path, "GlobalAveragePool")
    assert OnnxModel(path, "test").run(np.asarray(person())).shape == (160, 60)  # 1x1 is still a picture
    write_network(tmp_path, "ReduceMax", keepdims=0)
    with pytest.raises(ConfigError, match="expected a picture of finite numbers"):
        OnnxModel(path, "test").run(np.asarray(person()))
