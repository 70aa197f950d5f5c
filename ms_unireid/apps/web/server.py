"""The server of the page: its socket, and limits that keep connections which send nothing from blocking others."""

import asyncio
import socket

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ms_unireid.apps.web.access import Guard
from ms_unireid.errors import ConfigError

MAX_CONNECTIONS = 400  # 20 tabs have 140; below the usual limit of open files, 1,024
_MAX_WAITING = 200  # connections without a complete request; the oldest gives way to a new one
# Seconds for what is read next of a request: its headers or its body.
_PATIENCE = {h11.IDLE: 10, h11.SEND_BODY: 60}
_MAX_HEADERS = 2**16  # bytes
_MAX_MESSAGE = 2**20  # bytes of a websocket message, as the browser's side of NiceGUI limits it


class PatientProtocol(H11Protocol):
    """A connection that is closed if the rest of a request does not come, or an answer is not read, in time."""

    _waiting: dict["PatientProtocol", None] = {}  # noqa: RUF012 - shared: connections without a request, oldest first
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()
        if len(self._waiting) > _MAX_WAITING:
            next(iter(self._waiting)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read data, and wait for the next part of the request if this one is complete."""
        before = self.conn.their_state
        super().data_received(data)
        if self.conn.their_state is not before:
            self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait()

    def pause_writing(self) -> None:
        """Wait for the browser to read."""
        super().pause_writing()
        self._wait(_PATIENCE[h11.SEND_BODY])

    def resume_writing(self) -> None:
        """Wait for the rest of the request, if any."""
        super().resume_writing()
        self._wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Stop waiting: the server pings websockets."""
        self._stop()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(error)
        self._stop()

    def _wait(self, seconds: float | None = None) -> None:
        self._stop()
        if self.conn.their_state is h11.IDLE:
            self._waiting[self] = None
        seconds = seconds or _PATIENCE.get(self.conn.their_state)
        if seconds and self.transport.get_protocol() is self:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self) -> None:
        self._waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()


def bind(host: str, port: int) -> socket.socket:
    """Open the socket of the page; port 0 takes a free one. Call it before the slow start of the model.

    ConfigError if the port is invalid or in use, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 1 to 65535, or 0 for a free one")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{host} port {port} cannot be opened ({reason}); choose another --port, or 0 for a free one"
        ) from error


def serve(site: Guard, listener: socket.socket) -> None:
    """Serve the page until a signal stops it; without an access log, which would contain tokens."""
    config = uvicorn.Config(
        site, http=PatientProtocol, log_level="error", access_log=False, server_header=False, backlog=64,
        limit_concurrency=MAX_CONNECTIONS, ws_max_size=_MAX_MESSAGE, timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=_MAX_HEADERS,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def address_of(listener: socket.socket) -> str:
    """Return the URL to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
