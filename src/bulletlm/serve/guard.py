"""What stands before every route: who may ask, and how much they may send. Plain ASGI, so that it also covers what has no route."""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bulletlm.serve.errors import ApiError

OPEN_PATHS = frozenset(["/health"])
"""May be asked without a key: it tells nothing, and load balancers have none."""

LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])

BODY_SECONDS = 30.0
"""Within which a request must have arrived completely."""

PATIENCE = 64 << 20
"""Bytes of a refused request that are read and thrown away. A connection that is closed on a sender who is still sending is
reset, and with it the answer is lost: so nobody is answered before the end of his request but the grossest senders."""


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this computer as seen from itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Lets a request through to `app`, or answers it with an error. Notes when it came: `request.state.arrived`, of time.monotonic().

    Args:
        app: what comes after.
        key: what a request must carry as `Authorization: Bearer KEY`; None lets everybody in.
        hosts: what the Host header may name; empty: anything. A web page whose name an attacker points at 127.0.0.1
            (DNS rebinding) carries that name here.
        origins: web pages that may ask; "*" means all. Others are refused, whatever their browser would let them see of the answer.
        max_bytes: a body's largest size.
    """

    def __init__(self, app: ASGIApp, key: str | None, hosts: Collection[str], origins: Collection[str], max_bytes: int) -> None:
        self.app = app
        self.expected = None if key is None else f"Bearer {key}".encode()
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
                body = await read(receive, self.max_bytes)
        except ClientGone:
            return
        except TooLarge as error:
            size = max(error.size, int(headers.get("content-length", "0")))
            text = f"the request has {size:,} bytes: at most {self.max_bytes:,} are taken"
            await ApiError(413, text, code="request_too_large", Connection="close")(scope, receive, send)
            return
        except TimeoutError:
            late = ApiError(408, f"the request did not arrive within {BODY_SECONDS:g} s: send it faster", Connection="close")
            await late(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def check(self, headers: Headers, path: str) -> None:
        """Raises ApiError for a request that may not come in."""
        if self.hosts and _hostname(headers.get("host", "")) not in self.hosts:
            raise ApiError(400, "the Host header names another computer: ask for 127.0.0.1 or localhost", code="invalid_host")
        origin = headers.get("origin")
        if origin is not None and "*" not in self.origins and origin not in self.origins:
            raise ApiError(
                403, "this web page may not ask here: start `bullet serve` with --cors and its origin", code="origin_not_allowed"
            )
        if self.expected is None or path in OPEN_PATHS:
            return
        given = headers.get("authorization")
        if given is None:
            message = "no API key: send the header Authorization: Bearer KEY"
            raise ApiError(401, message, code="missing_api_key", WWW_Authenticate="Bearer")
        if not hmac.compare_digest(given.encode("latin-1"), self.expected):
            raise ApiError(401, "wrong API key", code="invalid_api_key", WWW_Authenticate="Bearer")


class ClientGone(Exception):
    """There is nobody to answer."""


class TooLarge(Exception):
    """A body has `size` bytes, or more."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


async def read(receive: Receive, most: int) -> bytes:
    """The body of a request. What is larger than `most` bytes is read too, and thrown away as it comes: see PATIENCE.

    Raises:
        TooLarge: it is larger.
        ClientGone: its end did not come.
    """
    size, parts = 0, list[bytes]()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size <= most:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body") or size > most + PATIENCE:
            break
    if size > most:
        raise TooLarge(size)
    return b"".join(parts)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error when all of it is here, or has had its time: see PATIENCE."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            await read(receive, 0)
    except ClientGone:
        return
    except (TooLarge, TimeoutError):
        pass
    await error(scope, receive, send)


def _hostname(host: str) -> str:
    """Without the port: localhost:8000 -> localhost, [::1]:8000 -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, then what comes after it, which is the client's leaving."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
