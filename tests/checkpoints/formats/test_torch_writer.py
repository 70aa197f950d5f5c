"""PyTorch files written without torch, read by torch."""

import weakref
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ms_unireid.checkpoints.formats.dtypes import BFLOAT16
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.checkpoints.formats.torch_writer import write_torch

TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
LOADS = [{"weights_only": True}, {"weights_only": False}, {"weights_only": True, "mmap": True}]
VALUES = {
    "epoch": 60,
    "best": 1 / 3,
    "low": -129,
    "big": 2**40,
    "huge": -(2**63),
    "name": "ü\n",
    "no": None,
    "on": True,
}


def tensors() -> dict[str, torch.Tensor]:
    """Return one tensor of each type, odd names and shapes, and values that a conversion would lose."""
    generator = torch.Generator().manual_seed(0)
    found = {f"z.{n}": torch.randn(3, 5, generator=generator).mul(9).to(getattr(torch, n)) for n in TYPES}
    found["special"] = torch.tensor([float("nan"), -0.0, 1e-45, float("inf"), 1 / 3])
    found["scalar"] = torch.tensor(2.5, dtype=torch.bfloat16)
    found["empty"] = torch.zeros(2, 0, 3)
    found["many"] = torch.randn(7, 1, 300, generator=generator)
    found['é\n"'] = torch.ones(1, dtype=torch.uint8)
    return found


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def entries() -> list[Entry]:
    return [Entry.of(name, to_numpy(tensor)) for name, tensor in tensors().items()]


def assert_same(read: OrderedDict[str, torch.Tensor]) -> None:
    expected = tensors()
    assert type(read) is OrderedDict
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        found = read[name]
        assert type(found) is torch.Tensor
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert not found.requires_grad
        assert to_numpy(found).tobytes() == to_numpy(tensor).tobytes()


@pytest.mark.parametrize("options", LOADS)
def test_torch_reads_a_bare_state_dict(tmp_path, options):
    write_torch(tmp_path / "x.pth", entries())
    assert_same(torch.load(tmp_path / "x.pth", **options))


@pytest.mark.parametrize("options", LOADS)
def test_torch_reads_a_wrapped_state_dict(tmp_path, options):
    write_torch(tmp_path / "x.pth", entries(), "model", VALUES)
    read = torch.load(tmp_path / "x.pth", **options)
    assert type(read) is dict
    assert_same(read.pop("model"))
    assert list(read.items()) == list(VALUES.items())
    assert [type(value) for value in read.values()] == [type(value) for value in VALUES.values()]


def test_a_module_loads_it_strictly(tmp_path):
    torch.manual_seed(0)
    source, target = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    write_torch(tmp_path / "x.pth", [Entry.of(n, p.detach().numpy()) for n, p in source.named_parameters()])
    target.load_state_dict(torch.load(tmp_path / "x.pth"), strict=True)
    assert torch.equal(target.weight, source.weight)
    assert torch.equal(target.bias, source.bias)


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 1000])
def test_records_are_stored_aligned_and_whole(tmp_path, monkeypatch, limit):
    """A record over the limit has a longer zip64 header, which must not cost the alignment."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = tmp_path / "x.pth"
    write_torch(path, entries())
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            header = info.header_offset
            start = header + 30 + sum(int.from_bytes(content[header + at :][:2], "little") for at in (26, 28))
            assert start % 64 == 0
            assert content[start:].startswith(archive.read(info))
            assert info.compress_type == zipfile.ZIP_STORED
            assert not info.extra.startswith(b"FB")
    assert_same(torch.load(path, weights_only=True, mmap=True))


def test_records_have_the_names_and_marks_of_torch(tmp_path):
    torch.save(tensors(), tmp_path / "archive.pth")
    write_torch(tmp_path / "x.pth", entries())
    theirs = zipfile.ZipFile(tmp_path / "archive.pth")
    with theirs, zipfile.ZipFile(tmp_path / "x.pth") as ours:
        assert set(ours.namelist()) <= set(theirs.namelist())
        for name in set(ours.namelist()) - {"archive/data.pkl"}:
            assert ours.read(name) == theirs.read(name)


def test_equal_content_gives_equal_bytes(tmp_path):
    write_torch(tmp_path / "a.pth", entries(), "model", VALUES)
    write_torch(tmp_path / "b.pth", entries(), "model", VALUES)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_elements_are_written_in_c_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_torch(tmp_path / "x.pth", [Entry.of("t", array.T), Entry.of("s", array[:, ::2, 1:3])])
    read = torch.load(tmp_path / "x.pth")
    np.testing.assert_array_equal(read["t"].numpy(), array.T)
    np.testing.assert_array_equal(read["s"].numpy(), array[:, ::2, 1:3])


def test_three_tensors_at_most_are_in_memory(tmp_path):
    made = []

    def load():
        assert sum(reference() is not None for reference in made) < 3
        array = np.ones((64, 64), np.float32)
        made.append(weakref.ref(array))
        return array

    write_torch(tmp_path / "x.pth", [Entry(str(i), np.dtype(np.float32), (64, 64), load) for i in range(9)])
    assert len(made) == 9


def test_nothing_to_write_is_a_readable_file(tmp_path):
    write_torch(tmp_path / "x.pth", [])
    assert torch.load(tmp_path / "x.pth") == OrderedDict()


def test_an_array_of_another_shape_than_declared_is_an_error(tmp_path):
    entry = Entry("a", np.dtype(np.float32), (2, 3), lambda: np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"'a' is declared as \(2, 3\), but its array is \(3, 2\)"):
        write_torch(tmp_path / "x.pth", [entry])


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ("aa", {}, "'a' occurs twice"),
        ("a", {"wrap": "model", "values": {"model": 1}}, "'model' occurs twice"),
        ("a", {"values": {"epoch": 1}}, r"values \(epoch\) need a wrap key"),
        ("a", {"wrap": "model", "values": {"epoch": [1]}}, r"\[1\] is neither a number nor a string"),
    ],
)
def test_a_wrong_call_is_an_error(tmp_path, names, options, words):
    with pytest.raises(ValueError, match=words):
        write_torch(tmp_path / "x.pth", [Entry.of(name, np.zeros(2)) for name in names], **options)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_an_array_of_another_type_than_declared_is_cast(tmp_path, dtype):
    array = (np.arange(3_000_000) % 2048).astype(dtype)  # several chunks
    write_torch(tmp_path / "x.pth", [Entry("a", np.dtype(np.float32), array.shape, lambda: array)])
    found = torch.load(tmp_path / "x.pth", weights_only=True)["a"]
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), array.astype(np.float32))
