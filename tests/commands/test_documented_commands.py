"""Every command of README and docs is right: options and settings exist, and what needs only the demo's data runs.

The demo's data are fewer here, and trainings take a tiny model. Costs a minute and a half of processor time.
"""

import importlib
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_documentation import CHINESE, FENCED, PAGES, without_blocks
from test_installation import extras
from tool_runner import ROOT, TINY, load_tool

from ms_unireid.apps.export import exporting
from ms_unireid.commands.main import JOBS
from ms_unireid.config import load_config

# What a command needs beside the demo's data, by the words that tell. Such a command is not run but read by its parser.
NEEDS = {
    "an environment of its own": r"\.venv-.*",
    "data, photos or captions of the user": "FOLDER|DATA|DIR|PHOTOS|SKETCHES|people|data|.*/photos|s3:.*|captions.json",
    "an index, a picture or a file of the user": "INDEX|runs/people_index|parts/.*|sketch.png|FILE|examples.csv|URI",
    "weights that others published": r"ViT-B-16\.pt|average_best\.pth|checkpoints|mindnlp:.*",
    "a run of the user": r"runs/(?!short/|slower/|detached/).*\.ckpt|runs/cuhk|RUN|[AB]\.ckpt|CKPT",
    "an accelerator, or several processes": r"configs/devices/(ascend|gpu)\.yaml|runtime.device=Ascend|msrun",
    "an hour, or a quiet machine": r"--seeds|configs/synthetic/modalities\.yaml|memory|precision",
    "minutes, in tests/commands/test_doctor.py and tests/apps/checks": r".*doctor\.py",
    "a server, a cluster or a browser": r".*app\.py|http:.*|ray",
}
SMALLER = {
    "train.py": [*TINY, "data.augment.pad=0", "train.epochs=1", "train.warmup_steps=3", "runtime.graph_mode=false"],
    "make_synthetic.py": ["--train-identities=8", "--val-identities=2", "--test-identities=6", "--photos=2", "--force"],
    "evaluate.py": ["runtime.graph_mode=false"],
    "search.py": ["runtime.graph_mode=false"],
    "show_batch.py": ["data.batch_size=4"],
    "benchmark.py": ["--photos=1000", "--rounds=1"],
}
STANDS_FOR = {"...": "smoke", "FILE": "file.json", "N": "2", "URI": "photos.db"}
TOOL = re.compile(r"tools/(\w+\.py)")
OTHERS = {"pip", "python", "python3", "ssh", "export", "docker", "ray", "head", "."}
BEGINS = re.compile(
    r" *(?:[A-Z_]+=\S+ |\.venv\S* )?(?:pip|python3?|ssh|export|docker|ray|head|\.|make|unireid|msrun|tools/\S+) \S"
)


def documented() -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of each command of the blocks, and of each in the text that begins like one."""
    for page in PAGES:
        if page in CHINESE:  # has those of the English page: test_documentation
            continue
        text = page.read_text(encoding="utf-8")
        blocks = "".join(block for language, block in FENCED.findall(text) if not language)
        lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
        lines += re.findall(r"`((?:python tools/|make |unireid )[^`]+)`", without_blocks(text))
        for line in lines:
            if BEGINS.match(line):
                yield page.name, shlex.split(line, comments=True)


def ours(words: list[str]) -> tuple[str, ...]:
    """Return the tool of a command and its arguments; nothing if it is another program."""
    place = next((place for place, word in enumerate(words) if TOOL.fullmatch(word)), None)
    if place is None:
        return ()
    arguments = [word if "=" in word else word.strip("[]") for word in words[place + 1 :]]  # [--option] may be left out
    return TOOL.fullmatch(words[place])[1], *(STANDS_FOR.get(word, word) for word in arguments)


def need(words: list[str]) -> str | None:
    parts = {part for word in words for part in (word, word.partition("=")[2])}
    return next((why for why, known in NEEDS.items() if any(re.fullmatch(known, part) for part in parts)), None)


COMMANDS = [(page, words) for page, words in documented() if "NAME.py" not in " ".join(words)]
TOOLS = {ours(words): words for _, words in COMMANDS if len(ours(words)) > 1}  # each once
RUN = [command for command, words in TOOLS.items() if need(words) is None]
READ = [command for command in TOOLS if command not in RUN]


def test_commands_of_all_kinds_are_found():
    assert len(COMMANDS) > 150 and len(RUN) > 15 and len(READ) > 60
    words = {word for command in TOOLS.values() for word in command}
    assert {need([word]) for word in words} == {None, *NEEDS}


@pytest.mark.parametrize("command", READ, ids=" ".join)
def test_a_command_that_needs_more_is_read_by_its_parser(command, monkeypatch):
    tool, *arguments = command
    monkeypatch.chdir(ROOT)
    module = load_tool(tool)
    importlib.import_module("fsspec")  # looks for its config
    for asked in ("exists", "isfile", "isdir"):
        monkeypatch.setattr(os.path, asked, lambda path: True)
    options = module._parse(arguments)
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    overrides = getattr(options, "overrides", [])
    if overrides:
        files = getattr(options, "config", None)
        load_config(files if tool in ("train.py", "show_batch.py") else None, overrides)


@pytest.mark.parametrize(("page", "words"), [(page, words) for page, words in COMMANDS if not ours(words)])
def test_what_is_no_tool_exists(page, words):
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^[\w ]*\b{re.escape(target)}\b[\w ]*:", makefile, re.M) for target in targets)
    elif words[0] == "unireid":
        assert words[1] in {*JOBS, "JOB", "--help", "--version"}
    elif "tutorials/" in " ".join(words):
        tutorial = ROOT / words[1]
        assert tutorial.exists() and tutorial.stem in (ROOT / "tests/test_tutorials.py").read_text(encoding="utf-8")
    else:
        assert words[0] in OTHERS or words[0].startswith(".venv-")
        asked = re.findall(r"\[(\w+)\]", " ".join(words)) if "install" in words else []
        assert set(asked) <= extras().keys()
        files = [word for previous, word in itertools.pairwise(words) if previous in ("-r", "-c")]
        assert all((ROOT / file).exists() for file in files if file.endswith(".txt"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """Return a folder as a checkout after `make demo` and `make app`, with fewer people."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "models"):
        (folder / name).symlink_to(ROOT / name)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for data in ("data/demo", "data/app"):
            load_tool("make_synthetic.py").main(["--output", data, *SMALLER["make_synthetic.py"]])
        model = "models/synthetic.safetensors"
        gallery = ["--dataset", "cuhk_pedes", "--root", "data/app", "--split", "test", "--checkpoint", model]
        load_tool("search.py").main(["index", *gallery, "--output", "runs/app", *SMALLER["search.py"]])
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("command", RUN, ids=" ".join)
def test_a_command_runs_on_the_demo(command, demo, monkeypatch, capfd):
    """In the order of the pages: a command may need what an earlier one has made."""
    monkeypatch.chdir(demo)
    # What exports are compared with is compiled in test_export_model.py.
    monkeypatch.setattr(exporting, "_EXPORTED_FORM", (*exporting._EXPORTED_FORM, "runtime.graph_mode=false"))
    tool, *arguments = command
    overrides = [place for place, word in enumerate(arguments, 1) if re.match(r"\w+\.\w+=", word)]
    place = max(overrides, default=len(arguments))  # overrides stand together
    load_tool(tool).main([*arguments[:place], *SMALLER.get(tool, []), *arguments[place:]])
    said = capfd.readouterr()
    assert said.out and "Traceback" not in said.err
    written = [word for before, word in itertools.pairwise(arguments) if before in ("--figure", "--output")]
    assert all(Path(file).exists() for file in written)
