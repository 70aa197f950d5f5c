"""What a start imports, and the choices that are written twice so that --help imports little."""

import re
import subprocess
import sys

import pytest
from apps.search.index_factory import put_photo, put_photos, update
from tool_runner import ROOT, load_tool, run_tool

from ms_unireid.apps.checks.dataset_layout import KINDS
from ms_unireid.apps.export import specification
from ms_unireid.apps.search.engines import milvus_collection
from ms_unireid.apps.search.folding import FOLD
from ms_unireid.apps.search.manifest import DTYPES
from ms_unireid.apps.sketch import background, recipe
from ms_unireid.apps.synthetic import dataset, drawing
from ms_unireid.checkpoints import clip_names, conversion, recognition
from ms_unireid.commands import convert, export, search, sketches, synthetic, verify
from ms_unireid.commands.main import JOBS
from ms_unireid.data import photo_sets, tri_pedes

SLOW = {"mindspore", "numpy", "scipy", "PIL", "yaml", "tabulate", "tqdm", "tokenizers", "ms_unireid.config"}
REPORT = """import sys
from ms_unireid.commands.main import run
sys.argv = sys.argv[1:]
try:
    run(sys.argv[0])
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def imported(*command: object, code: int) -> set[str]:
    """Run a job in a new process, which must end with this code; return the modules that it has imported."""
    done = subprocess.run([sys.executable, "-c", REPORT, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_that_takes_long(job):
    assert not imported(job, "--help", code=0) & SLOW


@pytest.mark.parametrize("command", ["encode", "index"])
def test_a_benchmark_imports_its_own_module_alone(command):
    found = {name for name in imported("benchmark", command, "--help", code=0) if "apps.benchmarks." in name}
    assert f"ms_unireid.apps.benchmarks.{command}" in found and "ms_unireid.apps.benchmarks.products" not in found


@pytest.mark.parametrize(
    "written, defined",
    [
        (search.DATASETS, photo_sets.LISTED),
        (search.DTYPES, DTYPES),
        (search.KINDS, milvus_collection.KINDS),
        (convert.LAYOUTS, clip_names.LAYOUTS),
        (convert.KINDS, recognition.KINDS),
        (convert.FRAMEWORKS, conversion.SUFFIXES),
        (verify.DATASETS, KINDS),
        (sketches.DATASETS, tri_pedes.DATASETS),
        (sketches.SIZE, recipe.DEFAULT_SIZE),
        (sketches.BACKGROUNDS, background.BACKGROUNDS),
        (sketches.STYLES, recipe.STYLES),
        (synthetic.SKETCH_STYLES, drawing.SKETCH_STYLES),
        (synthetic.MODALITIES, dataset.MODALITIES),
        (export.FORMATS, specification.FORMATS),
        (export.PRECISIONS, specification.PRECISIONS),
        ((search.FOLD,), (FOLD,)),
    ],
)
def test_the_choices_of_the_options_are_those_of_the_code(written, defined):
    assert written == tuple(defined)


def test_the_defaults_of_synthetic_data_are_those_of_the_code():
    options, default = synthetic._parse(["--output", "new"]), dataset.SyntheticConfig()
    assert (options.photos, options.captions) == (default.photos_per_identity, default.captions_per_photo)
    for name in ("train_identities", "val_identities", "test_identities", "train_photos", "seed", "sketch_style"):
        assert getattr(options, name) == getattr(default, name)


def test_what_can_be_refused_is_refused_without_mindspore(tmp_path):
    index, photos = tmp_path / "index", tmp_path / "photos"
    put_photos(photos, range(2))
    update(index, photos)
    (tmp_path / "blank.png").write_bytes(put_photo(tmp_path / "white.png", (255, 255, 255)).read_bytes())
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    query = ("search", "query", "--index", index)
    wrong = [
        (*query, "--sketch", tmp_path / "blank.png"),
        (*query, "--photo", tmp_path / "damaged.png"),
        (*query, "--text", "a man", "runtime.device=TPU"),  # the checkpoint cannot be read either
        (*query, "--text", "a man", "--checkpoint", tmp_path / "empty.ckpt"),
        ("evaluate", "--checkpoint", tmp_path / "empty.ckpt"),
        ("evaluate", "--checkpoint", ROOT / "models" / "synthetic.safetensors", f"data.root={tmp_path}"),
        ("search", "index", "--output", tmp_path / "new", "--photos", photos, "--checkpoint", tmp_path / "empty.ckpt"),
    ]
    for command in wrong:
        assert "mindspore" not in imported(*command, code=2), command


def test_the_answer_to_a_query_stands_alone_and_is_that_of_the_compiled_model(tmp_path):
    photos, index = tmp_path / "photos", tmp_path / "index"
    put_photos(photos, range(2))
    model = ROOT / "models" / "synthetic.safetensors"
    make = ("index", "--photos", photos, "--checkpoint", model, "--output", index, "runtime.graph_mode=false")
    load_tool("search.py").main(list(map(str, make)))
    for command in (
        ("query", "--index", index, "--text", "a man", "--json", tmp_path / "plain.json"),
        ("query", "--index", index, "--text", "a man", "--json", tmp_path / "compiled.json", "runtime.graph_mode=true"),
    ):
        done = run_tool("search.py", *command)
        assert done.returncode == 0 and not re.search("MS_|WARNING|deprecated", done.stderr + done.stdout), done.stderr
    assert (tmp_path / "plain.json").read_bytes() == (tmp_path / "compiled.json").read_bytes()
