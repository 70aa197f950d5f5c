"""The search page as a workbench: look, narrow, mark, keep, hand over, in a real browser."""

import csv
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from apps.search.shape_people import caption
from commands.search_page import (
    UNFOLDED,
    description,
    names,
    opened,
    search,
    violations,
    violations_in_both_schemes,
)
from PIL import Image
from playwright.sync_api import expect
from tool_runner import load_tool

from ms_unireid.apps.search.engines.embedded import PhotoIndex
from ms_unireid.checkpoints.thresholds import Thresholds, thresholds_file, write_thresholds


def status(page):
    return page.locator(".status")


def act(page, what: str, name: str):
    return page.locator(".card").get_by_role("button", name=f"{what} {name}")


def facts(page) -> dict[str, str]:
    return dict(page.locator(".facts div").filter(has=page.locator("dt")).evaluate_all(_FACTS))


_FACTS = "all => all.map(one => [one.querySelector('dt').innerText, one.querySelector('dd').innerText])"


def handed_over(page, what: str, place: str = ".found") -> bytes:
    with page.expect_download() as download:
        page.locator(place).get_by_role("button", name=what).click()
    return Path(download.value.path()).read_bytes()


# 1. Look.


def test_a_photo_opens_large_with_what_is_known_of_it(page, people):
    search(page, caption("red"))
    act(page, "Open", "red_0.png").click()
    image = page.locator(".viewer img")
    page.wait_for_function("() => document.querySelector('.viewer img')?.naturalHeight == 192")
    expect(page.locator(".facts")).to_contain_text("Camera A")
    found = facts(page)
    assert found["Size"].startswith("64 × 192 pixels, ") and found["Taken"] == "2024-05-01T12:00:00"
    assert (found["File"], found["Folder"]) == ("red_0.png", str(people / "gallery"))
    page.wait_for_function("() => document.querySelector('.viewer img').dataset.zoom == 1")
    expect(page.locator(".viewer")).to_be_focused()  # when it has grown
    before = image.bounding_box()["width"]
    page.keyboard.press("+")
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -100)
    page.wait_for_function("() => Math.abs(document.querySelector('.viewer img').dataset.zoom - 1.25 ** 2) < 1e-9")
    assert image.bounding_box()["width"] == pytest.approx(1.25**2 * before, rel=0.02)
    page.mouse.down()
    page.mouse.move(500, 300)
    page.mouse.up()
    assert page.evaluate("document.querySelector('.viewer-frame').scrollTop") > 0
    page.keyboard.press("0")
    assert image.bounding_box()["width"] == pytest.approx(before, rel=0.02)
    shown = page.locator(".viewer .status-title")
    page.keyboard.press("ArrowRight")
    expect(shown).to_contain_text(re.compile("[23] of 16"))
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(shown).to_contain_text("1 of 16")
    expect(page.get_by_role("button", name="Previous photo")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator(".viewer")).to_have_count(0)
    expect(act(page, "Open", "red_0.png")).to_be_focused()


def test_the_heat_map_shows_where_the_model_looked(page):
    search(page, caption("blue"))
    act(page, "Open", "blue_0.png").click()
    heat = page.get_by_role("button", name="Where the model looked")
    heat.click()
    expect(heat).to_have_attribute("aria-pressed", "true")
    with page.expect_response(re.compile("kind=heat")) as answer:
        page.keyboard.press("ArrowRight")
    with Image.open(io.BytesIO(answer.value.body())) as picture:
        assert picture.size == (64, 192)


# 2. Narrow.


def test_filters_act_in_the_search(page):
    page.get_by_text("Narrow the search").click()
    page.get_by_label("Cameras").select_option(["Camera B"])
    search(page, caption("red"))
    expect(status(page)).to_contain_text("8 of 8 photos")
    assert all(name.endswith("_1.png") for name in names(page)) and names(page)[0] == "red_1.png"
    page.get_by_label("Taken until").fill("2024-05-01T23:00")
    search(page)
    expect(page.get_by_role("alert")).to_contain_text("no photo passes")
    page.get_by_label("Cameras").select_option([])
    search(page)
    expect(status(page)).to_contain_text("8 of 8 photos")
    assert all(name.endswith("_0.png") for name in names(page))
    page.get_by_label("Taken from").fill("2024-06-01T00:00")
    search(page)
    expect(page.get_by_role("alert")).to_contain_text("no time is between them")


def test_near_identical_photos_are_one_card(site, page):
    page.goto(site.address)
    search(page, caption("green"))
    expect(status(page)).to_contain_text("near-identical photos that are folded")
    assert len(names(page)) < 16
    expect(page.locator(".card").first.locator(".same")).to_have_text("+1")
    page.locator(".card .open").first.click()
    expect(page.locator(".facts")).to_contain_text("Near-identical")
    assert {facts(page)["File"], facts(page)["Near-identical"]} == {"green_0.png", "green_1.png"}


# 3. Search better.


def test_a_found_photo_joins_the_description(page):
    search(page, caption("brown"))
    act(page, "Find photos similar to", "brown_1.png").click()
    expect(status(page)).to_contain_text("for photo brown_1.png (50%) + “A person in brown")
    assert names(page)[0] == "brown_0.png" and "brown_1.png" not in names(page)
    expect(description(page)).to_have_value(caption("brown"))
    expect(page.get_by_role("slider")).to_be_enabled()
    page.get_by_role("button", name="Do not search from this photo").click()
    search(page)
    assert "brown_1.png" in names(page)


def test_marks_move_the_query(page):
    search(page, caption("orange"))
    assert not {"grey_0.png", "grey_1.png"} <= set(names(page)[:4])
    act(page, "More like", "grey_0.png").click()
    act(page, "Less like", "grey_1.png").click()
    act(page, "More like", "grey_1.png").click()  # the later mark counts
    expect(page.locator(".marks")).to_contain_text("2 like the person, 0 unlike")
    expect(page.locator(".marks")).to_contain_text("query 1.0, like 0.75, unlike -0.15")
    page.get_by_role("button", name="Refine").click()
    expect(status(page)).to_contain_text("2 marked")
    assert {"grey_0.png", "grey_1.png"} <= set(names(page)[:4])
    expect(act(page, "More like", "grey_0.png")).to_have_attribute("aria-pressed", "true")
    act(page, "Less like", "grey_0.png").click()
    expect(act(page, "More like", "grey_0.png")).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Clear the marks").click()
    expect(page.locator(".marks")).to_be_empty()


# 4. Keep.


def test_the_address_carries_the_query(page, site):
    page.get_by_text("Narrow the search").click()
    page.get_by_label("Cameras").select_option(["Camera A"])
    search(page, caption("red"))
    page.wait_for_url(re.compile("in\\+red"))
    address = page.url
    search(page, caption("blue"))
    page.wait_for_url(re.compile("in\\+blue"))
    page.go_back()
    expect(description(page)).to_have_value(caption("red"))
    expect(status(page)).to_contain_text("A person in red")
    page.go_forward()
    expect(status(page)).to_contain_text("A person in blue")
    page.reload()
    expect(status(page)).to_contain_text("8 of 8 photos for “A person in blue")
    other = page.context.browser.new_context()
    bookmarked = opened(other.new_page(), address)
    expect(status(bookmarked)).to_contain_text("8 of 8 photos for “A person in red")
    expect(bookmarked.get_by_label("Cameras")).to_have_values(["Camera A"])
    search(bookmarked, "红" * 3000)  # nine characters each in an address
    bookmarked.wait_for_url(re.compile("pictures="))
    assert len(bookmarked.url) < 100
    bookmarked.reload()
    expect(description(bookmarked)).to_have_value("红" * 3000)
    for bad in (
        "photo=0.00000000&q=a",
        "weight=7&q=a&top=3",
        "more=x&q=a",
        "q=" + "a" * 9000,
    ):
        opened(bookmarked, f"{site.address}/?{bad}")
        expect(bookmarked.locator(".status-title, .problem").first).to_be_visible()
    for wrong, told in (("person=x", "the person 'x'"), ("camera=Z", "the camera 'Z'"), ("after=x", "after 'x'")):
        opened(bookmarked, f"{site.address}/?q=a&{wrong}")
        expect(bookmarked.get_by_role("alert")).to_contain_text(told)
    opened(bookmarked, f"{site.address}/?q=a&after=2024-05-01")
    bookmarked.get_by_text("Narrow the search (1)").click()  # a day is shown as a time
    expect(bookmarked.get_by_label("Taken from")).to_have_value("2024-05-01T00:00")
    other.close()


def test_a_case_outlives_the_tab(page, site, people):
    search(page, caption("red"))
    act(page, "Keep", "red_0.png").click()
    page.get_by_label("Case", exact=True).fill("North station")
    page.get_by_role("button", name="Open", exact=True).click()
    act(page, "Keep", "red_1.png").click()
    kept = page.locator(".kept")
    expect(kept.locator("li")).to_have_count(2)
    page.get_by_label("Note on red_1.png").fill("bag fits")
    page.keyboard.press("Tab")
    page.reload()
    expect(page.get_by_label("Note on red_1.png")).to_have_value("bag fits")
    other = page.context.browser.new_context()
    second = opened(other.new_page(), site.address)
    expect(second.get_by_text("Photos that you keep appear here.")).to_be_visible()
    second.get_by_label("Case", exact=True).fill("../x")
    second.get_by_role("button", name="Open", exact=True).click()
    expect(second.get_by_role("alert")).to_contain_text("name a case with letters")
    second.get_by_label("Case", exact=True).fill("North station")
    second.get_by_role("button", name="Open", exact=True).click()
    expect(second.get_by_label("Note on red_1.png")).to_have_value("bag fits")
    second.get_by_role("button", name="Compare", exact=True).click()
    expect(second.locator(".compared img")).to_have_count(2)
    assert violations(second) == [], "compare"
    second.get_by_role("button", name="Close").click()
    table = list(csv.DictReader(io.StringIO(handed_over(second, "CSV", ".shortlist").decode())))
    assert [(Path(row["photo"]).name, row["note"]) for row in table] == [("red_0.png", ""), ("red_1.png", "bag fits")]
    second.get_by_role("button", name="Remove red_0.png").click()
    expect(second.locator(".kept li")).to_have_count(1)
    expect(page.locator(".kept li")).to_have_count(1)  # soon
    page.get_by_label("Case", exact=True).fill("")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.locator(".kept li")).to_have_count(0)
    photo = people / "gallery" / "red_1.png"
    assert os.listdir(people / "gallery").count(photo.name) == 1
    other.close()


def test_a_note_is_typed_to_its_end(page):
    search(page, caption("red"))
    act(page, "Keep", "red_0.png").click()
    note = page.get_by_label("Note on red_0.png")
    note.press_sequentially("green")
    act(page, "More like", "red_1.png").evaluate("one => one.click()")  # the page changes, the focus stays
    expect(act(page, "More like", "red_1.png")).to_have_attribute("aria-pressed", "true")
    note.press_sequentially(" bag")
    page.keyboard.press("Tab")
    act(page, "Keep", "red_1.png").evaluate("one => one.click()")
    expect(page.locator(".kept li")).to_have_count(2)
    expect(note).to_have_value("green bag")
    expect(page.get_by_label("Compare red_0.png")).to_be_focused()


def test_the_history_can_be_searched(page):
    for colour in ("red", "blue"):
        search(page, caption(colour))
    history = page.get_by_label("History", exact=True).get_by_role("button")
    expect(history).to_have_count(2)
    page.get_by_label("Search the history").fill("BLUE")
    expect(history).to_have_count(1)
    expect(history).to_contain_text("in blue")


# 5. Hand over.


def test_results_are_handed_over(page, people):
    search(page, "=a red <b>person</b>")
    shown = names(page)
    table = list(csv.DictReader(io.StringIO(handed_over(page, "CSV").decode())))
    listed = json.loads(handed_over(page, "JSON"))
    assert [Path(row["photo"]).name for row in table] == shown
    assert [Path(row["photo"]).name for row in listed["photos"]] == shown
    assert Path(listed["checkpoint"]) == people / "model.ckpt" and len(listed["checkpoint_sha256"]) == 64
    assert {"index_id", "date", "index"} <= listed.keys() and "red <b>person" in listed["photos"][0]["query"]
    sheet = handed_over(page, "Sheet to print").decode()
    assert (
        sheet.count("<article>") == 16 and "&lt;b&gt;person" in sheet and "<b>" not in sheet and "<script" not in sheet
    )
    with zipfile.ZipFile(io.BytesIO(handed_over(page, "Copies of the photos"))) as archive:
        assert len(archive.namelist()) == 18
        first = json.loads(archive.read("photos.json"))["photos"][0]
        assert archive.read(first["file"]) == (people / "gallery" / shown[0]).read_bytes()


def test_a_file_is_fetched_once_and_cannot_be_guessed(page, site):
    search(page, caption("red"))
    with page.expect_download() as download:
        page.locator(".found").get_by_role("button", name="CSV").click()
    assert re.fullmatch(rf"{site.address}/hand-over/[\w-]{{43}}", download.value.url)
    for address in (download.value.url, f"{site.address}/hand-over/x", f"{site.address}/hand-over/..%2fphoto%2f0"):
        assert page.request.get(address).status == 404


# 6. Behave.


def test_a_newer_index_is_taken_up_on_request_and_scrolled(page, people):
    update = ["index", "--output", str(people / "index"), "runtime.graph_mode=false"]
    search(page, caption("red"))
    new, copies = people / "gallery" / "new.png", people / "gallery" / "copies"
    with Image.open(people / "gallery" / "red_0.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(new)
    copies.mkdir()
    for number in range(40):  # which are not encoded
        shutil.copy(people / "gallery" / "grey_0.png", copies / f"{number}.png")
    try:
        load_tool("search.py").main(update)
        expect(page.get_by_text("The index has changed.")).to_be_visible()
        assert "new.png" not in names(page)
        page.get_by_role("button", name="Search the new one").click()
        expect(status(page)).to_contain_text("50 of 57 photos for “A person in red")
        assert "new.png" in names(page)[:3]
        cards = page.locator(".card")
        expect(cards).to_have_count(40)
        assert page.evaluate("[...document.querySelectorAll('.card img')].filter(one => one.complete).length") < 40
        cards.last.scroll_into_view_if_needed()
        expect(cards).to_have_count(50)
        expect(page.get_by_role("button", name="Show more photos")).to_be_hidden()
        expect(cards.last.locator(".rank")).to_have_text("50")
    finally:
        new.unlink()
        shutil.rmtree(copies)
        load_tool("search.py").main(update)
    expect(page.get_by_text("The index has changed.")).to_be_visible()
    page.get_by_role("button", name="Search the new one").click()
    expect(status(page)).to_contain_text("16 of 16 photos")


def test_a_whole_case_by_keyboard(page):
    """Query, open, mark, refine, shortlist, export; the focus moves by Tab alone."""
    page.keyboard.type(caption("yellow"))
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(16)
    go_to(page, "Open yellow")
    page.keyboard.press("Enter")
    expect(page.locator(".viewer")).to_be_visible()
    go_to(page, "Keep")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator(".viewer")).to_have_count(0)
    go_to(page, "More like yellow")
    page.keyboard.press("Space")
    go_to(page, "Refine", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(status(page)).to_contain_text("1 marked")
    expect(page.locator(".kept li .name")).to_contain_text("yellow")
    go_to(page, "Search", "Shift+Tab")
    go_to(page, "JSON")  # of the shortlist, whose panel follows the results
    while not page.evaluate("() => !!document.activeElement.closest('.shortlist')"):
        page.keyboard.press("Tab")
        go_to(page, "JSON")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert len(json.loads(Path(download.value.path()).read_text())["photos"]) == 1


def go_to(page, name: str, key: str = "Tab") -> None:
    """Move the focus to the next element whose name begins so."""
    for _ in range(150):
        page.keyboard.press(key)
        if page.evaluate(_NAME).startswith(name):
            return
    raise AssertionError(f"the focus does not reach {name}")


_NAME = """() => {
    const one = document.activeElement;
    return one.getAttribute("aria-label") || (one.innerText || "").split("\\n").pop();
}"""


def test_everyone_can_use_the_workbench(page):
    page.emulate_media(color_scheme="light")
    page.get_by_text("Narrow the search").click()
    page.get_by_text("What the score means").click()
    search(page, caption("red"))
    act(page, "More like", "red_0.png").click()
    act(page, "Keep", "red_1.png").click()
    expect(page.locator(".kept li")).to_have_count(1)
    assert violations_in_both_schemes(page) == [], "results, filters, marks and shortlist"
    act(page, "Open", "red_0.png").click()
    page.wait_for_function("() => document.querySelector('.viewer img')?.naturalHeight == 192")
    expect(page.locator(".viewer").get_by_role("button", name="More like this")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert violations_in_both_schemes(page) == [], "viewer"


def test_the_page_speaks_chinese_where_the_browser_does(site, browser):
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(site.address + UNFOLDED)
    page.get_by_label("描述这个人").fill(caption("red"))
    page.get_by_role("button", name="搜索", exact=True).click()
    expect(page.locator(".status")).to_contain_text("16 张照片中的 16 张")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    seen = page.locator("body").inner_text()
    assert not re.search("Search|Photos|Clear|Keep|History", seen), seen
    assert violations(page) == []
    context.close()


def test_the_address_and_photos_are_guarded(site, page):
    """Full-size photos and heat maps follow the rules of thumbnails."""
    search(page, caption("red"))
    source = page.locator(".card img").first.get_attribute("src")
    for kind, expected in (
        ("", 200),
        ("&kind=full", 200),
        ("&kind=heat", 200),
        ("&kind=file", 404),
        ("&kind=../x", 404),
    ):
        assert page.request.get(site.address + source + kind).status == expected
    wrong = re.sub("of=[0-9a-f]+", "of=00000000", source)
    assert page.request.get(f"{site.address}{wrong}&kind=full").status == 404
    assert page.request.get(f"{site.address}/photo/99?kind=full").status == 404


def test_the_page_says_who_is_probably_not_here(page, site, people, browser):
    """No description reaches this threshold; a page takes up thresholds when it is opened."""
    about = PhotoIndex(people / "index").about
    kept = {"text": {"threshold": 1.0, "per_doubling": 0.0, "photos": 16, "queries": 99}}
    thresholds = Thresholds(about["checkpoint"]["sha256"], about["model"], 0.05, "people", "val", kept)
    write_thresholds(people / "model.ckpt", thresholds)
    try:
        opened(page, site.address + UNFOLDED)
        search(page, caption("red"))
        expect(page.locator(".card").first).to_contain_text("probably not here")
        expect(page.locator(".doubtful")).to_have_count(len(names(page)))
        expect(page.locator(".status")).to_contain_text("Probably nobody of these: no photo is above the threshold.")
        expect(page.locator(".status")).to_contain_text("5% false alarms, calibrated on val of people")
        assert violations(page) == []
        page.locator(".card .open").first.click()
        expect(page.locator(".facts")).to_contain_text("probably not here")
        page.keyboard.press("Escape")
        photos = json.loads(handed_over(page, "JSON"))["photos"]
        assert {photo["probably_not_here"] for photo in photos} == {True}
        chinese = browser.new_page(locale="zh-CN")
        chinese.goto(f"{site.address}/?q={caption('red')}")
        expect(chinese.locator(".doubtful").first).to_have_text("很可能不在其中")
        expect(chinese.locator(".status")).to_contain_text("此人很可能不在其中")
        chinese.close()
    finally:
        thresholds_file(people / "model.ckpt").unlink()
