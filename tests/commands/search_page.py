"""Starts the search page, and uses it in a real browser."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apps.search.shape_people import PEOPLE
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, Playwright, expect
from tool_runner import LIMIT, ROOT, command

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A container has no sandbox and little shared memory.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
PATIENCE = 60_000  # milliseconds
UNFOLDED = "/?fold=0"  # two photos of a person look nearly the same


@dataclass
class Served:
    """A running page.

    Attributes:
        address: The URL that it printed.
        folder: Its working directory, initially empty.
        process: The tool.
    """

    address: str
    folder: Path
    process: subprocess.Popen


# Starts the page as its tool does; it looks for a newer index each second, so that tests do not wait for it.
_ATTENTIVE = (
    "import sys; sys.path.insert(0, {root!r})\n"
    "from ms_unireid.apps.web import page\n"
    "page._LOOK_AGAIN = 1.0\n"
    "from ms_unireid.commands.main import run\n"
    "run('app')"
)


@contextlib.contextmanager
def served(
    index: Path, folder: Path, *arguments: object, attentive: bool = False, **environment: str
) -> Iterator[Served]:
    """Start the page, wait until it is ready, and stop it with SIGINT; it must not log errors."""
    folder.mkdir()
    log_file = folder.parent / f"{folder.name}.txt"
    with log_file.open("w", encoding="utf-8") as log:
        line = command("app.py", "--index", index, "--port=0", *arguments)
        if attentive:
            line[1:2] = ["-c", _ATTENTIVE.format(root=str(ROOT))]
        process = subprocess.Popen(
            line, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | environment
        )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), log_file.read_text(encoding="utf-8")
        yield Served(address, folder, process)
        process.send_signal(signal.SIGINT)
        code = process.wait(LIMIT)
        # While a model runs MindSpore turns SIGINT into SIGTERM.
        stopped = {128 + signal.SIGINT, 128 + signal.SIGTERM}
        assert code in stopped, (code, log_file.read_text(encoding="utf-8"))
    finally:
        process.kill()
        process.wait()
    errors = log_file.read_text(encoding="utf-8")
    assert "Traceback" not in errors and "ERROR" not in errors, errors


def launch(playwright: Playwright) -> Browser:
    """Start a browser that is installed, or Playwright's own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        return playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
    except Error as error:
        raise RuntimeError("no browser to test the page with; get one with: make browser") from error


def opened(page: Page, address: str) -> Page:
    """Open the page and wait until it can be used."""
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.goto(address)
    description(page).wait_for()
    return page


def description(page: Page):
    """Return the field for the description."""
    return page.get_by_label("Describe the person")


def search(page: Page, text: str | None = None) -> None:
    """Search, for a description if one is given, and wait for the result."""
    if text is not None:
        description(page).fill(text)
    before = page.locator(".status").inner_html()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_function(_DONE, arg=before)


# The status gets new elements each time, even with the same text.
_DONE = """before => {
    const now = document.querySelector(".status").innerHTML;
    return now != before && !now.includes("Searching");
}"""


def draw(page: Page, colour: str) -> None:
    """Draw a person's shape with the mouse."""
    for stroke in PEOPLE[colour][2]:
        pull(page, *stroke)


def pull(page: Page, *points: tuple[float, float]) -> None:
    """Pull the chosen tool over the sheet of 128 x 384."""
    page.locator(".paper").scroll_into_view_if_needed()
    sheet = page.locator(".paper").bounding_box()
    scale = sheet["width"] / 128
    places = [(sheet["x"] + x * scale, sheet["y"] + y * scale) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def names(page: Page) -> list[str]:
    """Return the file names of the photos shown, best first."""
    return page.locator(".card .name").all_inner_texts()


# With its checks beyond the standards; only the strictest contrast is left out.
_AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"]}
# All that the scheme changes are colours.
_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


def settle(page: Page) -> None:
    """Wait until nothing moves."""
    page.wait_for_function("document.getAnimations().every(one => one.playState == 'finished')")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds, and what has no name; elements that move or fade are shown at their end."""
    return _found(page, _AXE) + page.evaluate(_NAMELESS)


def violations_in_both_schemes(page: Page) -> list[str]:
    """Return what `violations` finds in the light scheme, and where colours are too near in the dark one."""
    found = violations(page)
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {one}" for one in _found(page, _COLOURS)]
    page.emulate_media(color_scheme="light")
    return found


def _found(page: Page, options: dict) -> list[str]:
    settle(page)
    found = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


# What takes the focus but has no role of its own, or no name.
_NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, summary, a, [tabindex='0']")]
    .filter(one => one.checkVisibility() && one.tabIndex >= 0)
    .filter(one => !(one.matches("input, select, textarea, button, summary, a[href]") || one.role)
        || !(one.ariaLabel || one.labels?.[0]?.innerText || one.innerText))
    .map(one => one.outerHTML)"""
