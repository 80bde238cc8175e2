"""Texts as vectors: computed one at a time beside the completions, on a thread of their own, and in parts like long prompts."""

import asyncio
import base64
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bulletlm.runtime import Model
from bulletlm.serve.errors import ApiError, too_many
from bulletlm.serve.guard import ClientGone

Vector = npt.NDArray[np.float32]


class Embedder:
    """Computes embeddings.

    Args:
        model: the model.
        waiting: requests that may wait for others.
        seconds: for one request, from its arrival.
    """

    def __init__(self, model: Model, waiting: int, seconds: float) -> None:
        self._model, self._room, self._seconds = model, 1 + waiting, seconds
        self._requests = 0
        self._one = asyncio.Lock()
        self._thread = CapacityLimiter(1)

    async def embed(self, request: Request, inputs: Sequence[Sequence[int]]) -> list[Vector]:
        """A vector of length 1 for each input, float32[dim].

        Raises:
            ApiError: too many wait (429), it takes too long (504), or the weights are damaged (500).
            ClientGone: nobody waits for it any more.
        """
        if self._requests >= self._room:
            raise too_many()
        self._requests += 1
        try:
            return [await self._vector(request, ids) for ids in inputs]
        finally:
            self._requests -= 1

    async def _vector(self, request: Request, ids: Sequence[int]) -> Vector:
        until, total = request.state.arrived + self._seconds, np.zeros(self._model.shape.dim)
        try:
            # A lock is fair, so requests with many texts and with few take turns.
            async with asyncio.timeout(until - time.monotonic()):
                await self._one.acquire()
        except TimeoutError:
            raise self._late() from None
        try:
            sums = self._model.hidden_sums(ids)
            while (part := await to_thread.run_sync(next, sums, None, limiter=self._thread)) is not None:
                total += part
                if time.monotonic() > until:
                    raise self._late()
                if await request.is_disconnected():
                    raise ClientGone
        finally:
            self._one.release()
        if not np.isfinite(total).all():
            raise ApiError(500, "the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
        return (total / np.linalg.norm(total)).astype(np.float32)

    def _late(self) -> ApiError:
        return ApiError(504, f"not done within {self._seconds:g} s: send less text at once, or try again later", code="timeout")


def in_base64(vector: Vector) -> str:
    """Little-endian float32, as OpenAI's client asks for them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
