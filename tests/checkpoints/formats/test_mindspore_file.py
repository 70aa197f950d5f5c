"""MindSpore checkpoints read and written without MindSpore, against MindSpore's own reader and writer."""

import weakref
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.train import serialization
from mindspore.train.checkpoint_pb2 import Checkpoint

from ms_unireid.checkpoints.formats import mindspore_file
from ms_unireid.checkpoints.formats.dtypes import BFLOAT16, dtype_name
from ms_unireid.checkpoints.formats.mindspore_file import looks_like_mindspore, read_mindspore, write_mindspore
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.errors import CheckpointError

TYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
STRINGS = {"ms_unireid": '{"epoch": 3}', "empty": "", "ünicode": "a\nü\N{GRINNING FACE}"}


def tensors() -> dict[str, Tensor]:
    """Return one tensor of each type, odd names and shapes, and values that a conversion would lose."""
    rng = np.random.default_rng(0)
    found = {f"z.{name}": Tensor((rng.standard_normal((3, 5)) * 9).astype(name)) for name in TYPES}
    found["z.bfloat16"] = Tensor(rng.standard_normal((2, 70)).astype(np.float32)).astype(ms.bfloat16)
    found["special"] = Tensor(np.array([np.nan, -0.0, 1e-45, np.inf, 1 / 3], np.float32))
    found["scalar"] = Tensor(np.float32(2.5))
    found["two_byte_numbers"] = Tensor(np.ones((127, 1, 128), np.int8))
    found["of_128_bytes"] = Tensor(np.ones(128, np.int8))
    found["many.ünicode"] = Tensor(rng.standard_normal((7, 1, 300)).astype(np.float32))
    return found


def to_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == ms.bfloat16:
        return np.frombuffer(tensor.get_bytes(), BFLOAT16).reshape(tensor.shape)
    return tensor.asnumpy()


def entries() -> list[Entry]:
    return [Entry.of(name, to_numpy(tensor)) for name, tensor in tensors().items()]


def save(path: Path, **options) -> Path:
    ms.save_checkpoint([{"name": n, "data": t} for n, t in tensors().items()], str(path), **options)
    path.chmod(0o644)
    return path


@pytest.fixture(params=[None, 1])
def slice_kilobytes(request, monkeypatch):
    """Let a tensor be one value, or let it be split over several as one of more than 512 MB is."""
    if request.param:
        monkeypatch.setattr(serialization, "SLICE_SIZE", request.param)
        monkeypatch.setattr(mindspore_file, "SLICE_BYTES", request.param * 1024)


@pytest.mark.usefixtures("slice_kilobytes")
@pytest.mark.parametrize("strings", [{}, STRINGS])
def test_written_file_equals_mindspores_byte_for_byte(tmp_path, strings):
    theirs = save(tmp_path / "theirs.ckpt", append_dict=strings or None, crc_check=True)
    write_mindspore(tmp_path / "ours.ckpt", entries(), strings)
    assert (tmp_path / "ours.ckpt").read_bytes() == theirs.read_bytes()


@pytest.mark.usefixtures("slice_kilobytes")
def test_mindspore_reads_what_is_written(tmp_path):
    write_mindspore(tmp_path / "x.ckpt", iter(entries()), STRINGS)
    read = ms.load_checkpoint(str(tmp_path / "x.ckpt"), crc_check=True)
    assert list(read) == [*tensors(), *STRINGS]
    assert {name: read.pop(name) for name in STRINGS} == STRINGS
    for name, tensor in tensors().items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert read[name].get_bytes() == tensor.get_bytes()


@pytest.mark.usefixtures("slice_kilobytes")
@pytest.mark.parametrize("crc_check", [False, True])
def test_what_mindspore_wrote_is_read(tmp_path, crc_check):
    path = save(tmp_path / "x.ckpt", append_dict=STRINGS, crc_check=crc_check)
    read = read_mindspore(path)
    assert (read.path, read.parts, read.metadata, read.values) == (path, (path,), STRINGS, {})
    assert list(read.tensors) == list(tensors())
    for name, tensor in tensors().items():
        found = read.tensors[name]
        assert dtype_name(found.dtype) == str(tensor.dtype).lower()
        assert found.shape == tensor.shape
        assert found.tobytes() == tensor.get_bytes()


def test_numbers_of_append_dict_are_scalar_tensors(tmp_path):
    numbers = {"epoch": 3, "rate": 0.1, "done": True, "moment": Parameter(0.5)}
    path = save(tmp_path / "x.ckpt", append_dict=numbers)
    expected, read = ms.load_checkpoint(str(path)), read_mindspore(path).tensors
    for name in numbers:
        assert read[name].shape == expected[name].shape == ()
        assert read[name].dtype == expected[name].asnumpy().dtype
        assert read[name] == expected[name].asnumpy()


def test_tensors_are_read_only_views_of_the_map(tmp_path):
    write_mindspore(tmp_path / "x.ckpt", entries(), {})
    for array in read_mindspore(tmp_path / "x.ckpt").tensors.values():
        assert type(array) is np.ndarray
        assert not array.flags.writeable
        while type(array) is np.ndarray:
            array = array.base
        assert type(array) is np.memmap


def test_joined_slices_are_read_only(tmp_path, monkeypatch):
    monkeypatch.setattr(mindspore_file, "SLICE_BYTES", 1000)
    write_mindspore(tmp_path / "x.ckpt", entries(), {})
    assert not any(array.flags.writeable for array in read_mindspore(tmp_path / "x.ckpt").tensors.values())


@pytest.mark.usefixtures("slice_kilobytes")
def test_round_trip_keeps_every_byte(tmp_path):
    path = save(tmp_path / "x.ckpt", append_dict=STRINGS, crc_check=True)
    read = read_mindspore(path)
    write_mindspore(tmp_path / "y.ckpt", [Entry.of(*item) for item in read.tensors.items()], read.metadata)
    assert (tmp_path / "y.ckpt").read_bytes() == path.read_bytes()


def test_elements_are_written_in_c_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_mindspore(tmp_path / "x.ckpt", [Entry.of("t", array.T), Entry.of("s", array[:, ::2, 1:3])], {})
    read = read_mindspore(tmp_path / "x.ckpt").tensors
    np.testing.assert_array_equal(read["t"], array.T)
    np.testing.assert_array_equal(read["s"], array[:, ::2, 1:3])


def test_three_tensors_at_most_are_in_memory(tmp_path):
    made = []

    def load():
        assert sum(reference() is not None for reference in made) < 3
        array = np.ones((64, 64), np.float32)
        made.append(weakref.ref(array))
        return array

    write_mindspore(tmp_path / "x.ckpt", (Entry(str(i), np.dtype(np.float32), (64, 64), load) for i in range(9)), {})
    assert len(made) == 9


@pytest.mark.parametrize(
    ("entries", "strings", "words"),
    [
        ([Entry.of("a", np.zeros(2)), Entry.of("a", np.zeros(2))], {}, "'a' occurs twice"),
        ([Entry.of("a", np.zeros(2))], {"a": ""}, "'a' occurs twice"),
        ([Entry.of("a", np.zeros((0, 3)))], {}, "'a' is empty"),
        ([Entry("a", np.dtype("<f4"), (2,), lambda: np.zeros((2, 1), np.float32))], {}, "'a' is declared as"),
    ],
)
def test_a_wrong_call_is_an_error(tmp_path, entries, strings, words):
    with pytest.raises(ValueError, match=words):
        write_mindspore(tmp_path / "x.ckpt", entries, strings)


def message(*values: tuple) -> bytes:
    """Build a file with protobuf's own code from (name, dims, type, content) of each value."""
    built = Checkpoint()
    for name, dims, type_name, content in values:
        value = built.value.add(tag=name)
        value.tensor.dims.extend(dims)
        value.tensor.tensor_type = type_name
        value.tensor.tensor_content = content
    return built.SerializeToString()


def map_parameter() -> bytes:
    built = Checkpoint()
    tensor = built.value.add(tag="table").maptensor.tensor.add(dims=[2])
    tensor.tensor_type, tensor.tensor_content = "float32", bytes(8)
    return built.SerializeToString()


ONE = ("a", [2], "Float32", bytes(8))


@pytest.mark.parametrize(
    ("value", "shape"),
    [(("a", [0], "Float32", bytes(4)), ()), (("a", [0, 3], "Float32", b""), (0, 3)), (("a", [0], "Int8", b""), (0,))],
)
def test_shapes_that_save_checkpoint_no_longer_writes(tmp_path, value, shape):
    (tmp_path / "x.ckpt").write_bytes(message(value))
    assert read_mindspore(tmp_path / "x.ckpt").tensors["a"].shape == shape


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (message(("n" * 401, [1], "Int8", b"1")), "the name at byte [0-9]+ has 401 bytes"),
        (message(("a", [1], "Int\n8" * 30, b"1")), r"'a' has elements of type 'Int\\n8.*\.\.\."),
        (message(("a\x1b[2K", [2], "Int8", b"1")), r"'a\\x1b\[2K' has 1 bytes"),
        (message(("a", [3], "Float32", bytes(8))), r"'a' has 8 bytes, which do not fit shape \(3,\) of Float32"),
        (message(("a", [], "Float32", bytes(8))), r"'a' has 8 bytes, which do not fit shape \(\)"),
        (message(("a", [-2], "Float32", bytes(8))), r"the number at byte 8 is cut off, or is 2\^63 or more"),
        (message(("a", [0, 2**62], "Float32", b"")), r"too big|exceeded"),
        (message(("a", [2**62, 4], "Float32", b"")), "'a' has 0 bytes, which do not fit"),
        (message(("a", [1] * 33, "Int8", b"1")), "more than 34 fields"),
        (message(("a", [2], "Float8", bytes(8))), "'a' has elements of type 'Float8'; expected one of Float64, "),
        (message(("a", [2], "UInt32", bytes(8))), "'a' has elements of type 'UInt32'"),
        (message(ONE, ONE), r"'a' has 16 bytes, which do not fit shape \(2,\)"),
        (message(ONE, ("b", [1], "Int8", b"1"), ONE), "'a' occurs twice"),
        (message(ONE, ("a", [4], "Float32", bytes(8))), "'a' occurs twice, with different types or shapes"),
        (message(ONE, ("a", [2], "Int32", bytes(8))), "'a' occurs twice, with different types or shapes"),
        (message(("a", [0], "str", bytes(4)), ("a", [0], "str", bytes(4))), "'a' has elements of type 'str'"),
        (message(("a", [0], "str", b"\xff" * 4)), "codec can't decode"),
        (message(("a", [0], "str", bytes(3))), "codec can't decode"),
        (message(ONE).replace(b"\x0a\x01a", b"\x0a\x01\xff"), "codec can't decode"),
        (map_parameter(), "'table' is a map parameter"),
        (b"\x0a\x03\x0a\x01a", "a value has 0 fields for its tensor; expected one"),
        (b"\x0a\x06\x0a\x01a\x0a\x01b", "a value has 2 fields for its name; expected one"),
        (b"\x0a\xff\xff\xff\xff\x0f" + message(ONE), "4294967295 bytes should follow byte 6"),
        (
            b"\x0a\x10\x0a\x01a\x12\x0b\x12\x04Int8\x1a\x01b\x08\x82" + message(ONE),
            "the number at byte [0-9]+ is cut off",
        ),
        (b"\x0a" + b"\xff" * 12, r"the number at byte 1 is cut off, or is 2\^63 or more"),
        (message(ONE).replace(b"\x08\x02", b"\x09\x02"), "begins with 0x9, which is not allowed"),
        (message(ONE).replace(b"\x08\x02", b"\x0a\x02"), "begins with 0xa, which is not allowed"),
        (message(ONE) + b"\x12\x00", "begins with 0x12, which is not allowed"),
        (message(ONE) + b"crc_num" + bytes(10), "its content does not match its checksum"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_mindspore(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be read as a MindSpore checkpoint (")
    assert text.endswith("); copy or save it again, or use another file")
    assert "\n" not in text


def test_many_values_and_long_strings_are_refused(tmp_path):
    strings = message(*[(f"{i}", [0], "str", b"x\0\0\0" * (1 << 22)) for i in range(3)])
    for content, words in (
        (message(*[("a", [1], "Int8", b"1")] * 50_001), "more than 50000 values"),
        (strings, "its strings have more than 33554432 bytes"),
    ):
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_mindspore(tmp_path / "x.ckpt")


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_an_encrypted_file_is_refused(tmp_path, mode):
    path = save(tmp_path / "x.ckpt", enc_key=b"0123456789ABCDEF", enc_mode=mode)
    assert looks_like_mindspore(path.read_bytes()[:16])
    with pytest.raises(CheckpointError, match="it is encrypted; expected one that was saved without enc_key"):
        read_mindspore(path)


@pytest.mark.parametrize(("name", "words"), [("none.ckpt", "no such file"), (".", "is a folder")])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, name, words):
    with pytest.raises(CheckpointError, match=words):
        read_mindspore(tmp_path / name)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    write_mindspore(path, entries(), STRINGS)
    whole = path.read_bytes()
    ends = {len(message(*values)) for values in prefixes(whole)}
    offsets = [offset for offset in np.linspace(0, len(whole) - 1, 60).astype(int) if offset not in ends]
    assert len(offsets) >= 50
    for offset in offsets[1:]:  # the first leaves nothing
        path.write_bytes(whole[:offset])
        with pytest.raises(CheckpointError, match=r"x\.ckpt: cannot be read as a MindSpore checkpoint"):
            read_mindspore(path)


def prefixes(content: bytes) -> list[list[tuple]]:
    """Return the first n values of a file, for every n."""
    values = [(v.tag, v.tensor.dims, v.tensor.tensor_type, v.tensor.tensor_content) for v in parsed(content).value]
    return [values[:count] for count in range(1, len(values) + 1)]


def parsed(content: bytes) -> Checkpoint:
    built = Checkpoint()
    built.ParseFromString(content[:-17])  # without the checksum
    return built


def test_a_flipped_bit_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    write_mindspore(path, entries(), STRINGS)
    whole = path.read_bytes()
    for offset in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        with pytest.raises(CheckpointError, match=r"x\.ckpt: cannot be read"):
            read_mindspore(path)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with some bytes replaced, cut out, put in or repeated."""
    spoilt = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(spoilt))), int(rng.integers(1, 9))
        change = rng.integers(5)
        if change == 0:
            spoilt[at] = rng.integers(256)
        elif change == 1:
            spoilt[at] ^= 1 << int(rng.integers(8))
        elif change == 2:
            del spoilt[at : at + length]
        elif change == 3:
            spoilt[at:at] = rng.bytes(length)
        else:
            spoilt[at:at] = spoilt[int(rng.integers(len(spoilt))) :][: length * 9]
    return bytes(spoilt)


def test_mutated_files_are_read_or_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    few = [Entry.of(n, np.zeros(s, t)) for n, s, t in [("a.b", (2, 3), "f4"), ("c", (), "f2"), ("d", (1,), BFLOAT16)]]
    write_mindspore(path, few, {"ms_unireid": "{}"})
    whole, rng, refused = path.read_bytes()[:-17], np.random.default_rng(0), 0  # without the checksum
    for _ in range(500):
        path.write_bytes(mutated(whole, rng))
        try:
            read = read_mindspore(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(len(array.tobytes()) == array.nbytes for array in read.tensors.values())
    assert 250 < refused < 500


@pytest.mark.parametrize("size", [16, 64, 4096])
def test_checkpoints_are_recognised_by_their_first_bytes(tmp_path, size):
    heads = [save(tmp_path / "x.ckpt").read_bytes(), message(ONE), message(("n" * 300, *ONE[1:])), map_parameter()]
    assert all(looks_like_mindspore(head[:size]) for head in heads)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x0a",
        b"\n" * 8,
        b"\n" * 64,
        b"\n \n\x03abcd",
        b"\n\n<!DOCTYPE html><html>",
        b"<!DOCTYPE html><html>",
        b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02",
        b"\x0a\x00\x00\x00\x00\x00\x00\x00{       }",
        b'\n {"a": 1, "b": 2, "c": 3}',
        b"\x0a" + b"\xff" * 63,
    ],
)
def test_other_files_are_not_taken_for_checkpoints(head):
    assert not looks_like_mindspore(head)
