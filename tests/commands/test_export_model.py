"""tools/export_model.py: files that give the checkpoint's features in any batch, their description, and errors."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore  # noqa: F401 - 2.7.0 cannot be imported behind onnx
import numpy as np
import onnx
import pytest
from PIL import Image
from tool_runner import ROOT, load_tool, run_tool

from ms_unireid.apps.export import exporting, onnx_files
from ms_unireid.apps.export.runner import open_exported
from ms_unireid.apps.export.verification import Agreement, check_tolerance, compare, run_in_fresh_process
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.data.transforms import evaluation_transform
from ms_unireid.errors import CheckpointError, ConfigError, EnvironmentProblem, ExportError, UserError

STEMS = ("image_encoder", "text_encoder", "fusion")
SPECIFICATION = "input_specification.json"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
SIZE, LENGTH, DIM = (32, 16), 24, 32


@pytest.fixture(scope="module")
def model():
    """Return the model of the checkpoint."""
    from ms_unireid.config import ModelConfig
    from ms_unireid.models.unireid import build_model

    return build_model(ModelConfig(architecture="tiny", image_size=SIZE, context_length=LENGTH), seed=3)


@pytest.fixture(scope="module")
def checkpoint(data, model, tmp_path_factory) -> Path:
    from ms_unireid.checkpoints.checkpoint import save_checkpoint
    from ms_unireid.config import load_config, to_dict

    sizes = ["model.architecture=tiny", f"model.image_size={list(SIZE)}", f"model.context_length={LENGTH}"]
    config = load_config(None, [*sizes, f"data.root={data}"])
    path = tmp_path_factory.mktemp("checkpoint") / "best_average.ckpt"
    save_checkpoint(path, model.get_parameters(), {"config": to_dict(config), "epoch": 7})
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of an export with the defaults, and what was printed."""
    folder = tmp_path_factory.mktemp("exported") / "my files, 导出"  # MindSpore itself refuses such a path
    done = run_tool("export_model.py", "--checkpoint", checkpoint, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def export(checkpoint: Path, output: Path, *more: object, parts: slice = slice(None)) -> dict:
    """Export in this process, some of the parts and ONNX alone, and return the description.

    What the files are compared with is not compiled, which takes half of the time; that of `exported` is.
    """
    arguments = ["--checkpoint", checkpoint, "--output", output, "--formats", "onnx", *more]
    make, form = exporting.make_parts, (*exporting._EXPORTED_FORM, "runtime.graph_mode=false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "make_parts", lambda *of: make(*of)[parts])
        patch.setattr(exporting, "_EXPORTED_FORM", form)
        load_tool("export_model.py").main([str(argument) for argument in arguments])
    return read(output)


def read(folder: Path) -> dict:
    return json.loads((folder / SPECIFICATION).read_text(encoding="utf-8"))


def random_inputs(rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Make inputs of every file; captions of several lengths."""
    rng = np.random.default_rng(rows)
    token_ids = rng.integers(1, 49406, (rows, LENGTH)).astype(np.int32)
    for row, end in zip(token_ids, rng.integers(1, LENGTH, rows), strict=True):
        row[end], row[end + 1 :] = 49407, 0
    sketch, text = rng.standard_normal((2, rows, DIM), np.float32)
    return {
        "image_encoder": {"images": rng.standard_normal((rows, 3, *SIZE), np.float32)},
        "text_encoder": {"token_ids": token_ids},
        "fusion": {"sketch_feats": sketch, "text_feats": text},
    }


def of_model(model, stem: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    from mindspore import Tensor

    method = {"image_encoder": model.encode_image, "text_encoder": model.encode_text, "fusion": model.fuse}[stem]
    return method(*map(Tensor, inputs.values())).asnumpy()


@pytest.fixture(scope="module")
def of_many(checkpoint, model) -> Path:
    """Return a checkpoint of the same weights, trained for infrared and colour pencil, too."""
    from ms_unireid.checkpoints.checkpoint import read_checkpoint, save_checkpoint

    config = read_checkpoint(checkpoint).meta["config"]
    data = config["data"] | {"modalities": ["infrared", "sketch", "pencil"]}
    objective = config["objective"] | {"tasks": ["text", "sketch", "infrared+text", "pencil"]}
    meta = {"config": config | {"data": data, "objective": objective}}
    save_checkpoint(checkpoint.with_name("many.ckpt"), model.get_parameters(), meta)
    return checkpoint.with_name("many.ckpt")


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


# 1. What is exported.


def test_fusion_takes_every_modality_of_the_model(of_many, model, tmp_path):
    description = export(of_many, tmp_path / "out", "--formats", "onnx", "mindir", parts=slice(2, 3))
    names = ["sketch_feats", "pencil_feats", "infrared_feats", "text_feats"]
    assert [name for name, one in description["inputs"].items() if one["file"] == "fusion"] == names
    assert description["inputs"]["images"]["what"] == "photos and sketches, pencil, infrared alike"
    assert description["outputs"]["fusion"].startswith("sketch_feats + pencil_feats + infrared_feats + text_feats, of")
    feats = dict(zip(names, np.random.default_rng(1).standard_normal((4, 3, DIM), np.float32), strict=True))
    two = feats | {"sketch_feats": 0 * feats["sketch_feats"], "infrared_feats": 0 * feats["infrared_feats"]}
    for kind in ("onnx", "mindir"):
        run = open_exported(tmp_path / "out" / f"fusion.{kind}")
        np.testing.assert_allclose(run(feats)[0], sum(feats.values()), atol=1e-6)
        np.testing.assert_array_equal(run(two)[0], feats["pencil_feats"] + feats["text_feats"])


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
@pytest.mark.parametrize("stem", STEMS)
def test_files_give_the_models_features_in_every_batch(exported, model, stem, kind):
    run = open_exported(exported[0] / f"{stem}.{kind}")
    for rows in (1, 3, 8):
        inputs = random_inputs(rows)[stem]
        (found,) = run(inputs)
        assert found.shape == (rows, DIM) and found.dtype == np.float32
        assert np.abs(found - of_model(model, stem, inputs)).max() < 1e-4


def test_the_description(exported, checkpoint):
    folder, printed = exported
    description = read(folder)
    assert {path.name for path in folder.iterdir()} == {*description["files"], SPECIFICATION, VOCABULARY}
    assert description["files"].keys() == {f"{stem}.{kind}" for stem in STEMS for kind in ("onnx", "mindir")}
    for name, file in description["files"].items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
        assert file["largest_difference"] <= 1e-4 and file["precision"] == "float32"
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert f"largest difference {file['largest_difference']:.1e}" in line
        assert ("opset" in file) == name.endswith(".onnx")
    assert description["checkpoint"] == {
        "file": "best_average.ckpt",
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "epoch": 7,
    }
    assert description["comparison"]["inputs"] == "the test split of cuhk_pedes"
    vocabulary = hashlib.sha256((folder / VOCABULARY).read_bytes()).hexdigest()
    assert description["inputs"]["token_ids"]["vocabulary_sha256"] == vocabulary
    assert description["outputs"]["normalised"] is False and description["versions"]["mindspore"]


def test_files_and_folder_have_the_usual_permissions(exported, tmp_path):
    (tmp_path / "folder").mkdir()
    assert exported[0].stat().st_mode == (tmp_path / "folder").stat().st_mode
    assert all(path.stat().st_mode & 0o600 == 0o600 for path in exported[0].iterdir())


def test_the_description_of_inputs_is_what_evaluation_does(exported, tmp_path):
    """Follow the description by hand and arrive at the project's own pixels and tokens."""
    inputs = read(exported[0])["inputs"]
    images, tokens = inputs["images"], inputs["token_ids"]
    assert (images["shape"], tokens["shape"]) == (["batch", 3, *SIZE], ["batch", LENGTH])
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 21, 3), np.uint8))
    resized = picture.resize((images["width"], images["height"]), Image.Resampling.BILINEAR)
    pixels = (np.asarray(resized) / 255 - np.array(images["mean"])) / np.array(images["deviation"])
    assert np.allclose(pixels.transpose(2, 0, 1), evaluation_transform(picture, SIZE), atol=1e-5)
    (row,) = Tokenizer(LENGTH)(["a man"])
    assert [row[0], row[3]] == [tokens["start_token"], tokens["end_token"]] and set(row[4:]) == {tokens["padding"]}


def test_onnx_files_name_inputs_outputs_and_the_open_batch(exported):
    for stem, inputs in random_inputs(1).items():
        model = onnx.load(str(exported[0] / f"{stem}.onnx"))
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == list(inputs)
        assert [value.name for value in model.graph.output] == ["feats"]
        values = (*model.graph.input, *model.graph.output)
        assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}


@pytest.mark.parametrize("library", ["onnxruntime", "mindspore"])
def test_the_examples_of_the_documentation(exported, model, tmp_path, library):
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"import {library}" in block)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 25, 3), np.uint8))
    picture.save(tmp_path / "photo.png")
    (tmp_path / "exported").symlink_to(exported[0])
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    script = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path('example.py')"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    photo = of_model(model, "image_encoder", {"images": evaluation_transform(picture, SIZE)[None]})
    text_feats = of_model(model, "text_encoder", {"token_ids": Tokenizer(LENGTH)(["a man in red"])})
    expected = (photo * text_feats).sum() / np.linalg.norm(photo) / np.linalg.norm(text_feats)
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(float(expected), abs=1e-4)


@pytest.fixture(scope="module")
def replaced(checkpoint, tmp_path_factory) -> tuple[Path, dict]:
    """Return the folder of an export of normalised features, which replaced another one, and its description."""
    folder = tmp_path_factory.mktemp("replaced")
    Image.new("RGB", (20, 40), "red").save(folder / "one.png")
    output = folder / "out"
    output.mkdir()
    for name in (SPECIFICATION, "image_encoder.mindir"):
        (output / name).write_text("{}", encoding="utf-8")
    given = ("--redo", "--normalised", "--pictures", folder / "one.png", "--", "data.root=nowhere")
    return output, export(checkpoint, output, *given)


def test_normalised_features(replaced, model):
    output, description = replaced
    assert description["outputs"]["normalised"] is True
    assert description["outputs"]["files"]["image_encoder"] == ["normalized_feats", "feats"]
    assert description["outputs"]["files"]["fusion"] == ["normalized_feats"]
    for stem, inputs in random_inputs(3).items():
        found = open_exported(output / f"{stem}.onnx")(inputs)
        expected = of_model(model, stem, inputs)
        assert np.allclose(found[0], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
        assert len(found) == 1 or np.allclose(found[1], expected, atol=1e-4)


def test_int8(checkpoint, model, exported, tmp_path):
    description = export(checkpoint, tmp_path / "out", "--precision", "int8")
    assert [file["precision"] for file in description["files"].values()] == ["int8", "int8", "float32"]
    assert description["comparison"]["allowed"]["int8"] == {"least_cosine": 0.99}
    assert all(description["files"][f"{stem}.onnx"]["least_cosine"] >= 0.99 for stem in STEMS)
    inputs = random_inputs(8)["image_encoder"]
    (found,) = open_exported(tmp_path / "out" / "image_encoder.onnx")(inputs)
    expected = of_model(model, "image_encoder", inputs)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99 and not np.allclose(found, expected, atol=1e-4)
    exact = (exported[0] / "image_encoder.onnx").stat().st_size
    assert (tmp_path / "out" / "image_encoder.onnx").stat().st_size < 0.5 * exact


def test_pictures_given_no_data_set_and_an_earlier_export(replaced):
    output, description = replaced
    assert description["comparison"]["inputs"] == "pictures given, captions of drawn persons"
    assert description["files"].keys() == {f"{stem}.onnx" for stem in STEMS}
    assert {path.name for path in output.iterdir()} == {*description["files"], SPECIFICATION, VOCABULARY}
    assert {path.name for path in output.parent.iterdir()} == {"out", "one.png"}


# 2. Errors leave no files.


def change_a_weight(file: Path) -> None:
    model = onnx.load(str(file))
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith("visual.proj"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(file))


def test_a_damaged_file_is_found_and_nothing_is_left(checkpoint, tmp_path, monkeypatch):
    write = exporting._write

    def write_damaged(file: Path, *more: object) -> None:
        write(file, *more)
        if file.stem == "image_encoder":
            change_a_weight(file)

    monkeypatch.setattr(exporting, "_write", write_damaged)
    with pytest.raises(ExportError, match=r"image_encoder\.onnx: its largest difference .* nothing is kept"):
        export(checkpoint, tmp_path / "out", parts=slice(1))
    assert nothing_in(tmp_path)


def test_a_network_that_mindspore_splits_into_several_files(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("mindspore.train.serialization.TOTAL_SAVE", 1)  # KiB, instead of 1 GiB
    with pytest.raises(ExportError, match=r"image_encoder\.mindir: cannot be written .*give --formats onnx"):
        export(checkpoint, tmp_path / "out", "--formats", "mindir")
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
def test_a_file_cut_short_cannot_be_loaded_again(exported, tmp_path, kind):
    whole = exported[0] / f"image_encoder.{kind}"
    short = tmp_path / whole.name
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ExportError, match=rf"^image_encoder\.{kind}: the written file cannot be loaded and run \(.+\)"):
        run_in_fresh_process([short], random_inputs(8))


def test_values_of_another_shape_or_not_finite():
    feats = np.ones((8, 4), np.float32)
    with pytest.raises(ExportError, match=r"outputs have shapes \[\(8, 3\)\]"):
        compare(Path("x.onnx"), [feats[:, :3]], [feats])
    with pytest.raises(ExportError, match="not finite"):
        compare(Path("x.onnx"), [feats * np.nan], [feats])
    agreement = compare(Path("x.onnx"), [feats * 1.5], [feats])
    assert agreement == Agreement(0.5, pytest.approx(1))
    with pytest.raises(ExportError, match=r"largest difference .* is 5\.0e-01, more than 1e-04"):
        check_tolerance(Path("x.onnx"), agreement, "float32")
    check_tolerance(Path("x.onnx"), agreement, "int8")
    with pytest.raises(ExportError, match=r"smallest cosine similarity .* 0\.9000, less than 0\.99"):
        check_tolerance(Path("x.onnx"), Agreement(0.5, 0.9), "int8")


def test_an_existing_folder(exported, checkpoint, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in exported[0].iterdir()}
    with pytest.raises(UserError, match=r"holds an export; .* or replace it with --redo"):
        export(checkpoint, exported[0])
    assert {path.name: path.stat().st_mtime_ns for path in exported[0].iterdir()} == before
    held = tmp_path / "held"
    held.mkdir()
    for name in (SPECIFICATION, "x.ckpt"):
        (held / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds .*x\.ckpt, which would be replaced"):
        export(held / "x.ckpt", held, "--redo")
    shutil.rmtree(held)
    (tmp_path / "letter.txt").write_text("dear reader", encoding="utf-8")
    for more in ((), ("--redo",)):
        with pytest.raises(UserError, match="the folder is not an export"):
            export(checkpoint, tmp_path, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_unreadable_checkpoint(tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        export(tmp_path / "bad.ckpt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def test_wrong_arguments(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="give --formats onnx"):
        export(checkpoint, tmp_path / "out", "--formats", "mindir", "--precision", "int8")
    with pytest.raises(ConfigError, match=r"none\.png: no such file"):
        export(checkpoint, tmp_path / "out", "--pictures", tmp_path / "none.png")
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        export(tmp_path / "none.ckpt", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EnvironmentProblem, match=r"needs the package onnx.*\.\[onnx\]"):
        export(checkpoint, tmp_path / "out")
    assert nothing_in(tmp_path) and ".[onnx]" in onnx_files.INSTALL
