"""Takes the screenshots of the search page; start it with `make app` first.

python docs/pictures/take.py --address http://127.0.0.1:8080
"""

import argparse
import math
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

TEXT = (
    "A woman with long black hair wears a yellow and navy striped dress and white trousers. "
    "She carries a black handbag."
)


def arc(x: float, y: float, width: float, height: float, start: float = 0, end: float = 2) -> list:
    """Return the points of an arc of an ellipse; start and end are in half turns."""
    angles = [math.pi * (start + (end - start) * i / 24) for i in range(25)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


# A woman with long dark hair, a striped dress and a dark handbag, on a sheet of 128 x 384.
WOMAN = [
    arc(64, 62, 17, 22),
    [(47, 58), (42, 40), (64, 30), (86, 40), (82, 62), (88, 110), (78, 104)],
    [(47, 58), (40, 110), (50, 104)],
    [(56, 86), (54, 98), (36, 106), (28, 180), (24, 214)],
    [(72, 86), (74, 98), (92, 106), (100, 180), (104, 214)],
    [(42, 112), (44, 186), (86, 186), (88, 112)],
    [(44, 186), (30, 286), (98, 286), (86, 186)],
    [(50, 286), (50, 352), (40, 362), (56, 362), (58, 286)],
    [(72, 286), (72, 352), (86, 362), (70, 362), (66, 286)],
    [(92, 224), (92, 258), (120, 258), (120, 224), (92, 224)],
    arc(106, 224, 10, 14, 1, 2),
    *[[(x, 116), (x + 0.35 * (x - 65), 284)] for x in (50, 58, 66, 74, 82)],
    [(x, 222 + 4 * row + shift) for row in range(9) for x, shift in ((94, 0), (118, 2))],
    *[[(50, 36), (80, 36)], [(46, 44), (84, 44)], [(44, 60), (42, 104)], [(47, 66), (46, 104)]],
    *[[(84, 66), (84, 104)], [(81, 70), (80, 104)]],
    *[[(40, 360), (56, 358)], [(42, 357), (56, 354)], [(72, 358), (86, 360)], [(72, 354), (84, 357)]],
]


def fill(page: Page) -> None:
    """Type a description, draw a person and search."""
    page.get_by_label("Describe the person").fill(TEXT)
    page.locator(".paper").scroll_into_view_if_needed()
    sheet = page.locator(".paper").bounding_box()
    scale = sheet["width"] / 128
    for stroke in WOMAN:
        points = [(sheet["x"] + x * scale, sheet["y"] + y * scale) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=3)
        page.mouse.up()
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".card img").first.wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('.card img')].slice(0, 4).every(i => i.complete)")
    if page.viewport_size["width"] > 960:
        page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(2000)  # the button's spinner fades


def look(page: Page) -> None:
    """Keep two photos, and open the first one with its heat map."""
    for place in range(2):
        page.get_by_role("button", name="Keep ").nth(place).click()
    page.locator(".card .open").first.click()
    with page.expect_response(lambda answer: "kind=heat" in answer.url):
        page.get_by_role("button", name="Where the model looked").click()
    page.wait_for_timeout(2000)


def save(page: Page, name: str) -> None:
    """Take a screenshot of 256 colours."""
    path = Path(__file__).with_name(f"{name}.png")
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Take screenshots of the page at desktop and phone width, and of a photo seen large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8080")
    address = parser.parse_args().address
    with sync_playwright() as playwright:
        executable = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for name, width, height in (("search_page", 1200, 1000), ("search_page_phone", 360, 760)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            fill(page)
            save(page, name)
            if name == "search_page":
                look(page)
                save(page, "search_viewer")
        browser.close()


if __name__ == "__main__":
    main()
