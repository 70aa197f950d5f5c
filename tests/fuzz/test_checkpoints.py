"""Damaged checkpoints of every format are read as PyTorch, safetensors and protobuf read them, or refused."""

import functools
import io
import itertools
import json
import pickletools
import random
import re
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints.saved_files import bits, legacy_bytes, records, script_bytes, with_pickle, zip_bytes
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from ms_unireid.checkpoints.clip_names import lay_out, our_shapes
from ms_unireid.checkpoints.fitting import float32_entries
from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.mindspore_file import write_mindspore
from ms_unireid.checkpoints.formats.safetensors_file import write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import META, Entry
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.config import Config, ModelConfig, to_dict
from ms_unireid.config_schema import ARCHITECTURES, Architecture, TowerSize

_SIZES = Architecture(TowerSize(8, 1, 2), TowerSize(8, 1, 2), patch_size=2, embed_dim=4, vocabulary_size=20)
_CHECKSUM_BYTES = 17
FORMATS = (
    "zip",
    "training",
    "legacy",
    "script",
    "safetensors",
    "own safetensors",
    "mindspore",
    "mindspore without checksum",
)


def _entries():
    rng = np.random.default_rng(0)
    shapes = our_shapes(_SIZES, context_length=6, patches=4)
    return {name: Entry.of(name, rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}


def _state(layout):
    return {entry.name: torch.from_numpy(entry.load().copy()) for entry in lay_out(_entries(), layout, {})}


def _saved(write, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "x"), *arguments)
        return Path(folder, "x").read_bytes()


@functools.cache
def _files():
    """Return whole files of every format."""
    clip, ours = _state("clip"), _state("unireid")
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-5}]}
    model = ModelConfig("fuzzed", image_size=(4, 4), context_length=6)
    strings = {META: json.dumps({"config": to_dict(Config(model=model)), "epoch": 3})}
    whole = _saved(write_mindspore, _entries().values(), strings)
    return {
        "zip": zip_bytes(clip),
        "training": zip_bytes({"model": ours, "optimizer": moments, "epoch": 7, "name": "run"}),
        "legacy": legacy_bytes(clip),
        "script": script_bytes(),
        "safetensors": safetensors.torch.save(clip, {"format": "pt"}),
        "own safetensors": _saved(write_safetensors, list(_entries().values()), strings),
        "mindspore": whole,
        "mindspore without checksum": whole[:-_CHECKSUM_BYTES],
    }


def _folders():
    """Return the small files of whole folders, and the large ones; their names lead to folder and file."""
    names = list(_state("huggingface"))
    shards = {"hf/model-1.safetensors": names[::2], "hf/model-2.safetensors": names[1::2]}
    places = {name: file[3:] for file, part in shards.items() for name in part}
    towers = {
        tower: {"hidden_act": "quick_gelu", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        for tower in ("vision_config", "text_config")
    }
    towers["vision_config"] |= {"image_size": 4, "patch_size": 2}
    sizes = {"width": 8, "layers": 1}
    open_clip = {
        "embed_dim": 4,
        "quick_gelu": True,
        "vision_cfg": {**sizes, "head_width": 4, "image_size": [4, 4], "patch_size": 2},
        "text_cfg": {**sizes, "heads": 2, "vocab_size": 20, "context_length": 6},
    }
    small = {
        "hf/config.json": towers,
        "hf/model.safetensors.index.json": {"metadata": {}, "weight_map": places},
        "open_clip/open_clip_config.json": {"model_cfg": open_clip, "preprocess_cfg": {}},
    }
    state = _state("huggingface")
    large = {file: safetensors.torch.save({name: state[name] for name in part}) for file, part in shards.items()}
    large["open_clip/open_clip_pytorch_model.bin"] = zip_bytes(_state("clip"))
    return {name: json.dumps(value).encode() for name, value in small.items()}, large


@pytest.fixture(scope="module", autouse=True)
def registered():
    ARCHITECTURES["fuzzed"] = _SIZES
    yield
    del ARCHITECTURES["fuzzed"]


def _global(name):
    return b"c" + b"\n".join(part.encode() for part in name.rsplit(".", 1)) + b"\n"


def _text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _mutated(content: bytes, generator: random.Random) -> bytes:
    """Change, insert, remove, repeat or cut one to three runs of bytes."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        place = generator.randrange(len(data) or 1)
        kind = generator.randrange(7)
        if kind == 0:
            data[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            data[place : place + 1] = bytes([content[generator.randrange(len(content))]])
        elif kind == 2:
            data[place:place] = generator.randbytes(generator.randint(1, 8))
        elif kind == 3:
            del data[place : place + generator.randint(1, 8)]
        elif kind == 4:
            data[place : place + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"])
        elif kind == 5:
            data[place:place] = data[place : place + generator.randint(1, 64)]
        elif generator.random() < 0.1:
            del data[place:]
    return bytes(data)


def _rearranged(content: bytes, pieces: list[bytes], spare: list[bytes], generator: random.Random) -> bytes:
    """Remove, repeat, exchange or replace one to three whole pieces that a file's structure is made of."""
    assert b"".join(pieces) == content
    pieces = list(pieces)
    for _ in range(generator.randint(1, 3)):
        first, second = generator.randrange(len(pieces)), generator.randrange(len(pieces))
        kind = generator.randrange(4)
        if kind == 0:
            pieces[first] = b""
        elif kind == 1:
            pieces[first] += pieces[second]
        elif kind == 2:
            pieces[first], pieces[second] = pieces[second], pieces[first]
        else:
            pieces[first] = generator.choice(spare)
    return b"".join(pieces)


def _operations(pickled: bytes) -> list[bytes]:
    """Split one or several pickles into their operations."""
    pieces, stream = [], io.BytesIO(pickled)
    while stream.tell() < len(pickled):
        starts = [place for _, _, place in pickletools.genops(stream)] + [stream.tell()]
        pieces += [pickled[start:end] for start, end in itertools.pairwise(starts)]
    return pieces


_OPERATIONS = [b"N", b"\x88", b"(", b")", b"]", b"}", b"t", b"R", b"b", b"s", b"u", b"a", b"e", b"Q", b"\x81", b"\x85"]
_OPERATIONS += [
    b"K\x00",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"h\x00",
    b"h\x07",
    _text(""),
    _text("x"),
]
_OPERATIONS += [_global("torch.HalfStorage"), _global("torch.Size"), _global("collections.OrderedDict")]
_NUMBERS = [
    b"0",
    b"1",
    b"-1",
    b"7",
    b"4096",
    b"1e3",
    b"99999999999",
    b"18446744073709551616",
    b"null",
    b"[]",
    b'"F64"',
    b"{}",
]


def _spoilt(name, content, generator):
    """Return a file with changes mostly where its format has structure, not tensor data."""
    if name.startswith("mindspore") or generator.random() < 0.2:
        start = generator.choice([0, max(0, content.find(b"PK\x01\x02"))])
        return content[:start] + _mutated(content[start:], generator)
    if content.startswith(b"PK"):
        pickled = next(data for record, data in records(content).items() if record.endswith("data.pkl"))
        return with_pickle(content, _changed(pickled, _operations, _OPERATIONS, generator))
    if name == "legacy":
        end = _end_of_pickles(content)
        return _changed(content[:end], _operations, _OPERATIONS, generator) + content[end:]
    end = 8 + int.from_bytes(content[:8], "little")
    header = _changed(content[8:end], _words, _NUMBERS, generator)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _changed(structure, pieces, spare, generator):
    if generator.random() < 0.4:
        return _mutated(structure, generator)
    return _rearranged(structure, pieces(structure), spare, generator)


def _words(header):
    return re.split(rb'(\d+|"[^"]*"|[\[\]{}:,])', header)


def _end_of_pickles(content):
    stream = io.BytesIO(content)
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
    return stream.tell()


def _independent(name, path):
    """Return the tensors as the format's own reader reads them, as (shape, bytes)."""
    if "safetensors" in name:
        found = safetensors.torch.load_file(path)
    elif name.startswith("mindspore"):
        return dict(_with_protobuf(path))
    else:
        found = dict(_flattened(torch.load(path, map_location="cpu", weights_only=True)))
    return {key: (tuple(value.shape), bits(value)) for key, value in found.items()}


def _flattened(value, name=""):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            key = ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
            yield from _flattened(item, f"{name}.{key}" if name else key)


def _with_protobuf(path):
    from mindspore.train.checkpoint_pb2 import Checkpoint

    content = path.read_bytes()
    trailer = content[-_CHECKSUM_BYTES:].startswith(b"crc_num")
    message = Checkpoint()
    message.ParseFromString(content[:-_CHECKSUM_BYTES] if trailer else content)
    joined = {}
    for value in message.value:
        if value.tensor.tensor_type != "str":
            before = joined.get(value.tag, ((), b""))[1]
            joined[value.tag] = tuple(value.tensor.dims), before + value.tensor.tensor_content
    yield from joined.items()


def _agree(name, path):
    """Open a file as the commands do; compare its tensors with an independent reader's. Return whether it was read."""
    file = outcome(read_tensor_file, path)
    if file is None:
        return False
    if name != "script":
        theirs = _independent(name, path)
        ours = {key: (array.shape, np.ascontiguousarray(array).tobytes()) for key, array in file.tensors.items()}
        assert ours == theirs
    outcome(_weights, path)
    return True


def _weights(path):
    return {name: entry.load() for name, entry in float32_entries(open_source(path), 0.07).items()}


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file(tmp_path, name):
    (tmp_path / "x").write_bytes(_files()[name])
    assert _agree(name, tmp_path / "x")
    if name != "script":
        assert _weights(tmp_path / "x").keys() == _entries().keys()


@tries(1600)
@given(st.sampled_from(FORMATS), st.integers(0, 1 << 32))
def test_a_damaged_file(tmp_path_factory, name, seed):
    path = tmp_path_factory.getbasetemp() / "checkpoint"
    path.write_bytes(_spoilt(name, _files()[name], random.Random(seed)))
    _agree(name, path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the small files of whole folders, and where they lie."""
    small, large = _folders()
    root = tmp_path_factory.mktemp("folders")
    for name, content in (small | large).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return small, root


def test_whole_folders(folders):
    for name in ("hf", "open_clip"):
        assert _weights(folders[1] / name).keys() == _entries().keys()


@tries(400)
@given(damaged(_folders()[0]))
def test_a_damaged_json_beside_the_weights(folders, spoilt):
    small, root = folders
    name, content = spoilt
    (root / name).write_bytes(content)
    try:
        found = outcome(open_source, root / name.split("/")[0])
    finally:
        (root / name).write_bytes(small[name])
    if found is not None:
        json.loads(content)
        assert found.entries.keys() == _entries().keys()
