"""Hugging Face folders: one file or shards, in both formats, and indexes with false entries."""

import json

import pytest
import torch
from checkpoints.saved_files import bits, zip_bytes
from safetensors.torch import save_file

from ms_unireid.checkpoints.formats.any_file import json_beside, read_folder, read_tensor_file
from ms_unireid.errors import CheckpointError

STATE = {f"layer.{i}.weight": torch.full((2, 3), float(i)) for i in range(4)}
SHARDS = {"safetensors": "model-0000{}-of-00002.safetensors", "bin": "pytorch_model-0000{}-of-00002.bin"}
INDEXES = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


def save(path, state) -> None:
    if path.suffix == ".safetensors":
        save_file(state, path, {"format": "pt"})
    else:
        path.write_bytes(zip_bytes(state))


def sharded(folder, kind: str) -> dict[str, str]:
    """Write the state as two shards and an index, and return the index's map."""
    places = {}
    for number in (1, 2):
        name = SHARDS[kind].format(number)
        part = dict(list(STATE.items())[2 * number - 2 : 2 * number])
        save(folder / name, part)
        places |= dict.fromkeys(part, name)
    write_index(folder, kind, places)
    return places


def write_index(folder, kind, places) -> None:
    (folder / INDEXES[kind]).write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": places}))


def assert_is_state(opened, value=STATE) -> None:
    assert {name: array.tobytes() for name, array in opened.tensors.items()} == {n: bits(t) for n, t in value.items()}


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"],
)
def test_one_file(tmp_path, name):
    save(tmp_path / name, STATE)
    opened = read_folder(tmp_path)
    assert_is_state(opened)
    assert opened.path == tmp_path and opened.parts == (tmp_path / name,)
    assert opened.format.startswith("Hugging Face folder (")


@pytest.mark.parametrize("kind", SHARDS)
def test_shards(tmp_path, kind):
    sharded(tmp_path, kind)
    opened = read_folder(tmp_path)
    assert_is_state(opened)
    assert opened.parts == tuple(tmp_path / SHARDS[kind].format(number) for number in (1, 2))
    assert "2 shards" in opened.format


def test_shards_that_are_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    sharded(tmp_path / "blobs", "safetensors")
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert_is_state(read_folder(tmp_path / "snapshot"))


def test_safetensors_are_preferred(tmp_path):
    sharded(tmp_path, "bin")
    save(tmp_path / "pytorch_model.bin", {"other": torch.ones(1)})
    save(tmp_path / "model.safetensors", {"wanted": torch.ones(1)})
    assert list(read_folder(tmp_path).tensors) == ["wanted"]
    (tmp_path / "model.safetensors").unlink()
    assert_is_state(read_folder(tmp_path))


def test_a_configuration_is_read_in_the_folder_beside_the_file_or_inside_it(tmp_path):
    save(tmp_path / "model.safetensors", STATE)
    assert json_beside(read_folder(tmp_path), "config.json") is None
    (tmp_path / "config.json").write_text('{"model_type": "clip"}\n')
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert json_beside(read_tensor_file(path), "config.json") == {"model_type": "clip"}
    save_file(STATE, tmp_path / "model.safetensors", {"config.json": '{"model_type": "inside"}'})
    assert json_beside(read_folder(tmp_path), "config.json") == {"model_type": "inside"}


def test_numbers_among_the_tensors_are_kept(tmp_path):
    save(tmp_path / "pytorch_model.bin", {**STATE, "step": 3})
    assert read_folder(tmp_path).values == {"step": 3}


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", ["{", "", "[1]", '{"a": 1, "a": 2}', "[" * 100_000, "\xff"])
def test_a_broken_configuration(tmp_path, content):
    save(tmp_path / "model.safetensors", STATE)
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: is ") as caught:
        json_beside(read_folder(tmp_path), "config.json")
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights(tmp_path):
    assert "is a folder without weights; expected one of model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("kind", SHARDS)
def test_a_missing_shard(tmp_path, kind):
    sharded(tmp_path, kind)
    (tmp_path / SHARDS[kind].format(2)).unlink()
    assert f"{tmp_path / SHARDS[kind].format(2)}: no such file" in refusal(tmp_path)


def test_a_tensor_not_in_its_shard(tmp_path):
    places = sharded(tmp_path, "safetensors")
    first, last = places["layer.0.weight"], "layer.3.weight"
    write_index(tmp_path, "safetensors", places | {last: first})
    assert f"{tmp_path / first}: has no tensor {last!r}" in refusal(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    sharded(tmp_path, "bin")
    save(tmp_path / SHARDS["bin"].format(2), STATE)
    assert "repeats tensor 'layer.0.weight' of another shard" in refusal(tmp_path)


def test_a_tensor_that_the_index_leaves_out_is_kept(tmp_path):
    places = sharded(tmp_path, "bin")
    del places["layer.3.weight"]
    write_index(tmp_path, "bin", places)
    assert_is_state(read_folder(tmp_path))


@pytest.mark.parametrize(
    "shard",
    ["../out.bin", "/etc/passwd", "a/b.bin", "..", ".", "", "..\\x.bin", "x.bin\0", "index.json", "a\nb.bin", ".x.bin"],
)
def test_shards_outside_of_the_folder_are_never_opened(tmp_path, shard):
    write_index(tmp_path, "bin", {"x": shard})
    assert "expected a plain .safetensors or .bin file name" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 1}}']
)
def test_an_index_without_shards(tmp_path, content):
    (tmp_path / INDEXES["bin"]).write_text(content)
    assert refusal(tmp_path).startswith(f"{tmp_path / INDEXES['bin']}: ")
