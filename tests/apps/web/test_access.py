"""Access: requests, websockets and uploads need the right host name or the token."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from ms_unireid.apps.web.access import COOKIE, Guard, check_access, is_loopback
from ms_unireid.errors import ConfigError

TOKEN = "a-token-of-this-test"
LIMIT = 1000


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"page {len(await request.body())}")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("open")


def client(token: str | None = None, base: str = "http://127.0.0.1:8080") -> TestClient:
    routes = [Route("/{path:path}", page, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)]
    return TestClient(Guard(Starlette(routes=routes), token, LIMIT), base_url=base, follow_redirects=False)


def opens_socket(browser: TestClient, **headers: str) -> bool:
    try:
        with browser.websocket_connect("/socket", headers=headers) as websocket:
            return websocket.receive_text() == "open"
    except WebSocketDisconnect as refused:
        assert refused.code == 1008
        return False


# 1. This machine only.


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_this_machine_has_these_names(host):
    assert is_loopback(host)
    check_access(host, allow_remote=False, token=None)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.7", "", "localhost.example.org", "127.0.0.1.example.org", "2130706433"]
)
def test_other_machines_need_the_option_and_a_token(host):
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="--allow-remote"):
        check_access(host, allow_remote=False, token=TOKEN)
    with pytest.raises(ConfigError, match="needs a token"):
        check_access(host, allow_remote=True, token=None)
    check_access(host, allow_remote=True, token=TOKEN)


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters", "sixteen letters\n", "sixteen-létters-"])
def test_an_invalid_token_is_refused(token):
    with pytest.raises(ConfigError, match="at least 16 printable ASCII characters"):
        check_access("0.0.0.0", allow_remote=True, token=token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "[::1]:8080"])
def test_its_own_names_pass(host):
    browser = client()
    assert browser.get("/", headers={"host": host}).text == "page 0"
    assert opens_socket(browser, host=host)


@pytest.mark.parametrize("host", ["example.org", "example.org:8080", "127.0.0.1.example.org", "[::1", "", "a@b@c", "["])
def test_a_foreign_name_for_this_machine_is_refused(host):
    """DNS rebinding: another site's name that resolves to 127.0.0.1."""
    browser = client()
    answer = browser.get("/photo/0", headers={"host": host})
    assert (answer.status_code, answer.text) == (403, "Open this page as http://127.0.0.1 or localhost.")
    assert not opens_socket(browser, host=host)


# 2. The token.


def test_nothing_passes_without_the_token():
    browser = client(TOKEN, "http://gallery.example.org")
    for path in ("/", "/photo/0", "/_nicegui/x", "/?token=", "/?token=wrong-token-of-here", f"/?token={TOKEN}x", "/?x"):
        answer = browser.get(path)
        assert answer.status_code == 403 and "page" not in answer.text.replace("This page", ""), path
        assert TOKEN not in answer.text and "set-cookie" not in answer.headers
    assert browser.post("/upload", content=b"x").status_code == 403
    assert not opens_socket(browser)


@pytest.mark.parametrize("cookie", ["", "x", TOKEN, "ü", "a" * 64, '"'])
def test_another_cookie_does_not_pass(cookie):
    browser = client(TOKEN)
    headers = {"cookie": f"{COOKIE}={cookie}".encode()}
    assert browser.get("/", headers=headers).status_code == 403


def test_the_token_gives_a_cookie_that_passes():
    browser = client(TOKEN, "http://gallery.example.org")
    admitted = browser.get(f"/?token={TOKEN}")
    assert admitted.status_code == 200 and "page 0" not in admitted.text
    kept = admitted.headers["set-cookie"]
    assert "HttpOnly" in kept and "SameSite=strict" in kept and TOKEN not in kept
    assert browser.get("/photo/0").text == "page 0"
    assert browser.post("/upload", content=b"xyz").text == "page 3"
    assert opens_socket(browser, cookie=f"{COOKIE}={browser.cookies[COOKIE]}")


def test_a_cookie_is_valid_for_its_token_only():
    first = client(TOKEN)
    first.get(f"/?token={TOKEN}")
    cookie = {"cookie": f"{COOKIE}={first.cookies[COOKIE]}"}
    assert client(TOKEN).get("/", headers=cookie).status_code == 200
    assert client(TOKEN + "2").get("/", headers=cookie).status_code == 403


@pytest.mark.parametrize("given", ["%ff%fe", "%00", "ü", "a" * 5000])
def test_a_malformed_token_is_refused(given):
    assert client(TOKEN).get(f"/?token={given}").status_code == 403


# 3. Other sites' pages.


@pytest.mark.parametrize("origin", ["http://example.org", "null", "http://127.0.0.1:9999", "https://", "http://[::1"])
def test_another_sites_page_is_refused(origin):
    for token in (None, TOKEN):
        browser = client(token)
        if token:
            browser.get(f"/?token={token}")
        assert browser.post("/upload", content=b"x", headers={"origin": origin}).status_code == 403
        assert not opens_socket(browser, origin=origin)


@pytest.mark.parametrize(
    ("site", "passes"), [("cross-site", False), ("same-site", False), ("same-origin", True), ("none", True)]
)
def test_a_link_or_picture_on_another_site_is_refused(site, passes):
    """The browser marks the request; it sends no origin. A link with the token, as in a mail, is the way in."""
    marked = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    for token in (None, TOKEN):
        browser = client(token, "http://gallery.example.org" if token else "http://127.0.0.1")
        if token:
            assert browser.get(f"/?token={token}", headers=marked).status_code == 200
        for path in ("/", "/photo/0"):
            assert browser.get(path, headers=marked).status_code == (200 if passes else 403)
    assert opens_socket(client(), host="127.0.0.1", **marked) == passes


def test_its_own_page_passes():
    browser = client()
    assert browser.post("/upload", content=b"x", headers={"origin": "http://127.0.0.1:8080"}).status_code == 200
    assert opens_socket(browser, origin="http://127.0.0.1:8080", host="127.0.0.1:8080")


def test_answers_forbid_foreign_scripts_and_frames():
    for answer in (client().get("/"), client(TOKEN).get("/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


# 4. Size limits.


def test_the_content_length_is_limited():
    browser = client()
    assert browser.post("/", content=bytes(LIMIT)).text == f"page {LIMIT}"
    answer = browser.post("/", content=bytes(LIMIT + 1))
    assert (answer.status_code, answer.text) == (413, "At most 1,000 bytes may be sent.")


def test_the_received_bytes_are_limited():
    """Without a content length, and with a wrong one, reading stops at the limit."""
    for length in (
        [],
        [(b"content-length", b"5")],
        [(b"content-length", b"five")],
        [(b"content-length", "٣".encode())],
    ):
        assert _stream(length) == (413, 3)


def _stream(length: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Send chunks of 400 bytes without end; return the status and the number of chunks read."""
    read, sent = 0, []

    async def receive():
        nonlocal read
        read += 1
        return {"type": "http.request", "body": bytes(400), "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), *length]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers, "root_path": ""}
    asyncio.run(client().app(scope | {"http_version": "1.1", "scheme": "http", "server": None}, receive, send))
    return sent[0]["status"], read
