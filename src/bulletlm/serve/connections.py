"""How many connections there may be at once, and how long a client may keep one waiting."""

import time
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import refuse

HEAD_SECONDS = 10.0
"""Within which the head of a request must be here, from the connection's beginning or from its first byte."""

STALL_SECONDS = 30.0
"""After which a client that takes nothing of its answer is cut off."""

REFUSALS = 64
"""Connections besides the allowed ones, which are told that there is no room. Still further ones are closed at once."""

FULL = ApiError(503, "too many connections: try again in a moment", code="too_many_connections", Retry_After="1", Connection="close")


async def no_room(scope: Scope, receive: Receive, send: Send) -> None:
    """The application that answers connections for which there is no room."""
    await refuse(FULL, scope, receive, send)


class Connection(H11Protocol):
    """uvicorn's protocol over h11, which itself takes no head above 16 KiB, with a limit on connections and on patience.

    Args:
        most: connections at once.
        given: what uvicorn gives.
    """

    def __init__(self, most: int, **given: Any) -> None:
        super().__init__(**given)
        self._most = most
        self._unsent, self._moved = 0, 0.0  # bytes that the client has not taken, and when they last were others
        self._waiting: float | None = None  # since when the head of a request is on its way

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting = time.monotonic()
        if len(self.connections) > self._most + REFUSALS:
            transport.abort()
        elif len(self.connections) > self._most:
            self.app = no_room

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting = None
        elif self._waiting is None:
            self._waiting = time.monotonic()

    def hurry(self) -> None:
        """End the connection if its client has kept it waiting for too long; called every second or so."""
        now, unsent = time.monotonic(), self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._moved = unsent, now
        if unsent and now - self._moved > STALL_SECONDS:
            self.transport.abort()
        elif self._waiting is not None and now - self._waiting > HEAD_SECONDS and not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                message = f"the head of the request did not arrive within {HEAD_SECONDS:g} s: send it faster"
                self._answer(ApiError(408, message, Connection="close"))
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP, or has too long a head."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(ApiError(400, "this is not a valid HTTP request", Connection="close"))
        self.transport.close()

    def _answer(self, error: ApiError) -> None:
        answer = error.response()
        head = h11.Response(status_code=error.status, headers=answer.raw_headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
