"""Checks every request before its route: whether the sender has access, and whether the request is too large.

This is plain ASGI middleware, so it also covers paths that have no route.
"""

import asyncio
import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bulletlm.serve.errors import ApiError

OPEN_PATHS = frozenset(["/", "/health"])
"""Paths that need no key: they reveal nothing, and browsers and load balancers have no key."""

BODY_SECONDS = 30.0
"""Seconds within which the whole body of a request must arrive."""

MAX_DISCARDED_BYTES = 64 << 20
"""Bytes of a refused request that are read and discarded before the answer is sent.

If the server closes a connection while the client is still sending, the client gets a connection reset and not the answer. So the
server answers only after the whole request has arrived, unless it is larger than this.
"""


class Guard:
    """Passes a request on to `app`, or answers it with an error. Sets `request.state.arrived` to its arrival by time.monotonic().

    Args:
        app: the application behind this one.
        key: what a request must carry as `Authorization: Bearer KEY`; None accepts all requests.
        hosts: names that the Host header may have; empty accepts any name. When an attacker makes the name of a web page point
            to 127.0.0.1 (DNS rebinding), the Host header carries that name.
        origins: web pages that may send requests; "*" accepts all. Requests of other pages are refused, even though their
            browsers would not show them the answer.
        max_bytes: largest size of a body in bytes.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: Collection[str], origins: Collection[str], max_bytes: int) -> None:
        self.app = app
        self.key = None if key is None else key.encode()
        self.hosts, self.origins, self.max_bytes = frozenset(hosts), frozenset(origins), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["arrived"] = time.monotonic()
        headers = Headers(scope=scope)
        try:
            self.check(headers, scope["path"])
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_body(receive, self.max_bytes)
        except ClientDisconnected:
            return
        except BodyTooLarge as error:
            size = max(error.size, int(headers.get("content-length", "0")))
            text = f"the request has {size:,} bytes, but the limit is {self.max_bytes:,}: send less"
            await ApiError(413, text, code="request_too_large", Connection="close")(scope, receive, send)
            return
        except TimeoutError:
            text = f"the request did not arrive within {BODY_SECONDS:g} s: send it faster"
            await ApiError(408, text, Connection="close")(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def check(self, headers: Headers, path: str) -> None:
        """Check the headers of a request for `path`.

        Raises:
            ApiError: the Host header has a wrong name (400), the web page is not allowed (403), or the key is missing or wrong (401).
        """
        if self.hosts and _hostname(headers.get("host", "")) not in self.hosts:
            name = _hostname(headers.get("host", ""))
            message = f"the Host header names {name!r}: use 127.0.0.1 or localhost, or start `bullet serve` with --allowed-host {name}"
            raise ApiError(400, message, code="invalid_host")
        origin = headers.get("origin")
        if origin is not None and "*" not in self.origins and origin not in self.origins:
            raise ApiError(
                403,
                "this web page may not use this server: start `bullet serve` with --cors and the page's origin",
                code="origin_not_allowed",
            )
        if self.key is None or path in OPEN_PATHS:
            return
        given = headers.get("authorization")
        if given is None:
            message = "no API key: send the header Authorization: Bearer KEY"
            raise ApiError(401, message, code="missing_api_key", WWW_Authenticate="Bearer")
        scheme, _, sent = given.partition(" ")
        if scheme.lower() != "bearer":
            message = "the Authorization header has another form: send Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", WWW_Authenticate="Bearer")
        if not hmac.compare_digest(sent.strip().encode("latin-1"), self.key):
            raise ApiError(401, "wrong API key", code="invalid_api_key", WWW_Authenticate="Bearer")


class Cors(CORSMiddleware):
    """Lets the web pages of `origins` send requests and read the answers.

    Before a page of the internet may do so on a computer in a private network, browsers ask for that too.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(app, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"], allow_private_network=True)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200 and "Access-Control-Allow-Private-Network" in response.headers:
            del response.headers["Access-Control-Allow-Private-Network"]
        return response


class ClientDisconnected(Exception):
    """The client has closed the connection, so there is nothing to answer."""


class BodyTooLarge(Exception):
    """A body has at least `size` bytes, which is more than allowed."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The body of a request. A body larger than `max_bytes` is read to its end and discarded: see MAX_DISCARDED_BYTES.

    Raises:
        BodyTooLarge: it is larger than `max_bytes`.
        ClientDisconnected: the connection was closed before the end of the body.
    """
    size, parts = 0, list[bytes]()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part = message.get("body", b"")
        size += len(part)
        if size <= max_bytes:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body") or size > max_bytes + MAX_DISCARDED_BYTES:
            break
    if size > max_bytes:
        raise BodyTooLarge(size)
    return b"".join(parts)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with `error` after all of it has arrived or BODY_SECONDS have passed: see MAX_DISCARDED_BYTES."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            await read_body(receive, 0)
    except ClientDisconnected:
        return
    except (BodyTooLarge, TimeoutError):
        pass
    await error(scope, receive, send)


def _hostname(host: str) -> str:
    """The host without its port: localhost:8000 -> localhost, [::1]:8000 -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, then what really comes next: the disconnect of the client."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
