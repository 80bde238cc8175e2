"""From jobs to an HTTP answer, plain or streamed, for as long as the client is there and its time lasts."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from bulletlm import __version__
from bulletlm.runtime import Sampling, Token
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientGone
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.scheduler import End, Job, Scheduler
from bulletlm.serve.shapes import ChatShape, TextShape

FINGERPRINT = f"bulletlm-{__version__}"

Shape = ChatShape | TextShape


@dataclass(frozen=True)
class Wish:
    """One completion that a request asks for."""

    prompt: Sequence[int]
    sampling: Sampling
    stop: Sequence[str] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Gone:
    """The client went away."""


@dataclass(frozen=True)
class Late:
    """The request's time is over."""


@dataclass(frozen=True)
class Part:
    """New tokens of choice `index`, and how it ended if it did."""

    index: int
    tokens: Sequence[Token]
    end: End | None


@dataclass
class Usage:
    """Tokens of a request, as OpenAI counts them."""

    prompt: int
    cached: int = 0
    completion: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass
class Work:
    """The completions of one request, running.

    Args:
        wishes: one for each choice.
        prompt_tokens: of all prompts, each counted once.
        arrived: when the request came, of time.monotonic().
        seconds: from then on, after which they are cut off where they are (finish_reason "length"), or refused if none has begun.
    """

    scheduler: Scheduler
    metrics: Metrics
    client: str
    wishes: Sequence[Wish]
    prompt_tokens: int
    arrived: float
    seconds: float
    usage: Usage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(self.prompt_tokens)

    async def parts(self, receive: Receive) -> AsyncIterator[Part]:
        """New tokens as they come, of all choices, until all have ended. Leaving the loop ends what is still running.

        Raises:
            ApiError: no room (429), stopping (503), too late (504), or the model failed (500).
            ClientGone: `receive` said so.
        """
        loop, left_seconds = asyncio.get_running_loop(), self.arrived + self.seconds - time.monotonic()
        if left_seconds <= 0:
            raise late(self.seconds)
        inbox: asyncio.Queue[Part | Gone | Late] = asyncio.Queue()
        jobs = [
            Job(self.client, wish.prompt, wish.sampling, wish.stop, wish.logprobs, _sender(loop, inbox, index))
            for index, wish in enumerate(self.wishes)
        ]
        self.scheduler.submit(jobs)
        watch = asyncio.create_task(_announce_leaving(receive, inbox))
        clock = loop.call_later(left_seconds, inbox.put_nowait, Late())
        left, begun = len(jobs), False
        try:
            while left:
                part = await inbox.get()
                if isinstance(part, Gone):
                    self.metrics.abandoned.inc()
                    raise ClientGone
                if isinstance(part, Late):
                    if not begun:
                        raise late(self.seconds)
                    for job in jobs:
                        self.scheduler.cancel(job)
                    continue
                if part.tokens and not begun:
                    begun = True
                    self.metrics.first_token.observe(time.monotonic() - self.arrived)
                if part.end:
                    left -= 1
                    if part.end.error:
                        raise part.end.error
                    self.usage.cached = min(self.usage.cached + part.end.reused, self.usage.prompt)
                self.usage.completion += len(part.tokens)
                yield part
        finally:
            clock.cancel()
            watch.cancel()
            for job in jobs:
                self.scheduler.cancel(job)
            self.metrics.tokens.labels("prompt").inc(self.usage.prompt)
            self.metrics.tokens.labels("cached").inc(self.usage.cached)
            self.metrics.tokens.labels("completion").inc(self.usage.completion)


def late(seconds: float) -> ApiError:
    return ApiError(504, f"no token within {seconds:g} s, since the server is busy: try again later", code="timeout")


def _sender(loop: asyncio.AbstractEventLoop, inbox: "asyncio.Queue[Part | Gone | Late]", index: int) -> Any:
    def emit(tokens: Sequence[Token], end: End | None) -> None:
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, Part(index, tokens, end))
        except RuntimeError:
            if not loop.is_closed():  # a second Ctrl-C waits for nobody
                raise

    return emit


async def _announce_leaving(receive: Receive, inbox: "asyncio.Queue[Part | Gone | Late]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.put_nowait(Gone())


async def plain_answer(request: Request, work: Work, shape: Shape, model: str) -> Response:
    """All choices in one JSON object."""
    tokens: list[list[Token]] = [[] for _ in work.wishes]
    reasons = [""] * len(tokens)
    parts = work.parts(request.receive)
    try:
        async for part in parts:
            tokens[part.index] += part.tokens
            if part.end:
                reasons[part.index] = part.end.finish_reason
    except ClientGone:
        return Response(status_code=499)
    finally:
        await parts.aclose()  # type: ignore[attr-defined]
    choices = [shape.whole(index, tokens[index], reason) for index, reason in enumerate(reasons)]
    return JSONResponse({**_frame(shape.prefix, shape.plain, model), "choices": choices, "usage": work.usage.to_dict()})


class StreamedAnswer(Response):
    """Server-sent events, one `data:` line of JSON each, then `data: [DONE]`.

    Nothing is sent before the first tokens are there, so that a request that is refused gets the status that says so.
    What has come in while the last event was being written goes out as one event.
    """

    media_type = "text/event-stream"

    def __init__(self, work: Work, shape: Shape, model: str, with_usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.work, self.shape, self.with_usage = work, shape, with_usage
        self.frame = _frame(shape.prefix, shape.chunk, model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, opened = self.work.parts(receive), False
        try:
            async for part in parts:
                if not opened:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    openings = [self.shape.opening(index) for index in range(len(self.work.wishes))]
                    await self._send(send, *filter(None, openings))
                    opened = True
                if any(token.text for token in part.tokens) or (part.tokens and self.work.wishes[part.index].logprobs is not None):
                    await self._send(send, self.shape.part(part.index, part.tokens))
                if part.end:
                    await self._send(send, self.shape.closing(part.index, part.end.finish_reason))
            if self.with_usage:
                await self._write(send, {**self.frame, "choices": [], "usage": self.work.usage.to_dict()})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        except ClientGone:
            pass
        except ApiError as error:
            if not opened:
                await error(scope, receive, send)
                return
            await self._write(send, error.body())
            await send({"type": "http.response.body", "body": b""})
        finally:
            await parts.aclose()  # type: ignore[attr-defined]

    async def _send(self, send: Send, *choices: dict[str, Any]) -> None:
        usage: dict[str, Any] = {"usage": None} if self.with_usage else {}
        for choice in choices:
            await self._write(send, {**self.frame, "choices": [choice], **usage})

    async def _write(self, send: Send, event: dict[str, Any]) -> None:
        line = f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})


def _frame(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": FINGERPRINT,
    }
