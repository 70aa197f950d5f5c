"""Access to the page: this machine only, or users with the token; and the size limit of requests."""

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
MIN_TOKEN_LENGTH = 16
# NiceGUI uses inline scripts and eval; everything must come from the page itself.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_TOKEN_HINT = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
_PACKETS = tuple("123456")  # how text messages begin
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without brackets, always means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_access(host: str, allow_remote: bool, token: str | None) -> None:
    """Check that other machines get access only with `allow_remote` and a token.

    ConfigError if either is missing, or the token is too short.
    """
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"the token must have at least {MIN_TOKEN_LENGTH} printable ASCII characters; {_TOKEN_HINT}")
    if is_loopback(host):
        return
    if not allow_remote:
        raise ConfigError(f"--host {host} lets other machines open the page; add --allow-remote to allow that")
    if token is None:
        raise ConfigError(f"--host {host} needs a token, in --token or in MS_UNIREID_TOKEN; {_TOKEN_HINT}")


class Guard:
    """Checks each request and websocket before it reaches the web application.

    Without a token, the host name must be a name of this machine, which stops DNS rebinding. With a token, opening
    ``/?token=...`` once sets a cookie that all other requests need. Requests of other sites' pages are always refused.

    Args:
        app: The application.
        token: The token; None if only this machine has access.
        max_bytes: Limit of a request's body.
    """

    def __init__(self, app: ASGIApp, token: str | None, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes
        self._token = token
        self._cookie = None if token is None else _cookie_value(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or websocket, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = self._refusal(scope, Headers(scope=scope))
        send = _add_headers(send)
        if answer is None:
            await self.app(scope, self._checked(receive), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # the server turns this into status 403
        else:
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a refused request or to a valid token; None lets the request pass."""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return PlainTextResponse("Requests of other sites' pages are refused.", 403)
        refused = self._check_token(scope, headers) if self._token is not None else _check_host(headers)
        if refused is not None:
            return refused
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return HTMLResponse("<p>Links of other sites are refused. <a href='/'>Open the search page</a></p>", 403)
        if _length(headers) > self.max_bytes:
            return PlainTextResponse(f"At most {self.max_bytes:,} bytes may be sent.", 413)
        return None

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        # Checked before the cookie, so that no address with the token reaches the application.
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if secrets.compare_digest(given.encode(), self._token.encode()):
            return self._admit()
        if secrets.compare_digest(_sent_cookie(headers), self._cookie):
            return None
        return HTMLResponse("<p>This page needs its token: open it once with <code>/?token=...</code>.</p>", 403)

    def _admit(self) -> Response:
        """Set the cookie and forward to the page.

        A page forwards instead of a redirect: browsers that come from another site do not send a strict cookie after a
        redirect.
        """
        answer = HTMLResponse('<meta http-equiv="refresh" content="0;url=/"><a href="/">Continue</a>')
        answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict")
        return answer

    def _checked(self, receive: Receive) -> Receive:
        """Limit the bytes of a request, and end a websocket with anything but packets of Engine.IO."""
        received = 0

        async def checked() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, f"At most {self.max_bytes:,} bytes may be sent.")
            if message["type"] == "websocket.receive" and not (message.get("text") or "").startswith(_PACKETS):
                return {"type": "websocket.disconnect", "code": 1008}
            return message

        return checked


def _add_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending


def _check_host(headers: Headers) -> Response | None:
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        name = ""
    return None if is_loopback(name) else PlainTextResponse("Open this page as http://127.0.0.1 or localhost.", 403)


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isdecimal() else 0


def _cookie_value(token: str) -> str:
    """Derive the cookie from the token, so that it stays valid after a restart."""
    return hmac.new(token.encode(), b"ms_unireid page", hashlib.sha256).hexdigest()


def _sent_cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    value = found.value if found else ""
    return value if value.isascii() else ""
