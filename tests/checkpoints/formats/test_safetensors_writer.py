"""Safetensors files against the ones that the safetensors package writes and reads."""

import weakref

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

from ms_unireid.checkpoints.formats.dtypes import BFLOAT16
from ms_unireid.checkpoints.formats.safetensors_file import check_unique, write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Entry

TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def tensors() -> dict[str, torch.Tensor]:
    """Return one tensor of each type, odd names and shapes, and values that a conversion would lose."""
    generator = torch.Generator().manual_seed(0)
    found = {f"z.{n}": torch.randn(3, 5, generator=generator).mul(9).to(getattr(torch, n)) for n in TYPES}
    found["special"] = torch.tensor([float("nan"), -0.0, 1e-45, float("inf"), 1 / 3])
    found["scalar"] = torch.tensor(2.5, dtype=torch.float16)
    found["empty"] = torch.zeros(0, 3)
    found['é\n"\x7f'] = torch.ones(1, dtype=torch.uint8)
    return found


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def entries(found: dict[str, torch.Tensor]) -> list[Entry]:
    return [Entry.of(name, to_numpy(tensor)) for name, tensor in found.items()]


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"ünder\n": 'a "quoted" \\ text'}])
def test_equals_the_package_byte_for_byte(tmp_path, metadata):
    safetensors.torch.save_file(tensors(), tmp_path / "theirs.safetensors", metadata=metadata or None)
    write_safetensors(tmp_path / "ours.safetensors", entries(tensors()), metadata)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_the_package_reads_it_into_torch(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", entries(tensors()))
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert to_numpy(read[name]).tobytes() == to_numpy(tensor).tobytes()


def test_the_package_reads_it_into_numpy(tmp_path):
    found = {name: to_numpy(tensor) for name, tensor in tensors().items() if tensor.dtype != torch.bfloat16}
    write_safetensors(tmp_path / "x.safetensors", [Entry.of(*item) for item in found.items()])
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert read.keys() == found.keys()
    for name, array in found.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("metadata", [{}, {"ms_unireid": "{}"}])
def test_mindspore_reads_it(tmp_path, metadata):
    found = {name: to_numpy(tensor) for name, tensor in tensors().items() if name != "empty"}
    write_safetensors(tmp_path / "x.safetensors", [Entry.of(*item) for item in found.items()], metadata)
    read = ms.load_checkpoint(str(tmp_path / "x.safetensors"), format="safetensors")
    assert read.keys() == found.keys()
    for name, array in found.items():
        assert str(read[name].dtype).lower() == str(tensors()[name].dtype).removeprefix("torch.")
        assert read[name].shape == array.shape
        assert read[name].get_bytes() == array.tobytes()


def test_metadata_is_kept(tmp_path):
    metadata = {"a": "1", "b": "ü\n", "c": ""}
    write_safetensors(tmp_path / "x.safetensors", entries(tensors()), metadata)
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == metadata


def test_elements_are_written_in_c_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_safetensors(tmp_path / "x.safetensors", [Entry.of("t", array.T), Entry.of("s", array[:, ::2, 1:3])])
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read["t"], array.T)
    np.testing.assert_array_equal(read["s"], array[:, ::2, 1:3])


def test_three_tensors_at_most_are_in_memory(tmp_path):
    made = []

    def load():
        assert sum(reference() is not None for reference in made) < 3
        array = np.ones((64, 64), np.float32)
        made.append(weakref.ref(array))
        return array

    dtype = np.dtype(np.float32)
    write_safetensors(tmp_path / "x.safetensors", [Entry(str(i), dtype, (64, 64), load) for i in range(9)])
    assert len(made) == 9


def test_nothing_to_write_is_a_readable_file(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", [])
    assert safetensors.numpy.load_file(tmp_path / "x.safetensors") == {}


def test_an_array_of_another_shape_than_declared_is_an_error(tmp_path):
    entry = Entry("a", np.dtype(np.float32), (2, 3), lambda: np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"'a' is declared as \(2, 3\), but its array is \(3, 2\)"):
        write_safetensors(tmp_path / "x.safetensors", [entry])


@pytest.mark.parametrize("names", ["aa", ["x", "__metadata__"]])
def test_names_given_twice_are_an_error(tmp_path, names):
    with pytest.raises(ValueError, match="occurs twice"):
        write_safetensors(tmp_path / "x.safetensors", [Entry.of(name, np.zeros(2)) for name in names])


def test_different_names_pass():
    check_unique(name for name in ("a", "b", "A"))
