"""An index that tests of the command line and of the page search, and the page in a real browser."""

from pathlib import Path

import pytest
from tool_runner import load_tool


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """Return a folder with an index of photos, `index`, that a tiny model finds by words and drawings."""
    from apps.search.shape_people import make_checkpoint, put_gallery

    folder = tmp_path_factory.mktemp("people")
    checkpoint = make_checkpoint(folder / "model.ckpt")
    photos = put_gallery(folder / "gallery")
    made = ("index", "--photos", photos, "--checkpoint", checkpoint, "--output", folder / "index")
    load_tool("search.py").main([*map(str, made), "runtime.graph_mode=false"])
    return folder


@pytest.fixture(scope="module")
def site(people, tmp_path_factory):
    """Serve the page, by a model that is not compiled."""
    from commands.search_page import served

    folder = tmp_path_factory.mktemp("site")
    arguments = ("--cases", folder / "cases", "runtime.graph_mode=false")
    with served(people / "index", folder / "here", *arguments, attentive=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser(site):
    """Start a browser."""
    from commands.search_page import launch
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser):
    """Return what all tabs share: the browser keeps the page's scripts."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, locale="en-GB")
    yield context
    context.close()


@pytest.fixture
def page(site, context):
    """Return a new user's page; it must not load anything from other hosts or report errors."""
    from commands.search_page import UNFOLDED, opened

    page = context.new_page()
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield opened(page, site.address + UNFOLDED)
    page.close()
    assert {
        url for url in requested if not url.startswith((site.address, "data:", "blob:", "ws" + site.address[4:]))
    } == set()
    assert errors == []
