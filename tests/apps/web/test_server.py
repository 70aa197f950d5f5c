"""The server: connections that keep others waiting are closed. It takes about three seconds."""

import contextlib
import socket
import threading
import time

import h11
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from ms_unireid.apps.web import server
from ms_unireid.apps.web.server import PatientProtocol

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


async def answer(scope, receive, send):
    """Read the request, and answer with more than the buffers of a connection hold if its path is /large."""
    while (await receive()).get("more_body"):
        pass
    await PlainTextResponse(bytes(2**25 if scope["path"] == "/large" else 0))(scope, receive, send)


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE", {h11.IDLE: 0.5, h11.SEND_BODY: 0.5})
    monkeypatch.setattr(server, "_MAX_WAITING", 20)
    with server.bind("127.0.0.1", 0) as listener:
        config = uvicorn.Config(answer, http=PatientProtocol, lifespan="off", log_level="error")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        running.should_exit = True
        thread.join()


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(30)
    with contextlib.suppress(ConnectionError):
        while connection.recv(2**16):
            pass
    return True  # else a timeout is raised


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\nabc", HEAD + b"\r\n" + HEAD])
def test_a_request_that_does_not_end_is_closed(address, sent):
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert is_closed(connection)


def test_a_request_that_comes_in_drops_is_closed(address):
    with socket.create_connection(address) as connection, pytest.raises(ConnectionError):
        for letter in HEAD * 9:
            connection.sendall(bytes([letter]))
            time.sleep(0.1)


def test_an_answer_that_is_not_read_is_given_up(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(2)
        assert is_closed(connection)


def test_many_open_requests_do_not_keep_others_out(address):
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(address)).sendall(HEAD)
        with socket.create_connection(address) as connection:
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_connection_is_used_again(address):
    with socket.create_connection(address) as connection:
        for _ in range(3):
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)


def test_long_headers_are_refused(address):
    with socket.create_connection(address) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HEAD + b"X: " + bytes(b"a" * 2**17))
        assert connection.recv(12) in (b"HTTP/1.1 400", b"")
