"""The search page's command line: refused options, and the token before a real server."""

import http.client
import os
import socket
from urllib.parse import urlsplit

import pytest
from apps.web.hostile_uploads import still
from commands.search_page import served
from tool_runner import load_tool, run_tool

from ms_unireid.apps.web.access import COOKIE
from ms_unireid.errors import ConfigError, DataError

TOKEN = "a-token-of-this-test"


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch):
    monkeypatch.delenv("MS_UNIREID_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--host", "0.0.0.0", "--token", TOKEN], "--allow-remote"),
        (["--host", "0.0.0.0", "--allow-remote"], "MS_UNIREID_TOKEN"),
        (["--host", "0.0.0.0", "--allow-remote", "--token", "short"], "at least 16"),
        (["--host", "no.such.host.invalid", "--allow-remote", "--token", TOKEN], "cannot be opened"),
        (["--port", "-1"], "expected 1 to 65535"),
        (["--port", "70000"], "expected 1 to 65535"),
    ],
)
def test_unsafe_or_invalid_options_are_refused(arguments, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem) as error:
        load_tool("app.py").main(["--index", str(tmp_path), *arguments])
    assert TOKEN not in str(error.value)


def test_a_missing_index_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"make one with python tools/search\.py index"):
        load_tool("app.py").main(["--index", str(tmp_path / "none"), "--port", "0"])


def test_a_port_in_use_is_reported_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_tool("app.py", "--index", tmp_path, "--port", taken.getsockname()[1])
    assert done.returncode == 2 and done.stdout == ""
    assert "choose another --port, or 0 for a free one" in done.stderr and "Traceback" not in done.stderr


def ask(address: str, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.body = answer.read()
    return answer


WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


def test_every_request_needs_the_token(people, tmp_path):
    """With a host name of another machine."""
    remote = {"Host": "gallery.example.org"}
    opening = ("--allow-remote", "--host=0.0.0.0", "runtime.graph_mode=false")
    with served(people / "index", tmp_path / "here", *opening, MS_UNIREID_TOKEN=TOKEN) as site:
        address = site.address.replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/photo/0", "/_nicegui/", "/?token=wrong", "/docs", "/openapi.json"):
            assert ask(address, path, **remote).status == 403
        assert ask(address, "/_nicegui/client/x/upload/1", "POST", still(), **remote).status == 403
        assert ask(address, SOCKET, **remote, **WEBSOCKET).status == 403
        assert ask(address, SOCKET.replace("websocket", "polling"), **remote).status == 403
        admitted = ask(address, f"/?token={TOKEN}", **remote)
        cookie = {"Cookie": admitted.getheader("Set-Cookie").partition(";")[0]}
        assert admitted.status == 200 and cookie["Cookie"].startswith(COOKIE)
        assert ask(address, "/photo/0", **remote, **cookie).body.startswith(b"\xff\xd8")
        page = ask(address, "/", **remote, **cookie)
        assert page.status == 200 and TOKEN.encode() not in page.body
        again = ask(address, f"/nowhere?token={TOKEN}", **remote, **cookie)
        assert again.status == 200 and b"url=/" in again.body
        assert _upgraded(address, remote | cookie | WEBSOCKET)
        assert not _upgraded(address, remote | cookie | WEBSOCKET | {"Origin": "http://example.org"})
    assert os.listdir(site.folder) == []
    assert TOKEN not in (tmp_path / "here.txt").read_text(encoding="utf-8")


def _upgraded(address: str, headers: dict[str, str]) -> bool:
    """Return whether a websocket opens; reads only the first line, since the connection stays open."""
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=60) as connection:
        lines = [f"GET {SOCKET} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(12) == b"HTTP/1.1 101"
