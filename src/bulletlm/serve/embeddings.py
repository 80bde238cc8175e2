"""Texts as vectors: computed one at a time beside the completions, on a thread of their own."""

import asyncio
import base64
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bulletlm.runtime import Model
from bulletlm.serve.errors import ApiError

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
        """A vector of length 1 for each input, float32[dim]; none if the client goes away meanwhile.

        Raises:
            ApiError: too many wait (429), it takes too long (504), or the weights are damaged (500).
        """
        if self._requests >= self._room:
            raise ApiError(429, "too many requests are waiting: try again in a moment", code="rate_limit_exceeded", Retry_After="1")
        until, vectors = time.monotonic() + self._seconds, list[Vector]()
        self._requests += 1
        try:
            for ids in inputs:
                # A lock is fair, so requests with many texts and with few take turns.
                async with self._one:
                    vector = await to_thread.run_sync(self._model.hidden, ids, limiter=self._thread)
                if not np.isfinite(vector).all():
                    raise ApiError(500, "the model's output is not a number: its weights are damaged; run `bullet verify` on the file")
                if time.monotonic() > until:
                    raise ApiError(504, f"not done within {self._seconds:g} s: send fewer texts at once", code="timeout")
                vectors.append(vector / np.linalg.norm(vector))
                if await request.is_disconnected():
                    return []
        finally:
            self._requests -= 1
        return vectors


def in_base64(vector: Vector) -> str:
    """Little-endian float32, as OpenAI's client asks for them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
