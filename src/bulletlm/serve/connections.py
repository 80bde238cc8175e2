"""Limits the number of open connections, and the time that a slow client may keep one open."""

import time
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import refuse

HEAD_SECONDS = 10.0
"""Seconds within which the head of a request must arrive, counted from the start of the connection or from the head's first byte."""

STALL_SECONDS = 30.0
"""Seconds after which the server closes a connection whose client reads nothing of its answer."""

REFUSED_CONNECTIONS = 64
"""Connections above the limit that get an answer with status 503. Further connections are closed without an answer."""

FULL = ApiError(503, "too many connections: try again in a moment", code="too_many_connections", Retry_After="1", Connection="close")


async def refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """The application that answers connections above the limit."""
    await refuse(FULL, scope, receive, send)


class Connection(H11Protocol):
    """uvicorn's HTTP protocol with a limit on the number of connections and with timeouts for slow clients.

    h11 itself refuses heads above 16 KiB.

    Args:
        max_connections: connections that may be open at the same time.
        uvicorn_arguments: the arguments that uvicorn passes.
    """

    def __init__(self, max_connections: int, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._max_connections = max_connections
        self._unsent_bytes, self._unsent_changed = 0, 0.0  # bytes that the client has not read, and when their number last changed
        self._head_since: float | None = None  # when the server began to wait for the head of a request

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_since = time.monotonic()
        if len(self.connections) > self._max_connections + REFUSED_CONNECTIONS:
            transport.abort()
        elif len(self.connections) > self._max_connections:
            self.app = refuse_connection

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = time.monotonic()

    def enforce_timeouts(self) -> None:
        """Close the connection if its client has exceeded HEAD_SECONDS or STALL_SECONDS. The server calls this about once a second."""
        now, unsent = time.monotonic(), self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:
            self._unsent_bytes, self._unsent_changed = unsent, now
        if unsent and now - self._unsent_changed > STALL_SECONDS:
            self.transport.abort()
        elif self._head_since is not None and now - self._head_since > HEAD_SECONDS and not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                message = f"the head of the request did not arrive within {HEAD_SECONDS:g} s: send it faster"
                self._answer(ApiError(408, message, Connection="close"))
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP, or a head that is too long."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(ApiError(400, "this is not a valid HTTP request", Connection="close"))
        self.transport.close()

    def _answer(self, error: ApiError) -> None:
        answer = error.response()
        head = h11.Response(status_code=error.status, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
