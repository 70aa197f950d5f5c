"""Encoding by OpenVINO and onnxruntime: exported once, kept, checked on photos, named in the index."""

import importlib
import shutil
from pathlib import Path

import mindspore  # noqa: F401 - 2.7.0 cannot be imported behind onnx
import numpy as np
import pytest
from apps.search.index_factory import put_photos

from ms_unireid.apps.export import cache, exporting
from ms_unireid.apps.export.cache import check_on_photos, open_exported_model
from ms_unireid.apps.search.indexing import build_index, photo_source
from ms_unireid.apps.search.manifest import present_about
from ms_unireid.apps.search.searcher import Searcher
from ms_unireid.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from ms_unireid.config import load_config, to_dict
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem, UserError
from ms_unireid.evaluation import exported_model
from ms_unireid.evaluation.checkpoint_evaluation import evaluate_checkpoints
from ms_unireid.evaluation.encoder import Encoder
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import prepare

MODEL = ["model.architecture=tiny", "model.image_size=[32, 16]", "model.context_length=24", "eval.batch_size=4"]
PLAIN = [*MODEL, "runtime.device=CPU", "runtime.graph_mode=false"]
CAPTIONS = ["a man in red", "a woman with a black bag and white shoes, who walks", "a child"]
EACH = [
    ("openvino", "fp32", 1e-4),
    pytest.param(
        "openvino",
        "bf16",
        0.1,  # pictures; captions are read in float32
        marks=pytest.mark.skipif(not exported_model.has_bfloat16(), reason="the processor has no bfloat16"),
    ),
    ("onnxruntime", "fp32", 1e-4),
    ("onnxruntime", "int8", 1.0),
]


def chosen(encoder: str, precision: str) -> list[str]:
    return [f"runtime.encoder={encoder}", f"runtime.precision={precision}"]


def save(path: Path, seed: int) -> Path:
    config = load_config(None, PLAIN)
    save_checkpoint(path, build_model(config.model, seed).get_parameters(), {"config": to_dict(config)})
    return path


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """Do not compile what exports are compared with, which takes half of the time; test_export_model.py does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_EXPORTED_FORM", (*exporting._EXPORTED_FORM, "runtime.graph_mode=false"))
        yield


@pytest.fixture(scope="module")
def made(uncompiled, tmp_path_factory) -> Path:
    """Return a folder with a checkpoint, photos, and the cache with an export in float32."""
    folder = tmp_path_factory.mktemp("exported")
    save(folder / "model.ckpt", 1)
    put_photos(folder / "photos", range(9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        open_exported_model(folder / "model.ckpt", load_config(None, [*MODEL, *chosen("openvino", "fp32")]))
    return folder


@pytest.fixture(autouse=True)
def cached(made, monkeypatch, tmp_path) -> Path:
    """Give each test its own copy of the cache; return its export."""
    shutil.copytree(made / "cache", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (export,) = (one for one in (tmp_path / "cache" / "ms_unireid" / "exported").iterdir() if one.is_dir())
    return export


@pytest.fixture
def unexported(monkeypatch):
    """Fail where something is exported."""

    def export(*_):
        raise AssertionError("exported again")

    monkeypatch.setattr(cache, "_export", export)


@pytest.mark.parametrize(("encoder", "precision", "tolerance"), EACH)
def test_features_are_those_of_mindspore(made, encoder, precision, tolerance):
    config = load_config(None, [*MODEL, *chosen(encoder, precision)])
    model = open_exported_model(made / "model.ckpt", config)
    found, photos = Encoder(model, config), sorted((made / "photos").iterdir())
    plain = load_config(None, PLAIN)
    ours = Encoder(read_checkpoint(made / "model.ckpt").build(plain), plain)
    np.testing.assert_allclose(found.pictures(photos), ours.pictures(photos), atol=tolerance)
    texts = 1e-4 if precision == "bf16" else tolerance
    np.testing.assert_allclose(found.captions(CAPTIONS), ours.captions(CAPTIONS), atol=texts)
    np.testing.assert_allclose(found.caption(CAPTIONS[0]), ours.caption(CAPTIONS[0]), atol=texts)
    assert check_on_photos(model, config, photos) >= cache.LEAST_COSINE[precision]
    black, white = (found.pixels(np.full((2, 3, 32, 16), value, np.uint8)) for value in (0, 255))
    assert np.abs(black - white).max() > 0.1  # the second call leaves the first result alone


def test_captions_that_differ_are_refused(made, monkeypatch):
    """As in bfloat16, where neighbouring token ids are one."""
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    model = open_exported_model(made / "model.ckpt", config)
    read = exported_model.ExportedModel.captions
    monkeypatch.setattr(exported_model.ExportedModel, "captions", lambda self, ids: read(self, ids // 256 * 256))
    with pytest.raises(UserError, match=r"A man with short black hair .*: features of openvino fp32 have a cosine"):
        check_on_photos(model, config, sorted((made / "photos").iterdir()))


def test_a_checkpoint_is_exported_once(made, unexported):
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    assert open_exported_model(made / "model.ckpt", config).folder.is_dir()


@pytest.mark.parametrize("damage", ["changed", "cut", "lost", "no description", "not JSON"])
def test_a_damaged_export_is_told_and_made_again(made, cached, capsys, monkeypatch, damage):
    def export(checkpoint, config, written, folder):  # a copy, as an export takes long
        shutil.copytree(next((made / "cache").rglob(cached.name)), folder, dirs_exist_ok=True)

    monkeypatch.setattr(cache, "_export", export)
    file = cached / ("image_encoder.onnx" if damage in ("changed", "cut", "lost") else "input_specification.json")
    content = file.read_bytes()
    file.unlink()
    if damage in ("changed", "cut"):
        file.write_bytes(content[:-1] + (b"x" if damage == "changed" else b""))
    elif damage == "not JSON":
        file.write_text("{")
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    model = open_exported_model(made / "model.ckpt", config)
    told = capsys.readouterr().err
    assert f"{cached}: is damaged; the model is exported again" in told and "Traceback" not in told
    assert np.isfinite(model.images(np.zeros((1, 3, 32, 16), np.float32))).all()
    open_exported_model(made / "model.ckpt", config)
    assert not capsys.readouterr().err


def test_a_checkpoint_that_has_changed_is_another_one(made, tmp_path, capsys):
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    other = save(tmp_path / "model.ckpt", 2)
    first, second = open_exported_model(made / "model.ckpt", config), open_exported_model(other, config)
    assert first.folder != second.folder and "is exported, once, into" in capsys.readouterr().err
    picture = np.ones((1, 3, 32, 16), np.float32)
    assert np.abs(first.images(picture) - second.images(picture)).max() > 0.1


def test_a_cache_that_cannot_be_written_is_told(made, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        open_exported_model(made / "model.ckpt", load_config(None, [*MODEL, *chosen("openvino", "fp32")]))


def test_bfloat16_needs_a_processor_that_has_it(made, monkeypatch, unexported):
    config = load_config(None, [*MODEL, *chosen("openvino", "bf16")])
    monkeypatch.setattr(exported_model, "has_bfloat16", lambda: False)
    with pytest.raises(EnvironmentProblem, match=r"does not multiply in bfloat16 .*give --precision fp32"):
        open_exported_model(made / "model.ckpt", config)
    monkeypatch.setattr(exported_model, "has_bfloat16", lambda: True)  # where it has not, OpenVINO takes float32
    model = open_exported_model(made / "model.ckpt", config)
    assert check_on_photos(model, config, sorted((made / "photos").iterdir())) >= 0.9999


@pytest.mark.parametrize(("encoder", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_told_before_anything_is_exported(made, monkeypatch, unexported, encoder, extra):
    def missing(name, *_):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(exported_model, "importlib", type("", (), {"import_module": staticmethod(missing)}))
    with pytest.raises(EnvironmentProblem, match=rf"runtime.encoder={encoder} needs the package .*\.\[{extra}\]"):
        open_exported_model(made / "model.ckpt", load_config(None, [*MODEL, *chosen(encoder, "fp32")]))
    assert importlib.import_module(encoder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (chosen("openvino", "int8"), "must be fp32 or bf16 with runtime.encoder=openvino; int8 goes with onnxruntime"),
        (chosen("onnxruntime", "bf16"), "must be fp32 or int8 with runtime.encoder=onnxruntime"),
        (chosen("mindspore", "int8"), "with runtime.encoder=mindspore; int8 goes with onnxruntime"),
        (chosen("tensorrt", "fp32"), "tensorrt"),
        ([*chosen("openvino", "fp32"), "runtime.device=Ascend"], "is openvino only on a CPU"),
    ],
)
def test_a_precision_that_the_encoder_has_not_is_refused(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(None, settings)


def test_features_that_differ_too_much_are_refused(made, monkeypatch):
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    monkeypatch.setitem(cache.LEAST_COSINE, "fp32", 1.1)
    photos = sorted((made / "photos").iterdir())
    with pytest.raises(UserError, match=r"000.png: features of openvino fp32 .*less than 1.1; give --precision fp32"):
        check_on_photos(open_exported_model(made / "model.ckpt", config), config, photos)


def test_photos_that_cannot_be_read_are_not_compared(made, tmp_path):
    config = load_config(None, [*MODEL, *chosen("openvino", "fp32")])
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    assert check_on_photos(open_exported_model(made / "model.ckpt", config), config, [tmp_path / "damaged.png"]) is None


def test_what_mindspore_computes_refuses_another_encoder():
    with pytest.raises(ConfigError, match="openvino encodes for index, search and evaluation; leave it out"):
        prepare(load_config(None, chosen("openvino", "fp32")).runtime)


def make(made: Path, index: Path, *overrides: str) -> None:
    sources = [photo_source(made / "photos")]
    build_index(index, sources, made / "model.ckpt", overrides=["runtime.device=CPU", *overrides])


def test_an_index_keeps_its_encoder_and_refuses_another(made, tmp_path, unexported, monkeypatch):
    index, checks = tmp_path / "index", []
    check = cache.check_on_photos
    monkeypatch.setattr(cache, "check_on_photos", lambda *found: checks.append(check(*found)))
    make(made, index, *chosen("openvino", "fp32"))
    about = present_about(index, False)
    assert about["preprocessing"]["encoder"] == "openvino fp32" and len(checks) == 1 and checks[0] > 0.9999
    make(made, index)  # as it was made
    assert present_about(index, False) == about and len(checks) == 1
    for other in (chosen("mindspore", "fp32"), chosen("onnxruntime", "fp32")):
        with pytest.raises(DataError, match=r"was made with preprocessing .*openvino fp32.*choose another --output"):
            make(made, index, *other)
    assert present_about(index, False) == about


def test_an_index_of_mindspore_names_no_encoder_and_refuses_another(made, tmp_path, unexported):
    make(made, tmp_path / "index", "runtime.graph_mode=false")
    assert "encoder" not in present_about(tmp_path / "index", False)["preprocessing"]
    with pytest.raises(DataError, match="openvino fp32"):
        make(made, tmp_path / "index", *chosen("openvino", "fp32"))


def test_a_query_takes_the_encoder_of_its_index_or_tells(made, tmp_path, unexported, monkeypatch):
    index = tmp_path / "index"
    make(made, index, *chosen("openvino", "fp32"))
    own = Searcher.open(index)
    other = Searcher.open(index, overrides=[*chosen("mindspore", "fp32"), "runtime.device=CPU"])
    query = {"text": "a man in red", "photo": sorted((made / "photos").iterdir())[0]}
    found = [searcher.search(**query, top_k=9) for searcher in (own, other)]
    assert [one.row for one in found[0]] == [one.row for one in found[1]]
    np.testing.assert_allclose(*[[one.score for one in hits] for hits in found], atol=1e-4)
    from ms_unireid.apps.search.queries import make_query

    told = [searcher.notes(make_query("a man")) for searcher in (own, other)]
    assert told == [[], ["the index was made with openvino fp32, the query is encoded with mindspore fp32"]]
    picture = query["photo"]
    np.testing.assert_allclose(own.heat_map(picture), other.heat_map(picture), atol=1e-6)


def test_an_index_in_bfloat16_is_searched_where_there_is_none(made, tmp_path, monkeypatch, unexported):
    index = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(exported_model, "has_bfloat16", lambda: True)
        make(made, index, *chosen("openvino", "bf16"))
    monkeypatch.setattr("ms_unireid.apps.search.index_model.has_bfloat16", lambda: False)
    searcher = Searcher.open(index)
    assert searcher.model.precision == "fp32" and len(searcher.search(text="a man", top_k=3)) == 3
    assert searcher._encoder_notes() == [
        "the index was made with openvino bf16, the query is encoded with openvino fp32"
    ]


def test_an_evaluation_has_the_rows_of_mindspore(made, data, unexported):
    rows = []
    for how in (["runtime.device=CPU", "runtime.graph_mode=false"], chosen("openvino", "fp32")):
        settings = [f"data.root={data}", "eval.batch_size=4", *how]
        (found,) = evaluate_checkpoints(
            [made / "model.ckpt"], overrides=settings, exported=cache.open_checked_model, rates=None
        )
        rows.append([{k: v for k, v in row.items() if k != "checkpoint"} for row in found.rows()])
    assert rows[0] == rows[1] and rows[0]
