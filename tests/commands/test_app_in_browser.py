"""The search page in a real browser: type, draw, upload, search; by mouse, keyboard and finger; 20 users at once."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from apps.search.shape_people import PEOPLE, caption, drawing
from apps.web.hostile_uploads import HOSTILE, encoded, sketched, still
from commands.search_page import (
    PATIENCE,
    UNFOLDED,
    description,
    draw,
    names,
    opened,
    pull,
    search,
    served,
    settle,
    violations,
    violations_in_both_schemes,
)
from PIL import Image, ImageOps
from playwright.sync_api import expect
from tool_runner import load_tool
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

USERS = 20


def first(page) -> str:
    """Return the colour of the first person."""
    return names(page)[0].split("_")[0]


def upload(page, content: bytes, name: str = "sketch.png", button: str = "Upload a sketch") -> None:
    expect(page.locator(".q-uploader__file")).to_have_count(0)  # the page accepts one upload at a time
    file = page.locator(f".q-uploader[aria-label='{button}'] input")
    file.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def uploads(page):
    """Return the items of the list of uploads."""
    return page.get_by_role("list", name="Uploads").get_by_role("listitem")


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def problem(page):
    return page.get_by_role("alert")


# 1. Searching.


def test_it_finds_the_described_person(page):
    expect(page.get_by_text("16 photos to search")).to_be_visible()
    for colour in ("red", "grey"):
        description(page).fill(caption(colour))
        description(page).press("Enter")
        expect(page.locator(".status")).to_contain_text(f"16 of 16 photos for “{caption(colour)}”"[:40])
        assert {name.split("_")[0] for name in names(page)[:2]} == {colour}
    assert page.locator(".card .rank").all_inner_texts() == [str(rank) for rank in range(1, 17)]
    scores = [float(score) for score in page.locator(".card .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.8
    sizes = page.locator(".card img").evaluate_all("all => all.map(one => [one.complete, one.naturalHeight])")
    assert sizes[:4] == [[True, 192]] * 4


def test_it_finds_the_drawn_person(page):
    for colour in ("blue", "orange"):
        draw(page, colour)
        search(page)
        assert first(page) == colour
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".paper polyline")).to_have_count(0)


def test_undo_removes_a_stroke(page):
    draw(page, "blue")
    expect(page.locator(".paper polyline")).to_have_count(2)
    press(page, "Undo")
    expect(page.locator(".paper polyline")).to_have_count(1)
    press(page, "Undo")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    press(page, "Redo")
    expect(page.locator(".paper polyline")).to_have_count(1)
    press(page, "Clear")
    expect(page.locator(".paper polyline")).to_have_count(0)
    press(page, "Undo")
    expect(page.locator(".paper polyline")).to_have_count(1)
    expect(page.get_by_role("img", name="Sheet to draw the person on: 1 strokes")).to_be_visible()


def test_it_draws_with_three_pens_and_an_eraser(page):
    """The tools stay above the sheet, which is as large as the window allows."""
    sheet, tools = page.locator(".paper").bounding_box(), page.get_by_role("group", name="Drawing tools")
    assert sheet["width"] >= 280 and sheet["height"] == pytest.approx(3 * sheet["width"], rel=0.01)
    lines = page.locator(".paper polyline")
    for number, (name, width) in enumerate((("Medium pen", "3"), ("Thin pen", "1.5"), ("Thick pen", "6"))):
        if number:
            page.get_by_role("button", name=name).focus()
            page.keyboard.press("Space")
        expect(tools.locator("[aria-pressed=true]")).to_have_attribute("aria-label", name)
        pull(page, (20, 100 + 80 * number), (110, 100 + 80 * number))
        expect(lines.nth(number)).to_have_attribute("stroke-width", width)
        expect(lines).to_have_count(number + 1)
    assert tools.bounding_box()["y"] >= 0, "still in sight"
    press(page, "Eraser")
    pull(page, (64, 60), (64, 360))
    expect(lines).to_have_count(6)
    press(page, "Undo")
    expect(lines).to_have_count(3)


def test_a_picture_below_the_sheet_is_drawn_over_and_not_searched(page, people):
    upload(page, (people / "gallery" / "green_1.png").read_bytes(), button="Draw over a picture")
    expect(page.locator(".paper image")).to_have_count(1)
    search(page)
    expect(problem(page)).to_contain_text("Nothing to search for yet")
    draw(page, "blue")
    search(page)
    assert first(page) == "blue"
    press(page, "Undo")
    press(page, "Clear")
    expect(page.locator(".paper image")).to_have_count(1)
    press(page, "Remove the picture below")
    expect(page.locator(".paper image")).to_have_count(0)
    expect(page.get_by_role("button", name="Draw over a picture")).to_be_focused()


def test_the_weight_decides_between_words_and_drawing(page):
    slider = page.get_by_role("slider")
    expect(slider).to_be_disabled()
    description(page).fill(caption("purple"))
    draw(page, "red")
    expect(slider).to_be_enabled()
    for key, share, colour in (("Home", "pictures 0%", "purple"), ("End", "pictures 100%", "red")):
        slider.press(key)
        expect(page.locator(".weight")).to_contain_text(share)
        expect(slider).to_have_attribute("aria-valuetext", re.compile(share))
        search(page)
        assert first(page) == colour


def searched(page) -> Image.Image:
    """Return the first upload as it is searched."""
    url = page.locator(".uploads img").first.get_attribute("src")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


@contextlib.contextmanager
def changing(page):
    """Wait until the first upload is another picture."""
    image = page.locator(".uploads img").first
    before = image.get_attribute("src")
    yield
    expect(image).not_to_have_attribute("src", before)


def tick(page, value):
    box = page.get_by_role("checkbox", name="Search sketches as they are")
    box.click()  # the server answers before its state changes
    expect(box).to_be_checked(checked=value)


def test_it_finds_uploaded_sketches_and_photos(page, people):
    gallery = people / "gallery"
    upload(page, (gallery / "green_1.png").read_bytes(), button="Search with a photo")
    expect(uploads(page)).to_have_count(1)
    expect(page.get_by_role("img", name="photo 1 as it is searched")).to_be_visible()
    search(page)
    assert names(page)[0] == "green_1.png" and page.locator(".card .score").first.inner_text() == "1.000"
    expect(page.locator(".status")).to_contain_text("for uploaded photo")
    press(page, "Remove photo 1")
    expect(page.get_by_role("button", name="Upload a sketch")).to_be_focused()
    for number in (1, 2):
        upload(page, encoded(drawing("orange", number), "PNG"))
        expect(uploads(page)).to_have_count(number)
    draw(page, "orange")
    search(page)
    assert first(page) == "orange"
    expect(page.locator(".status")).to_contain_text("for drawing + 2 uploaded sketches")
    press(page, "Remove sketch 1")
    expect(uploads(page)).to_have_text([re.compile("Sketch 1")])
    expect(page.get_by_role("button", name="Remove sketch 1")).to_be_focused()


def test_at_most_five_pictures_are_uploaded(page):
    for number in range(1, 6):
        upload(page, sketched(), button=("Upload a sketch", "Search with a photo")[number % 2])
        expect(uploads(page)).to_have_count(number)
    upload(page, sketched())
    expect(problem(page)).to_contain_text("At most 5 pictures can be uploaded. Remove one.")
    expect(uploads(page)).to_have_count(5)


def test_an_upload_is_cropped_by_pointer_or_keyboard(page):
    """Of a sheet with one colour on the left and another on the right."""
    sides = Image.new("RGB", (100, 300), "red")
    sides.paste("blue", (50, 0, 100, 300))
    upload(page, encoded(sides, "PNG"), button="Search with a photo")
    expect(uploads(page)).to_have_count(1)
    assert ends(page) == ["red", "blue"]
    crop, dialog = page.get_by_role("button", name="Crop photo 1"), page.get_by_role("dialog", name="Crop photo 1")
    crop.focus()
    page.keyboard.press("Enter")
    dialog.get_by_role("slider", name="Left").press("End")
    expect(dialog.get_by_role("slider", name="Right")).to_have_value("100")
    expect(dialog.get_by_role("slider", name="Left")).to_have_attribute("aria-valuetext", "95 %")
    assert violations(page) == []
    with changing(page):
        dialog.get_by_role("button", name="Apply").press("Enter")
    expect(dialog).to_be_hidden()
    expect(crop).to_be_focused()
    assert ends(page) == ["blue", "blue"]
    crop.click()
    settle(page)  # the dialog grows
    sheet = page.locator(".crop-sheet").bounding_box()
    page.mouse.move(sheet["x"] + 0.1 * sheet["width"], sheet["y"] + 0.2 * sheet["height"])
    page.mouse.down()
    page.mouse.move(sheet["x"] + 0.4 * sheet["width"], sheet["y"] + 0.9 * sheet["height"], steps=4)
    page.mouse.up()
    expect(dialog.get_by_role("slider", name="Right")).to_have_value("40")
    expect(dialog.get_by_role("slider", name="Top")).to_have_value("20")
    with changing(page):
        dialog.get_by_role("button", name="Apply").click()
    expect(dialog).to_be_hidden()
    assert ends(page) == ["red", "red"]
    crop.click()
    dialog.get_by_role("slider", name="Right").press("End")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert ends(page) == ["red", "red"]


def ends(page) -> list[str]:
    """Return the colours at the left and right end of the first upload as it is searched."""
    picture = searched(page)
    return ["red" if picture.getpixel((x, 9))[0] > 128 else "blue" for x in (0, picture.width - 1)]


def test_each_tab_has_its_own_history(page, site):
    history = page.get_by_label("History").get_by_role("button")
    expect(history).to_have_count(0)
    draw(page, "blue")
    search(page)
    page.get_by_role("button", name="Clear").click()
    search(page, caption("green"))
    expect(history).to_have_count(2)
    page.reload()
    expect(history).to_have_text([f"history“{caption('green')}”", "historydrawing"])
    history.nth(1).click()
    expect(page.locator(".status")).to_contain_text("for drawing")
    assert first(page) == "blue"
    expect(page.locator(".paper polyline")).to_have_count(2)
    expect(description(page)).to_have_value("")
    other = opened(page.context.new_page(), site.address)
    expect(other.get_by_text("Your queries appear here.")).to_be_visible()


# 2. Ways of using it.


def test_it_works_with_the_keyboard_only(page):
    expect(description(page)).to_be_focused()
    page.keyboard.type(caption("yellow"))
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(16)
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(_FOCUSED))
        if "Find photos similar to yellow" in seen[-1][0]:
            break
    labels = [label for label, _ in seen]
    assert any("Upload a sketch" in label for label in labels) and "Search" in labels, labels
    assert "Find photos similar to yellow" in labels[-1], labels
    buttons = [ring for label, ring in seen if any(word in label for word in ("Search", "Upload", "similar"))]
    assert all("3px" in ring for ring in buttons), seen
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_contain_text("for photo yellow")


_FOCUSED = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    const name = one.getAttribute("aria-label") || one.innerText.split("\\n").pop();
    return [name, style.boxShadow];
}"""


def test_it_fits_a_phone_and_a_finger(site, browser):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = opened(context.new_page(), site.address)
    page.locator(".paper").scroll_into_view_if_needed()
    sheet, scrolled = page.locator(".paper").bounding_box(), page.evaluate("scrollY")
    assert sheet["height"] <= 0.71 * 740
    scale = sheet["width"] / 128
    touch = context.new_cdp_session(page)
    places = [(sheet["x"] + 64 * scale, sheet["y"] + y * scale) for y in range(20, 361, 34)]  # the stroke of red
    for kind, place in (("touchStart", places[0]), *(("touchMove", place) for place in places[1:]), ("touchEnd", None)):
        points = [{"x": place[0], "y": place[1]}] if place else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator(".paper polyline")).to_have_count(1)
    assert page.evaluate("scrollY") == scrolled, "the finger draws, it does not scroll"
    search(page)
    expect(page.locator(".card").first).to_be_in_viewport()
    assert first(page) == "red"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_everyone_can_use_it(page):
    """Axe-core looks at the page in four states."""
    page.emulate_media(color_scheme="light")
    assert violations_in_both_schemes(page) == [], "at the start"
    description(page).fill(caption("red"))
    draw(page, "red")
    search(page)
    assert violations_in_both_schemes(page) == [], "results, weight and a whole path"
    upload(page, sketched())
    expect(uploads(page)).to_have_count(1)
    upload(page, sketched(), button="Draw over a picture")
    press(page, "Eraser")
    press(page, "Invert sketch 1")
    expect(page.locator(".sketch [aria-pressed=true]")).to_have_count(2)
    assert violations_in_both_schemes(page) == [], "upload, guide and pressed buttons"
    press(page, "Remove sketch 1")
    press(page, "Clear")
    search(page, " ")
    assert violations_in_both_schemes(page) == [], "problem"


def test_an_upload_is_prepared_unless_it_is_to_stay(page):
    dark = ImageOps.invert(Image.open(io.BytesIO(sketched())).convert("L"))
    upload(page, encoded(dark, "PNG"))
    expect(page.get_by_text("sketch 1: light lines on a dark ground were inverted")).to_be_visible()
    tick(page, True)
    expect(page.get_by_text("were inverted")).to_have_count(0)
    assert searched(page).getpixel((0, 0)) == (0, 0, 0)
    with changing(page):
        press(page, "Invert sketch 1")
    assert searched(page).getpixel((0, 0)) == (255, 255, 255)
    expect(page.get_by_role("button", name="Invert sketch 1")).to_have_attribute("aria-pressed", "true")
    tick(page, False)
    upload(page, still())
    expect(problem(page)).to_contain_text("nothing is drawn")
    expect(uploads(page)).to_have_count(1)


def test_the_latest_query_is_answered(page):
    for _ in range(2):
        for text in (caption("red"), caption("blue"), "", caption("grey"), caption("green")):
            description(page).fill(text)
            description(page).press("Enter", no_wait_after=True)
        expect(page.locator(".status")).to_contain_text(f"for “{caption('green')}"[:40])
        assert first(page) == "green"
        search(page, caption("orange"))
        assert first(page) == "orange", "no older answer comes later"


# 3. Errors.


def test_every_text_gets_a_result_or_an_error(page):
    search(page, caption("red"))
    shown = names(page)
    search(page, "   ")
    expect(problem(page)).to_contain_text(
        "Nothing to search for yet: type a description, draw, or upload a sketch or a photo."
    )
    search(page, "x" * 10_001)
    expect(problem(page)).to_contain_text("10,001 characters; the limit is 10,000")
    assert names(page) == shown, "earlier results stay visible"
    search(page, "a man in red " * 769)
    expect(page.locator(".note")).to_contain_text("reads the first 22 tokens, up to “… man in red a man”")
    search(page, "🧥👖 <script>alert(1)</script> ' \" \\ %s {x} \u202e \x00")
    expect(page.locator(".status")).to_contain_text("🧥👖 <script>alert(1)</script>")
    expect(page.locator(".card")).to_have_count(16)
    expect(problem(page)).to_have_count(0)


def test_bad_uploads_are_refused_and_good_ones_still_work(page, site):
    for name, (content, reason) in HOSTILE.items():
        upload(page, content, f"../../{name}.png")
        expect(problem(page)).to_contain_text(reason)
    upload(page, bytes(10 * 2**20 + 1))
    expect(problem(page)).to_contain_text("one picture file (PNG, JPEG, …) of at most 10 MiB")
    upload(page, sketched(), "page.html")
    expect(problem(page)).to_contain_text("one picture file")
    expect(uploads(page)).to_have_count(0)
    upload(page, sketched())
    expect(uploads(page)).to_have_count(1)
    expect(problem(page)).to_have_count(0)
    search(page)
    expect(page.locator(".card")).to_have_count(16)


def test_an_upload_with_a_late_response_is_kept(page):
    def late(route):
        response = route.fetch()
        time.sleep(1)  # the picture is on the page before the browser has the response
        route.fulfill(response=response)

    page.route("**/upload/**", late)
    for _ in range(2):
        upload(page, sketched())
        expect(page.locator(".q-uploader__file")).to_have_count(0)
        expect(uploads(page)).to_have_count(1)
        expect(problem(page)).to_have_count(0)
        press(page, "Remove sketch 1")
        expect(uploads(page)).to_have_count(0)


def ask(site, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """Send a request with its path as it is."""
    connection = http.client.HTTPConnection(urlsplit(site.address).netloc, timeout=PATIENCE / 1000)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


TRAVERSALS = [
    "/photo/16", "/photo/-1", "/photo/99999999999999999999", "/photo/0/", "/photo/0.png", "/photo/", "/photo/red_0.png",
    "/photo/../../../../etc/passwd", "/photo/..%2f..%2f..%2fetc%2fpasswd", "/photo/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd", "/photo/0%00", "/photo/%D9%A3", "/gallery/red_0.png", "/_nicegui/../../../etc/passwd",
    "/model.ckpt",
]  # fmt: skip


def test_only_indexed_photos_are_served(site):
    status, photo = ask(site, "GET", "/photo/0")
    assert status == 200 and photo.startswith(b"\xff\xd8\xff")
    for path in TRAVERSALS:
        status, answer = ask(site, "GET", path)
        assert status in (404, 400) and b"root:" not in answer and not answer.startswith((b"\xff\xd8", b"\x89PNG")), (
            path
        )
    assert ask(site, "GET", "/photo/0", Host="example.org")[0] == 403


def test_a_missing_photo_is_a_placeholder(site, people):
    photo = people / "gallery" / "grey_1.png"
    content = photo.read_bytes()
    rows = sorted(path.name for path in photo.parent.iterdir())
    address = f"/photo/{rows.index('grey_1.png')}"
    try:
        photo.write_bytes((people / "gallery" / "red_0.png").read_bytes())
        changed = ask(site, "GET", address)
        photo.unlink()
        gone = ask(site, "GET", address)
    finally:
        photo.write_bytes(content)
    assert changed == gone and gone[0] == 404 and gone[1].startswith(b"<svg")


PART = b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../../a.png"\r\n\r\n' + sketched() + b"\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def test_an_upload_is_a_form_with_one_file(site, page):
    address = page.evaluate(_UPLOAD_ADDRESS)
    for body, headers in (
        (PART * 2 + b"--x--\r\n", FORM),
        (PART * 30 + b"--x--\r\n", FORM),
        (PART.replace(b"filename", b"file") + b"--x--\r\n", FORM),
        (b"--x--\r\n", FORM),
        (PART[:40], FORM),
        (sketched(), {"Content-Type": "image/png"}),
        (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}),
    ):
        assert ask(site, "POST", address, body, **headers)[0] == 400, body[:100]
        expect(uploads(page)).to_have_count(0)


def test_a_tab_sends_one_upload_at_a_time(site, page):
    """All at once; the uploads that are refused are not read, so others do not wait for them."""
    address = page.evaluate(_UPLOAD_ADDRESS)
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, site, "POST", address, PART + b"--x--\r\n", **FORM) for _ in range(30)]
    found = {one.result()[0] for one in asked}
    assert 200 in found and found <= {200, 429}
    expect(uploads(page)).not_to_have_count(0)
    search(page, caption("red"))


MALFORMED = [
    "", "x", "9", "4", "42", "42[]", "42[1]", '42["event"]', '42["event",null]', '42["event",{"client_id":[]}]',
    '42["handshake",{}]', '42["ack",{"client_id":"x"}]', '42["log",{"level":"error","message":"\x1b[31m"}]',
    '42["javascript_response",7]', '42["nope"]', "4999999999[]", "42" + "[" * 9999,
    '451-["event",{"_placeholder":true}]',
]  # fmt: skip


def test_malformed_messages_and_requests_do_no_harm(site, page):
    """The log has no traceback, or the site's fixture would fail."""
    address = f"ws{site.address[4:]}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    for message in MALFORMED:
        with connect(address) as websocket, contextlib.suppress(ConnectionClosed, TimeoutError):
            websocket.recv(PATIENCE)
            websocket.send("40")
            websocket.recv(PATIENCE)
            websocket.send(message)
            websocket.recv(0.1)
    upload(page, sketched())
    press(page, "Crop sketch 1")
    expect(page.get_by_role("button", name="Apply")).to_be_visible()
    elements = page.evaluate(_LISTENERS)
    assert len(elements) > 9
    for arguments in ("[null]", '["\\"x\\""]', '["[9]"]', '["{}"]', '["{"]', "7", "[]", '["1e999"]'):
        page.evaluate(_EMIT, [elements, json.loads(arguments)])
        page.wait_for_timeout(300)  # a search with these values, too, and not with the last ones only
    for path in (
        "/photo/" + "9" * 5000,
        "/%ff%00",
        "/?" + "a=" * 20_000,
        "/_nicegui/%1b",
        "/_nicegui_ws/socket.io/?EIO=x",
    ):
        assert ask(site, "GET", path)[0] in (200, 400, 404)
    for method in ("HEAD", "POST", "PUT", "DELETE", "TRACE"):
        assert ask(site, method, "/")[0] == 405
    opened(page, site.address)
    search(page, caption("red"))
    assert first(page) == "red"


_LISTENERS = """() => Object.entries(mounted_app.elements).flatMap(([id, one]) =>
    (one.events || []).map(event => [parseInt(id), event.listener_id]))"""
_EMIT = """([elements, args]) => elements.forEach(([id, listener_id]) =>
    window.socket.emit("event", {id, client_id: window.clientId, listener_id, args}))"""


def test_larger_requests_are_refused(site, page):
    """Sent to the page's upload address, without the check of the browser."""
    address = page.evaluate(_UPLOAD_ADDRESS)
    status, answer = ask(site, "POST", address, PART + bytes(11 * 2**20) + b"\r\n--x--\r\n", **FORM)
    assert (status, answer) == (413, b"At most 10,551,296 bytes may be sent.")
    assert ask(site, "POST", address, PART + b"--x--\r\n", **FORM)[0] == 200
    expect(uploads(page)).to_have_count(1)
    assert ask(site, "POST", address, PART, **FORM, Origin="http://example.org")[0] == 403


_UPLOAD_ADDRESS = """() => {
    const one = document.querySelector(".q-uploader");
    return getElement(parseInt(one.id.slice(1))).url;
}"""


# 4. Many at once.


@pytest.mark.exhaustive
def test_twenty_users_get_their_own_results(site, browser, people):
    from ms_unireid.apps.search.searcher import Searcher

    searcher = Searcher.open(people / "index", overrides=["runtime.graph_mode=false"])
    texts = [f"{caption(colour, kind)} {kind}" for colour in PEOPLE for kind in (0, 1)]
    texts += [f"somebody in {a} and {b}" for a, b in (("red", "grey"), ("blue", "red"), ("green", "brown"), ("a", "b"))]
    context = browser.new_context()
    pages = [opened(context.new_page(), site.address + UNFOLDED) for _ in range(USERS)]
    for page, text in zip(pages, texts, strict=True):
        description(page).fill(text)
    for page in pages:
        description(page).press("Enter", no_wait_after=True)
    for page, text in zip(pages, texts, strict=True):
        expect(page.locator(".status")).to_contain_text(f"for “{text[:60]}")
        hits = searcher.search(text=text, top_k=16)
        assert names(page) == [hit.path.name for hit in hits]
        scores = [float(score) for score in page.locator(".card .score").all_inner_texts()]
        assert scores == pytest.approx([hit.score for hit in hits], abs=2e-3)
    context.close()


def test_it_leaves_no_files(site):
    assert os.listdir(site.folder) == []


def test_a_model_of_more_modalities_has_a_button_for_each(browser, people, tmp_path):
    from ms_unireid.checkpoints.checkpoint import open_model, save_checkpoint

    model, _, meta = open_model(people / "model.ckpt")
    objective = {"tasks": ["text", "sketch", "pencil", "thermal"]}
    section = {"modalities": ["sketch", "pencil", "thermal"]}
    config = {**meta["config"], "data": meta["config"]["data"] | section}
    config["objective"] = meta["config"]["objective"] | objective
    save_checkpoint(tmp_path / "many.ckpt", model.get_parameters(), meta | {"config": config})
    made = ("index", "--photos", people / "gallery", "--checkpoint", tmp_path / "many.ckpt", "--output")
    load_tool("search.py").main([*map(str, made), str(tmp_path / "index"), "runtime.graph_mode=false"])
    with served(tmp_path / "index", tmp_path / "site") as running:  # compiled, as by default
        page = opened(browser.new_context(locale="en-GB").new_page(), running.address + UNFOLDED)
        upload(page, encoded(drawing("orange"), "PNG"), button="Upload a picture: pencil")
        expect(uploads(page)).to_have_text([re.compile("Pencil 1")])
        upload(page, encoded(drawing("orange", 2), "PNG"), button="Upload a picture: thermal")
        expect(uploads(page)).to_have_count(2)
        expect(page.get_by_role("button", name="Invert")).to_have_count(0)
        search(page, "a person")
        assert first(page) == "orange"
        expect(page.locator(".status")).to_contain_text("for uploaded pencil × 1 + uploaded thermal × 1")
        assert violations(page) == []
        page.reload()
        expect(uploads(page)).to_have_count(2)
        press(page, "Remove pencil 1")
        expect(uploads(page)).to_have_text([re.compile("Thermal 1")])
        page.context.close()
