"""Checks every HTTP request and every WebSocket of the dashboard before anything else sees it.

This is plain ASGI middleware outside of the application, so no route and no file of the framework escapes it.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Collection
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bulletlm.serve.options import LOCAL_NAMES

COOKIE = "bullet_dashboard"

MAX_FORM_BYTES = 1 << 20
"""Largest body of a request that is no upload of a file."""

WRONG_TOKEN_SECONDS = 1.0
"""Seconds that an answer to a wrong token is held back, so that guessing is slow."""

SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS"])

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-src 'self'; frame-ancestors 'self'"
)
"""NiceGUI writes its start script into the page (unsafe-inline) and evaluates the bindings of its components (unsafe-eval)."""

LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>BulletLM</title><style>body{font:16px system-ui;max-width:24rem;margin:20vh auto;padding:0 1rem;color-scheme:light dark}
input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.4rem 0}</style>
<h1>BulletLM</h1><form method="post" action="/login"><label for="token">Token of the dashboard (the option --token)</label>
<input id="token" name="token" type="password" autofocus autocomplete="current-password"><button>Open</button></form></html>"""


class Guard:
    """Passes a request on to `app`, or refuses it.

    Args:
        app: the application behind this one.
        token: what the user must know; None asks for nothing.
        hosts: names that the Host header may have, without port; empty accepts any name, which is only safe with a token. When an
            attacker makes the name of a web page point to 127.0.0.1 (DNS rebinding), the Host header carries that name.
        upload_path: path whose requests may be larger than MAX_FORM_BYTES; it checks its size itself.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Collection[str], upload_path: str) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.upload_path = upload_path
        self._token = None if token is None else token.encode()
        self._cookie = None if token is None else hmac.new(token.encode(), b"bulletlm dashboard", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)
        if problem:
            await _refuse(scope, receive, send, PlainTextResponse(problem, 403))
            return
        if self._cookie is not None and not self._knows(headers):
            await self._ask(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        limited = receive if scope["path"] == self.upload_path else _limited(receive)
        await self.app(scope, limited, _with_headers(send))

    def _problem(self, scope: Scope, headers: Headers) -> str:
        host = headers.get("host", "")
        if self.hosts and _hostname(host) not in self.hosts:
            return "The Host header has another name than this computer: open the dashboard at http://127.0.0.1."
        origin = headers.get("origin")
        if origin is None:
            unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
            if unsafe and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return "This request comes from another web page."
            return ""
        if origin.partition("://")[2].lower() != host.lower():
            return "This request comes from another web page."
        return ""

    def _knows(self, headers: Headers) -> bool:
        sent = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return self._cookie is not None and hmac.compare_digest(sent.encode("latin-1", "replace"), self._cookie.encode())

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a user without the cookie: set it for the right token, else show a page that asks for the token."""
        if scope["type"] == "websocket":
            await _refuse(scope, receive, send, PlainTextResponse("Open the dashboard in a browser first.", 401))
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        target = quote(scope["path"])
        given = dict(query).get("token") if scope["method"] == "GET" else None
        if rest := [(name, value) for name, value in query if name != "token"]:
            target += "?" + urlencode(rest)
        if scope["method"] == "POST" and scope["path"] == "/login":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body") or len(body) > 4096:
                    break
            given, target = dict(parse_qsl(body[:4096].decode("latin-1"))).get("token", ""), "/"
        response: Response
        if given is not None and self._token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            # The address must not begin with two slashes, which would name another computer.
            response = RedirectResponse("/" + target.lstrip("/"), 303)
            assert self._cookie is not None
            response.set_cookie(COOKIE, self._cookie, max_age=30 * 86_400, httponly=True, samesite="strict")
        else:
            if given is not None:
                await asyncio.sleep(WRONG_TOKEN_SECONDS)
            wants_page = scope["method"] == "POST" or "text/html" in Headers(scope=scope).get("accept", "")
            response = HTMLResponse(LOGIN, 401) if wants_page else PlainTextResponse("The token is missing.", 401)
        await response(scope, receive, _with_headers(send))


def local_names(host: str) -> frozenset[str]:
    """The names that the Host header may have for a dashboard at `host` without a token."""
    return LOCAL_NAMES | {host.lower()}


async def _refuse(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await response(scope, receive, _with_headers(send))


def _limited(receive: Receive) -> Receive:
    """A `receive` that ends a request as if its client had gone when the body is too large."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if size > MAX_FORM_BYTES else message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", POLICY)
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Referrer-Policy", "same-origin")
            headers.setdefault("X-Frame-Options", "SAMEORIGIN")
        await send(message)

    return sending


def _hostname(host: str) -> str:
    """The host without its port: localhost:8090 -> localhost, [::1]:8090 -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
