"""The documentation: both READMEs agree, what is linked exists, and the version is one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tool_runner import ROOT

import ms_unireid
from ms_unireid.commands.main import JOBS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CELL_END = re.compile(r"(?<!\\)\|")
CHINESE = [ROOT / "README_CN.md", *(ROOT / "docs").glob("*.zh.md")]


def english_of(page: Path) -> Path:
    return page.with_name(page.name.replace("_CN.md", ".md").replace(".zh.md", ".md"))


FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)


def blocks(text: str) -> list[str]:
    """Return the fenced blocks without comments, whose language is the page's."""
    return [re.sub(r"[ \t]*(?<!\S)#.*", "", block) for _, block in FENCED.findall(text)]


def without_blocks(text: str) -> str:
    return FENCED.sub("", text)


def targets(text: str) -> list[str]:
    """Return where links and pictures lead, in order."""
    found = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", without_blocks(text))
    return ["".join(pair) for pair in found]


def shape(text: str) -> list[str]:
    """Return what both languages must have alike beside blocks: levels of headings, rows of tables and their cells."""
    kinds = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if fenced:
            continue
        if found := re.match(r"#+ ", line):
            kinds.append(found[0])
        elif line.startswith("|"):
            kinds.append(f"row of {len(CELL_END.findall(line)) - 1}")
    return kinds


def numbers(text: str) -> list[list[str]]:
    """Return the numbers of each row of the tables; sentences have them in another order."""
    rows = (line for line in text.splitlines() if line.startswith("|"))
    return [sorted(re.findall(r"\d+(?:\.\d+)*", row)) for row in rows]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    titles = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_says_what_the_english_one_says(page):
    chinese, english = (file.read_text(encoding="utf-8") for file in (page, english_of(page)))
    assert shape(chinese) == shape(english)
    assert blocks(chinese) == blocks(english) and numbers(chinese) == numbers(english)
    plain = [target.replace(".zh.md", ".md") for target in targets(chinese)]
    swapped = {"README.md": "README_CN.md"} if page.name == "README_CN.md" else {}
    assert sorted(swapped.get(target, target) for target in plain) == sorted(targets(english))
    assert re.search("[\u4e00-\u9fff]", chinese)


def test_the_comparison_of_languages_sees_what_differs():
    assert shape("# a\n\n|a|b|\n") == ["# ", "row of 2"] != shape("## a\n\n|a|b|\n")
    assert blocks("```\nmake x  # one\n```\n") == blocks("```\nmake x  # 一\n```\n") != blocks("```\nmake y\n```\n")
    assert targets("[a](b.md) ![c](d.png)") == ["b.md", "d.png"]


def build_site(config: Path, site: Path) -> subprocess.CompletedProcess:
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    environment = os.environ | blocked | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["gone.md", "index.md#gone", "docs/gone.png"])
def test_a_broken_link_builds_no_site(link, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n[to]({link})\n", encoding="utf-8")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("plugins:")[0]
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    done = build_site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1 and f"link '{link}'" in done.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_network_and_loads_nothing_from_elsewhere(tmp_path):
    """Strictly: a broken link, anchor or docstring fails. Costs 15 seconds."""
    done = build_site(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    built = {file.relative_to(tmp_path / "site").as_posix(): file for file in (tmp_path / "site").rglob("*.html")}
    pages = {page.relative_to(ROOT / "docs").stem for page in (ROOT / "docs").glob("*.md") if ".zh." not in page.name}
    assert {f"{folder}{name}.html" for folder in ("", "zh/") for name in pages} <= built.keys()
    for name, file in built.items():
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]*\brel=\"?(?:stylesheet|preconnect|icon)[^>]*\bhref=\"?([^\" >]+)", text)
        assert loaded and not [found for found in loaded if found.startswith(("http:", "https:", "//"))], name
    assert "第一次训练" in built["zh/first_training.html"].read_text(encoding="utf-8")
    assert "encode_image" in built["reference.html"].read_text(encoding="utf-8")
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {"first_search.html", "zh/first_search.html"} <= {entry["location"] for entry in index["docs"]}
    # Without it a Chinese sentence is one word to the search.
    assert [part for part in re.split(index["config"]["separator"], "草图 a_man") if part] == ["草", "图", "a", "man"]


def test_the_table_of_jobs_has_all_jobs():
    rows = re.findall(
        r"^\|[^|]*\| `([\w-]+)` \| `(\w+\.py)` \|", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M
    )
    assert {job for job, _ in rows} == set(JOBS)
    assert {tool for _, tool in rows} == {path.name for path in (ROOT / "tools").glob("[a-z]*.py")}


def test_how_it_works_names_functions_that_exist():
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    files = re.findall(r"`([\w/]+\.py)`", "\n".join(rows))
    code = "".join((ROOT / "ms_unireid" / file).read_text(encoding="utf-8") for file in files)
    code += (ROOT / "ms_unireid/models/unireid.py").read_text(encoding="utf-8")
    names = [name.rpartition(".")[2] for name in re.findall(r"`([A-Za-z_.]+)`", "\n".join(rows)) if ".py" not in name]
    assert len(files) > 6 and len(names) > 15
    assert not [name for name in names if not re.search(rf"(?:def|class) {name}\b", code)]


def test_the_picture_of_the_data_sets_has_the_size_that_its_script_draws(tmp_path):
    script = ROOT / "docs/pictures/datasets.py"
    shutil.copy(script, tmp_path)
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    subprocess.run([sys.executable, tmp_path / script.name], env=os.environ | {"PYTHONPATH": python_path}, check=True)
    with Image.open(tmp_path / "datasets.png") as drawn, Image.open(script.with_suffix(".png")) as shown:
        assert drawn.size == shown.size


def test_every_page_shows_a_command_before_its_first_section():
    for page in (ROOT / "docs").glob("*.md"):
        assert FENCED.search(page.read_text(encoding="utf-8").partition("\n## ")[0]), page.name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in targets(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(english_of(file)) | anchors(file), f"{page.name}: {target}"


def test_the_version_is_one():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert cited["version"] == newest == ms_unireid.__version__
