"""Embeddings: texts as vectors.

One text is computed at a time, on a thread of its own, at the same time as the completions and in parts, as long prompts are.
"""

import asyncio
import base64
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bulletlm.runtime import Model
from bulletlm.serve.errors import ApiError, queue_full
from bulletlm.serve.guard import ClientDisconnected

Vector = npt.NDArray[np.float32]


class Embedder:
    """Computes embeddings.

    Args:
        model: the model.
        queue: requests that may wait while another one is computed.
        timeout: seconds for one request, counted from its arrival.
    """

    def __init__(self, model: Model, queue: int, timeout: float) -> None:
        self._model, self._capacity, self._timeout = model, 1 + queue, timeout
        self._requests = 0
        self._lock = asyncio.Lock()
        self._thread = CapacityLimiter(1)

    async def embed(self, request: Request, inputs: Sequence[Sequence[int]]) -> list[Vector]:
        """A vector of length 1 for each input: the mean of the model's last hidden states, float32[dim].

        Raises:
            ApiError: too many requests wait (429), the timeout is over (504), or the weights are damaged (500).
            ClientDisconnected: the client has closed the connection.
        """
        if self._requests >= self._capacity:
            raise queue_full()
        self._requests += 1
        try:
            return [await self._vector(request, ids) for ids in inputs]
        finally:
            self._requests -= 1

    async def _vector(self, request: Request, ids: Sequence[int]) -> Vector:
        deadline, total = request.state.arrived + self._timeout, np.zeros(self._model.shape.dim)
        try:
            # asyncio.Lock is fair, so a request with many texts and one with few texts take turns.
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._lock.acquire()
        except TimeoutError:
            raise self._too_late() from None
        try:
            sums = self._model.hidden_sums(ids)
            while (part := await to_thread.run_sync(next, sums, None, limiter=self._thread)) is not None:
                total += part
                if time.monotonic() > deadline:
                    raise self._too_late()
                if await request.is_disconnected():
                    raise ClientDisconnected
        finally:
            self._lock.release()
        if not np.isfinite(total).all():
            raise ApiError(500, "the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
        return (total / np.linalg.norm(total)).astype(np.float32)

    def _too_late(self) -> ApiError:
        return ApiError(504, f"not done within {self._timeout:g} s: send less text at once, or try again later", code="timeout")


def to_base64(vector: Vector) -> str:
    """Little-endian float32 in base64, the form that OpenAI's client requests."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
