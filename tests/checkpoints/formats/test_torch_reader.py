"""PyTorch files read without PyTorch: every container, type and layout, bit for bit against torch.load."""

import collections
import io
import struct

import numpy as np
import pytest
import torch
from checkpoints.saved_files import (
    Net,
    archive_of,
    bits,
    is_mapped,
    legacy_bytes,
    records,
    script,
    script_bytes,
    state,
    with_pickle,
    zip_bytes,
)
from torch import nn

from ms_unireid.checkpoints.formats.dtypes import dtype_name
from ms_unireid.checkpoints.formats.torch_reader import read_torch
from ms_unireid.errors import CheckpointError

SAVED = {"zip": zip_bytes, "legacy": legacy_bytes}
TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def read(tmp_path, content: bytes):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    return read_torch(path)


def refusal(tmp_path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file.pt'}: ") and "\n" not in message and len(message) < 600
    return message


def flat(value, name=""):
    """Yield the leaves of a saved value with their names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        yield name, value
    else:
        for key, item in items:
            yield from flat(item, f"{name}.{key}" if name else str(key))


def assert_equals(found: np.ndarray, expected: torch.Tensor, mapped: bool = True) -> None:
    assert found.shape == tuple(expected.shape)
    assert dtype_name(found.dtype) == str(expected.dtype).removeprefix("torch.")
    assert np.ascontiguousarray(found).tobytes() == bits(expected)
    assert not found.flags.writeable
    assert is_mapped(found) or not mapped


def assert_same(opened, saved) -> None:
    leaves = dict(flat(saved))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, torch.Tensor)}
    assert list(opened.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert_equals(opened.tensors[name], tensor)
    assert opened.values == {name: leaf for name, leaf in leaves.items() if name not in tensors}


@pytest.fixture(params=SAVED)
def save(request):
    """Return a function that serializes a value in one of the two formats of torch.save."""
    return SAVED[request.param]


def test_a_training_state_equals_torch_load(tmp_path, save):
    opened = read(tmp_path, save(state()))
    assert_same(opened, torch.load(opened.path, weights_only=True))
    assert opened.values["epoch"] == 7 and opened.values["optimizer.param_groups.0.betas.1"] == 0.999
    assert "optimizer.state.0.exp_avg_sq" in opened.tensors
    assert opened.parts == (opened.path,) and opened.metadata == {}


def test_the_format_is_reported(tmp_path):
    assert read(tmp_path, zip_bytes({})).format == "PyTorch zip archive"
    assert read(tmp_path, legacy_bytes({})).format == "PyTorch file of the format before 1.6"
    assert read(tmp_path, script_bytes()).format == "TorchScript archive"


@pytest.mark.parametrize("dtype", TYPES)
def test_types(tmp_path, save, dtype):
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (6, 40), dtype=torch.uint8, generator=generator)
    value = (raw > 127) if dtype == "bool" else raw.view(getattr(torch, dtype))
    assert_same(read(tmp_path, save({"x": value})), {"x": value})


def test_layouts(tmp_path, save):
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    saved = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "strided": base[1::2, :, ::3],
        "offset": base[2, 3:],
        "scalar": base[3, 2, 1],
        "zero_d": torch.tensor(3, dtype=torch.int64),
        "expanded": torch.tensor([1.5, 2.5]).expand(7, 2),
        "diagonal": base[0, :, :5].diagonal(),
        "empty": torch.empty(0),
        "empty_wide": torch.empty(3, 0, 5, dtype=torch.float16),
        "empty_part": base[4:],
        "one": base[:1, :1, 1:2],
    }
    opened = read(tmp_path, save(saved))
    assert_same(opened, saved)
    assert np.shares_memory(opened.tensors["whole"], opened.tensors["transposed"])
    assert np.shares_memory(opened.tensors["strided"], opened.tensors["whole"])


def test_tied_weights_are_both_named(tmp_path, save):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    opened = read(tmp_path, save(model.state_dict()))
    assert_same(opened, model.state_dict())
    assert np.shares_memory(opened.tensors["a.weight"], opened.tensors["b.weight"])


def test_parameters_sizes_types_and_devices(tmp_path, save):
    plain = nn.Parameter(torch.ones(3))
    noted = nn.Parameter(torch.zeros(2))
    noted.note = "kept"
    saved = {
        "plain": plain,
        "noted": noted,
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cuda:1"),
        "counter": collections.Counter([5, 5, 9]),
        "default": collections.defaultdict(dict, {"k": 1}),
        ("a", 3): None,
        2: True,
    }
    opened = read(tmp_path, save(saved))
    assert_equals(opened.tensors["plain"], plain)
    assert_equals(opened.tensors["noted"], noted)
    assert opened.values == {
        "size.0": 2,
        "size.1": 3,
        "dtype": "torch.float16",
        "device": "cuda",
        "counter.5": 2,
        "counter.9": 1,
        "default.k": 1,
        "a,3": None,
        "2": True,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("modern", [True, False])
def test_pickle_protocols(tmp_path, protocol, modern):
    file = io.BytesIO()
    torch.save(state(), file, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
    assert_same(read(tmp_path, file.getvalue()), state())


def test_raw_bytes_are_left_out(tmp_path):
    file = io.BytesIO()
    torch.save({"raw": b"x", "epoch": 1}, file, pickle_protocol=4)
    assert read(tmp_path, file.getvalue()).values == {"epoch": 1}


def test_torchscript_equals_torch_jit_load(tmp_path):
    opened = read(tmp_path, script_bytes())
    expected = torch.jit.load(opened.path).state_dict()
    assert opened.tensors.keys() == expected.keys() and "first.resolution" in expected
    for name, tensor in expected.items():
        assert_equals(opened.tensors[name], tensor)
    assert opened.values["first.sizes.1"] == 2 and opened.values["training"] is True


def test_torchscript_storages_tagged_cuda(tmp_path):
    content = script_bytes()
    name = next(name for name in records(content) if name.endswith("/data.pkl"))
    tagged = records(content)[name].replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert tagged != records(content)[name]
    opened = read(tmp_path, with_pickle(content, tagged))
    assert_equals(opened.tensors["first.fc.weight"], script().state_dict()["first.fc.weight"])


def test_classes_of_torchscript_are_refused_outside_of_it(tmp_path):
    named = {name: data for name, data in records(script_bytes()).items() if "/code/" not in name}
    assert "'__torch__." in refusal(tmp_path, archive_of(named))


def test_records_at_unaligned_places(tmp_path):
    content = records(zip_bytes(state()))
    assert_same(read(tmp_path, archive_of(content)), state())
    opened = read(tmp_path, archive_of({"archive/odd": b"x", **content}))
    assert any(not array.flags.aligned for array in opened.tensors.values())


def test_records_without_checksums(tmp_path):
    try:
        torch.serialization.set_crc32_options(False)
        content = zip_bytes(state())
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read(tmp_path, content), state())


def test_a_legacy_view_of_a_storage(tmp_path):
    saved = {"x": torch.arange(6, dtype=torch.float32)}
    # Files of old versions may describe a part of a storage; today's writer always says None.
    whole, part = b"K\x06Nt", b"K\x06X\x01\x00\x00\x00vK\x02K\x03\x87t"
    layout, smaller = b"K\x00K\x06\x85", b"K\x00K\x03\x85"
    content = legacy_bytes(saved)
    assert whole in content and layout in content
    opened = read(tmp_path, content.replace(whole, part).replace(layout, smaller))
    assert_equals(opened.tensors["x"], saved["x"][2:5])


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "uint16", "float8_e4m3fn"])
def test_unknown_types_are_named(tmp_path, save, dtype):
    message = refusal(tmp_path, save({"net": {"odd": torch.zeros(2).to(getattr(torch, dtype))}}))
    assert f"tensor 'net.odd' has type {dtype}, which cannot be read" in message


def test_quantized_tensors_are_named(tmp_path, save):
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    assert "tensor 'odd' has type qint8" in refusal(tmp_path, save({"odd": quantized}))


def test_whole_models_and_option_objects_are_refused_by_name(tmp_path, save):
    import argparse

    message = refusal(tmp_path, save({"model": Net().state_dict(), "args": argparse.Namespace(lr=1)}))
    assert "'argparse.Namespace'" in message and "torch.save(model.state_dict(), ...)" in message
    assert "Net'" in refusal(tmp_path, save(Net()))


def test_numpy_values_are_refused_by_name(tmp_path, save):
    assert "'numpy" in refusal(tmp_path, save({"r1": np.float64(3)}))


@pytest.mark.parametrize("value", [torch.ones(2), 3, "text"])
def test_a_value_without_a_name(tmp_path, save, value):
    assert "without a name" in refusal(tmp_path, save(value))


def test_colliding_names_are_refused(tmp_path, save):
    assert "two values named 'a.b'" in refusal(tmp_path, save({"a.b": 1, "a": {"b": 2}}))
    assert "key '1' twice" in refusal(tmp_path, save({1: 1, "1": 2}))


def test_big_endian_files_are_refused(tmp_path):
    content = {name: b"big" if name.endswith("byteorder") else data for name, data in records(zip_bytes({})).items()}
    assert "big-endian" in refusal(tmp_path, archive_of(content))
    swapped = legacy_bytes({}).replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    assert "big-endian" in refusal(tmp_path, swapped)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    content = bytearray(zip_bytes({"x": torch.zeros(100) + 3}))
    content[content.index(struct.pack("<f", 3)) + 40] ^= 1
    assert "checksum of record 'data/0'" in refusal(tmp_path, bytes(content))


def test_one_damaged_tensor_is_named(tmp_path):
    content = zip_bytes({"net": {"x": torch.zeros(100)}})
    short = {name: data[:40] if name.endswith("data/0") else data for name, data in records(content).items()}
    message = refusal(tmp_path, archive_of(short))
    assert "tensor 'net.x' takes 400 bytes of a storage of 40" in message


@pytest.mark.parametrize("save", [zip_bytes, legacy_bytes])
def test_a_lazily_negated_tensor_is_refused(tmp_path, save):
    """PyTorch stores the values before the sign is changed."""
    negated = torch.view_as_complex(torch.ones(2, 2)).conj().imag
    assert negated.is_neg()
    (tmp_path / "x.pt").write_bytes(save({"x": negated.contiguous()}))
    assert (read_torch(tmp_path / "x.pt").tensors["x"] == -1).all()
    (tmp_path / "x.pt").write_bytes(save({"x": negated}))
    with pytest.raises(CheckpointError, match="is negated or conjugated lazily"):
        read_torch(tmp_path / "x.pt")
