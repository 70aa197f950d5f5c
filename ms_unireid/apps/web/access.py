"""Who may use the page: this machine alone, or whoever has the token; and how much may be sent to it."""

import hashlib
import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ms_unireid.errors import ConfigError

COOKIE = "ms_unireid_access"
SHORTEST_TOKEN = 16
# Scripts of the page's library are written into the page, hence inline and eval; nothing may come from elsewhere.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address, without brackets, can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_access(host: str, allow_remote: bool, token: str | None) -> None:
    """Check that a page for other machines was asked for in so many words, and has a token.

    Raises:
        ConfigError: If it was not, or if the token is too short to be safe.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"the token must have at least {SHORTEST_TOKEN} printable ASCII characters; {_make_one()}")
    if is_loopback(host):
        return
    if not allow_remote:
        raise ConfigError(f"--host {host}: others could open the page; add --allow-remote if that is wanted")
    if token is None:
        raise ConfigError(f"--host {host} needs a token, in --token or in MS_UNIREID_TOKEN; {_make_one()}")


def _make_one() -> str:
    return 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class Guard:
    """Stand before a web application and let through what may pass; websockets and uploads alike.

    Without a token only requests for this machine's own names pass, so that no foreign page reaches it through a name
    of its own (DNS rebinding). With one, opening ``/?token=...`` once sets a cookie that every other request needs. A
    request that another site's page makes is refused in either case.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_bytes: int):
        """Wrap an application.

        Args:
            app: What is guarded; an ASGI application.
            token: What gives access, or None where only this machine can reach the page.
            max_bytes: Largest body of a request.
        """
        self.app, self.max_bytes = app, max_bytes
        self._token = token
        self._cookie = None if token is None else _cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = self._answer(scope, Headers(scope=scope))
        send = _with_headers(send)
        if answer is None:
            await self.app(scope, self._bounded(receive), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # a server makes 403 of it
        else:
            await answer(scope, receive, send)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to what may not pass, or to the token."""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return PlainTextResponse("Requests of other sites' pages are refused.", 403)
        refused = self._ask_token(scope, headers) if self._token is not None else _check_name(headers)
        if refused is None and _length(headers) > self.max_bytes:
            return PlainTextResponse(f"At most {self.max_bytes:,} bytes may be sent.", 413)
        return refused

    def _ask_token(self, scope: Scope, headers: Headers) -> Response | None:
        # Before the cookie, so that no address with the token in it goes further.
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if secrets.compare_digest(given.encode(), self._token.encode()):
            return self._admit()
        if secrets.compare_digest(_cookie_in(headers), self._cookie):
            return None
        return HTMLResponse("<p>This page needs its token: open it once with <code>/?token=...</code>.</p>", 403)

    def _admit(self) -> Response:
        """Set the cookie and lead on to the page.

        By a page of our own: a browser that follows a link from elsewhere would not send a strict cookie after a
        redirection.
        """
        answer = HTMLResponse('<meta http-equiv="refresh" content="0;url=/"><a href="/">Continue</a>')
        answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict")
        return answer

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if received > self.max_bytes:
                raise HTTPException(413, f"At most {self.max_bytes:,} bytes may be sent.")
            return message

        return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending


def _check_name(headers: Headers) -> Response | None:
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        name = ""
    return None if is_loopback(name) else PlainTextResponse("Open this page as http://127.0.0.1 or localhost.", 403)


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _cookie_of(token: str) -> str:
    """Return what the cookie holds: not the token, and the same after a restart."""
    return hmac.new(token.encode(), b"ms_unireid page", hashlib.sha256).hexdigest()


def _cookie_in(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    value = found.value if found else ""
    return value if value.isascii() else ""
