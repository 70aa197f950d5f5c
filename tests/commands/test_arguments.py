"""What can be told from arguments alone is refused in one line, before MindSpore is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from apps.search.index_factory import put_photos, update

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import importlib, json, sys
from ms_unireid.errors import UserError
told = []
for job, *arguments in json.loads(sys.argv[1]):
    try:
        importlib.import_module(f"ms_unireid.commands.{job}").main(arguments)
        told.append("done")
    except UserError as error:
        told.append(str(error))
    if "mindspore" in sys.modules:
        told[-1] += " after MindSpore was imported"
        break
print(json.dumps(told))
"""
QUERY = ("search", "query", "--index", "x.ckpt", "--text", "a man")
EVALUATE = ("evaluate", "--checkpoint", "x.ckpt")
SKETCHES = ("sketches", "--photos", "photos", "--output", "out")
TABLE = ("reproduce", "--table", "2", "--output", "out")
# Arguments, and words of the error. x.ckpt is an empty file.
WRONG = (
    ((*QUERY, "--top-k", "0"), "--top-k 0: expected at least 1"),
    ((*QUERY, "--top-k", "1.5"), "--top-k 1.5: expected a whole number"),
    ((*QUERY, "--sketch", "no.png"), "--sketch no.png: no such file"),
    ((*QUERY, "--sketch", "photos"), "--sketch photos: is a folder"),
    ((*QUERY[:4], "--photo", "no.png"), "--photo no.png: no such file"),
    ((*QUERY, "--picture", "p.png"), "picture 'p.png': expected MODALITY=PATH"),
    ((*QUERY, "--picture", "pencil=no.png"), "--picture no.png: does not exist"),
    ((*QUERY, "--weight", "0.7"), "weight 0.7: .*give both"),
    ((*QUERY, "--weight", "x"), "--weight invalid float value"),
    ((*QUERY, "--figure", "x.svg"), "--figure x.svg: expected a name that ends in .png"),
    ((*QUERY, "--json", "x.csv"), "--json x.csv: expected a name that ends in .json"),
    ((*QUERY, "--csv", "x.json"), "--csv x.json: expected a name that ends in .csv"),
    ((*QUERY, "--json", "x.ckpt/x.json"), "--json x.ckpt: cannot be written"),
    ((*QUERY, "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    (QUERY, "x.ckpt: is not an index"),
    (("search", "query", "--index", "x.ckpt", "--queries", "no.csv"), "no.csv: cannot be read"),
    (("search", "query", "--index", "x.ckpt", "--queries", "q.csv"), "q.csv: line 2: .*no.png: does not exist"),
    (("search", "query", "--index", "x.ckpt", "--queries", "q.csv", "--weight", "1"), "leave out .*--weight"),
    (("search", "query", "--index", "lost", "--text", "a man"), "model.ckpt: does not exist, and made lost"),
    (("search", "approximate", "--index", "no"), "no: is not an index"),
    (("search", "approximate", "--index", "x.ckpt", "--queries", "q.csv"), "no.png: does not exist"),
    (("search", "index", "--output", "new", "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    (("search", "index", "--output", "x.ckpt"), "--output x.ckpt: cannot be written"),
    (("search", "index", "--output", "new"), "new: a new index needs --checkpoint"),
    (("search", "index", "--output", "new", "--photos", "no"), "--photos no: no such folder"),
    (("search", "index", "--output", "new", "--split", "val"), "add --dataset"),
    (("search", "index", "--output", "new", "--dataset", "cuhk_pedes", "--root", "no"), "--root no: no such folder"),
    (("search", "index", "--output", "new", "--split", "Test"), "--split invalid choice: 'Test'"),
    (("evaluate", "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    ((*EVALUATE, "--split", "all"), "--split invalid choice"),
    ((*EVALUATE, "--target", "pku_sketch=no"), "target pku_sketch=no: no such folder"),
    ((*EVALUATE, "--target", "pku=photos"), "did you mean"),
    ((*EVALUATE, "--config", "no.yaml"), "no.yaml"),
    ((*EVALUATE, "--queries", "3"), "add --figure"),
    ((*EVALUATE, "--queries", "3", "--protocol", "missing_modality", "--figure", "x.png"), "figure of ranked lists"),
    ((*EVALUATE, "--figure", "x.gif"), "--figure x.gif: expected"),
    ((*EVALUATE, "--markdown", "x.json"), "--markdown x.json: expected a name that ends in .md"),
    ((*EVALUATE, "--json", "photos"), "--json photos: is no file"),
    ((*EVALUATE, "--errors", "x.ckpt"), "--errors x.ckpt: cannot be written"),
    (("train", "--config", "no.yaml"), "no.yaml"),
    (("train", "--config", "base", "model.pretrained=no.pt"), "no.pt: no such file"),
    ((*TABLE, "--dry-run", "--pretrained", "no.pt"), "no.pt: no such file"),
    ((*TABLE, "--dry-run", "model.pretrained=no.pt"), "no.pt: no such file"),
    ((*TABLE, "--data-root", "no"), "--data-root no: no such folder"),
    ((*TABLE, "--checkpoint-dir", "no"), "--checkpoint-dir no: no such folder"),
    ((*TABLE, "--target", "pku_sketch=no"), "no such folder"),
    (("reproduce", "--table", "x"), "table x: expected one of 2, 3, 4, 5, 6, orbench"),
    (("export", "--checkpoint", "no.ckpt", "--output", "out"), "no.ckpt: no such file"),
    (("export", "--checkpoint", "x.ckpt", "--output", "x.ckpt"), "--output x.ckpt: cannot be written"),
    (("export", "--checkpoint", "x.ckpt", "--output", "out", "--pictures", "no.png"), "--pictures no.png: no such"),
    (("convert", "no.pth", "out.ckpt", "--verify"), "no.pth: no such file"),
    (("convert", "x.ckpt", "out.pth", "--json", "x.txt"), "--json x.txt: expected"),
    ((*SKETCHES, "--workers", "0"), "--workers 0: expected at least 1"),
    ((*SKETCHES, "--evaluate", "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    ((*SKETCHES, "--preview", "x.gif"), "--preview x.gif: expected"),
    (("sketches", "--photos", "no", "--output", "out"), "--photos no: no such folder"),
    (("synthetic", "--output", "x.ckpt"), "--output x.ckpt: cannot be written"),
    (("verify", "--dataset", "cuhk_pedes", "--root", "no", "--json", "x.md"), "--json x.md: expected"),
    (("app", "--index", "x.ckpt", "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    (("app", "--index", "x.ckpt", "--port", "0"), "x.ckpt: is not an index"),
    (("app", "--index", "lost", "--port", "0"), "model.ckpt: does not exist, and made lost"),
    (("app", "--index", "lost", "--host", "0.0.0.0"), "add --allow-remote"),
    (("app", "--index", "lost", "--port", "70000"), "expected 1 to 65535"),
    (("benchmark", "precision", "--root", "no"), "--root no: no such folder"),
    (("benchmark", "precision", "--rounds", "0"), "--rounds 0: expected at least 1"),
    (("benchmark", "precision", "--checkpoint", "no.ckpt"), "no.ckpt: no such file"),
    (("benchmark", "encode", "--root", "no"), "--root no: no such folder"),
    (("benchmark", "search", "--json", "x.md"), "--json x.md: expected"),
    (("benchmark", "document", "no.json"), "no.json: no such file"),
)  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[str]:
    """Run all wrong commands in one process, and return their errors."""
    folder = tmp_path_factory.mktemp("arguments")
    put_photos(folder / "photos", range(1))
    update(folder / "lost", folder / "photos")
    (folder / "model.ckpt").unlink()
    (folder / "x.ckpt").write_bytes(b"")
    (folder / "q.csv").write_text("sketch\nno.png\n", encoding="utf-8")
    before = sorted(folder.glob("*"))
    command = [sys.executable, "-c", CHILD, json.dumps([arguments for arguments, _ in WRONG])]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and sorted(folder.glob("*")) == before, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("number", "words"), [(n, words) for n, (_, words) in enumerate(WRONG)])
def test_a_wrong_argument(told, number, words):
    assert re.search(words, told[number])
