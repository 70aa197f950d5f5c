"""The safetensors reader on files of the safetensors package, and on headers with false entries."""

import json

import numpy as np
import pytest
import torch
from checkpoints.saved_files import bits, is_mapped
from safetensors.torch import load_file, save_file

from ms_unireid.checkpoints.formats.dtypes import dtype_name
from ms_unireid.checkpoints.formats.safetensors_file import looks_like_safetensors, read_safetensors
from ms_unireid.errors import CheckpointError

TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (6, 40), dtype=torch.uint8, generator=generator)
    typed = {name: (raw > 127) if name == "bool" else raw.view(getattr(torch, name)).clone() for name in TYPES}
    return typed | {"zero_d": torch.tensor(3.5), "empty": torch.empty(3, 0, 2), "名.weight": torch.ones(2)}


def file_of(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] | None = None) -> dict:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_equals_the_safetensors_package(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, {"format": "pt"})
    opened, expected = read_safetensors(path), load_file(path)
    assert (opened.format, opened.metadata, opened.parts) == ("safetensors", {"format": "pt"}, (path,))
    assert opened.tensors.keys() == expected.keys() == tensors().keys()
    for name, tensor in expected.items():
        found = opened.tensors[name]
        assert (found.shape, dtype_name(found.dtype)) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        assert found.tobytes() == bits(tensor)
        assert is_mapped(found) and not found.flags.writeable


def test_no_tensors_and_no_metadata(tmp_path):
    save_file({}, tmp_path / "x")
    opened = read_safetensors(tmp_path / "x")
    assert opened.tensors == {} and opened.metadata == {}


def test_tensors_at_unaligned_places(tmp_path):
    (tmp_path / "x").write_bytes(file_of({"a": entry(0, 1, "U8", [1]), "b": entry(1, 9)}, bytes(range(9))))
    found = read_safetensors(tmp_path / "x").tensors["b"]
    assert found.tobytes() == bytes(range(1, 9)) and float(found.astype(np.float64)[0]) != 0


def test_recognised_by_its_first_bytes(tmp_path):
    save_file(tensors(), tmp_path / "x")
    assert looks_like_safetensors((tmp_path / "x").read_bytes()[:9])
    for head in (b"", b"PK\x03\x04aaaaa{", b"\xff" * 8 + b"{", bytes(9), b"<!DOCTYPE html>"):
        assert not looks_like_safetensors(head)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (file_of({"a": entry(0, 8)}, b"1234"), "ends before the end of tensor 'a' (byte 8 of the data, which has 4)"),
        (file_of({"a": entry(0, 4)}, b"12345"), "1 bytes follow the last tensor"),
        (file_of({"a": entry(4, 8)}, b"12345678"), "tensor 'a' begins at 4, but the one before it ends at 0"),
        (file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "tensor 'b' begins at 4"),
        (file_of({"a": entry(0, 8, shape=[3])}, bytes(8)), "takes 12 bytes, but its offsets span 8"),
        (file_of({"a": entry(8, 0)}, bytes(8)), "no valid shape"),
        (file_of({"a": entry(0, 0, shape=[1 << 40, 1 << 40])}, b""), "takes"),
        (file_of({"a": entry(0, 0, shape=[0, 10**17, 10**17])}, b""), "impossible shape"),
        (file_of({"a": entry(0, 4, shape=[1] * 33)}, bytes(4)), "no valid shape"),
        (file_of({"a": entry(0, 4, shape=[True])}, bytes(4)), "no valid shape"),
        (file_of({"a": entry(0, 4, shape=[1.0])}, bytes(4)), "no valid shape"),
        (file_of({"a": entry(0, 4, shape=[-1])}, bytes(4)), "no valid shape"),
        (file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "no valid shape"),
        (file_of({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "has no dtype"),
        (file_of({"a": 3}), "has no dtype"),
        (file_of({"net.a": entry(0, 1, "F8_E4M3", [1])}, b"1"), "tensor 'net.a' has type 'F8_E4M3', which cannot be"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__ is not a table of strings"),
        (file_of({"__metadata__": []}), "__metadata__ is not a table of strings"),
        (file_of(b'{"a": 1, "a": 2}'), "the key 'a' appears twice"),
        (file_of(b'{"a": 1'), "the JSON is not valid"),
        (file_of(b'{"a\xff": 1}'), "the JSON is not valid"),
        (file_of(b'{"a":' + b"[" * 200_000), "the JSON is not valid"),
        (file_of(b'{"a":' + b"9" * 100_000 + b"}"), "the JSON is not valid"),
        (file_of(b'{"a":' + b"1" * 20 + b"}"), "has no dtype"),
        (file_of({"a": entry(0, 0, shape=[0, 10**19])}, b""), "no valid shape"),
        ((500).to_bytes(8, "little") + b'{"a": ', "ends before the end of its header (at byte 14 of 508)"),
        ((1 << 62).to_bytes(8, "little") + b'{"a": 1}', "is not a safetensors file"),
        (b"\x02\0\0", "is not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "is not a safetensors file"),
    ],
)
def test_headers_with_false_entries(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_headers_of_impossible_length_are_refused(tmp_path):
    for content, words in (
        (file_of(b'{"a":"' + b"x" * (8 << 20) + b'"}'), "has a header of 8,388,616 bytes; expected at most 8,388,608"),
        (file_of({f"{i}": 0 for i in range(50_001)}), "holds more than 50000 tensors"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_safetensors(tmp_path / "x")
