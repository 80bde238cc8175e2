"""Sends completions as an HTTP answer, as one JSON object or as a stream, until the client disconnects or the timeout is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from bulletlm.runtime import Sampling, Token
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientDisconnected
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.scheduler import Finish, Job, Scheduler


@dataclass(frozen=True)
class CompletionSpec:
    """One completion that a request asks for.

    Attributes:
        prompt: token ids.
        sampling: how to choose tokens.
        stop: strings that end the answer.
        logprobs: number of likeliest tokens to report with each token; None reports no log-probabilities.
        score_prompt: report the tokens of the prompt with their log-probabilities first.
        generate: whether to generate an answer.
    """

    prompt: Sequence[int]
    sampling: Sampling
    stop: Sequence[str] = ()
    logprobs: int | None = None
    score_prompt: bool = False
    generate: bool = True


@dataclass(frozen=True)
class Disconnected:
    """Event: the client has closed the connection."""


@dataclass(frozen=True)
class DeadlineReached:
    """Event: the request's timeout is over."""


@dataclass(frozen=True)
class TokenBatch:
    """Event: new tokens of choice `index` (first those of a scored prompt), and its Finish if they are the last."""

    index: int
    tokens: Sequence[Token]
    finish: Finish | None


Event = TokenBatch | Disconnected | DeadlineReached


class Choice(NamedTuple):
    """A finished completion."""

    tokens: list[Token]
    finish_reason: str


@dataclass
class Usage:
    """The token counts of a request.

    Attributes:
        prompt: tokens of its prompts, each counted once.
        omitted: messages that were left out of its prompt.
        cached: tokens of its prompts that came from the cache.
        completion: generated tokens.
    """

    prompt: int
    omitted: int = 0
    cached: int = 0
    completion: int = 0


class AnswerFormat(Protocol):
    """The format of answers in one of the server's interfaces.

    A stream is `opening`, then `batch` and `finish` of each choice, then `closing`, or `error` if it fails on the way.

    Attributes:
        media_type: content type of a stream.
    """

    media_type: str

    def body(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The JSON object of an answer that is not streamed."""

    def opening(self) -> bytes:
        """Return the beginning of a stream."""

    def batch(self, index: int, tokens: Sequence[Token]) -> bytes:
        """New tokens of choice `index`; may be empty."""

    def finish(self, index: int, finish_reason: str) -> bytes:
        """The end of choice `index`; may be empty."""

    def closing(self, usage: Usage) -> bytes:
        """Return the end of a complete stream."""

    def error(self, error: ApiError) -> bytes:
        """Return the end of a stream that failed."""


@dataclass
class RequestRun:
    """The completions of one request while they run.

    Attributes:
        specs: one for each choice.
        usage: what the request has used so far.
        arrived: when the request arrived, by time.monotonic().
        timeout: seconds from `arrived` after which the completions end where they are (finish_reason "length"), or the request is
            refused if none has begun.
    """

    scheduler: Scheduler
    metrics: Metrics
    client: str
    specs: Sequence[CompletionSpec]
    usage: Usage
    arrived: float
    timeout: float

    async def batches(self, receive: Receive) -> AsyncIterator[TokenBatch]:
        """The new tokens of all choices as they are generated, until all have ended. Leaving the loop cancels what still runs.

        Raises:
            ApiError: no room (429), the server is stopping (503), the timeout is over (504), or the model failed (500).
            ClientDisconnected: `receive` reported it.
        """
        loop, seconds_left = asyncio.get_running_loop(), self.arrived + self.timeout - time.monotonic()
        if seconds_left <= 0:
            raise too_late(self.timeout)
        events: asyncio.Queue[Event] = asyncio.Queue()
        jobs = [
            Job(
                self.client,
                spec.prompt,
                spec.sampling,
                spec.stop,
                spec.logprobs,
                _sender(loop, events, index),
                spec.score_prompt,
                spec.generate,
            )
            for index, spec in enumerate(self.specs)
        ]
        unscored = [len(spec.prompt) if spec.score_prompt else 0 for spec in self.specs]
        self.scheduler.submit(jobs)
        watcher = asyncio.create_task(_report_disconnect(receive, events))
        timer = loop.call_later(seconds_left, events.put_nowait, DeadlineReached())
        unfinished, begun = len(jobs), False
        try:
            while unfinished:
                event = await events.get()
                if isinstance(event, Disconnected):
                    self.metrics.abandoned.inc()
                    raise ClientDisconnected
                if isinstance(event, DeadlineReached):
                    if not begun or any(unscored):  # a client cannot use a partly scored prompt
                        raise too_late(self.timeout)
                    for job in jobs:
                        self.scheduler.cancel(job)
                    continue
                if event.tokens and not begun:
                    begun = True
                    self.metrics.first_token.observe(time.monotonic() - self.arrived)
                if event.finish:
                    unfinished -= 1
                    if event.finish.error:
                        raise event.finish.error
                    self.usage.cached = min(self.usage.cached + event.finish.reused, self.usage.prompt)
                scored = min(unscored[event.index], len(event.tokens))
                unscored[event.index] -= scored
                self.usage.completion += len(event.tokens) - scored
                yield event
        finally:
            timer.cancel()
            watcher.cancel()
            for job in jobs:
                self.scheduler.cancel(job)
            self.metrics.tokens.labels("prompt").inc(self.usage.prompt)
            self.metrics.tokens.labels("cached").inc(self.usage.cached)
            self.metrics.tokens.labels("completion").inc(self.usage.completion)


def too_late(timeout: float) -> ApiError:
    """504: the timeout is over, and no completion has begun."""
    return ApiError(504, f"the server is busy, and no token was generated within {timeout:g} s: try again later", code="timeout")


def _sender(
    loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event]", index: int
) -> Callable[[Sequence[Token], Finish | None], None]:
    """A function for the scheduler's threads that puts the tokens of choice `index` into `events`."""

    def emit(tokens: Sequence[Token], finish: Finish | None) -> None:
        try:
            loop.call_soon_threadsafe(events.put_nowait, TokenBatch(index, tokens, finish))
        except RuntimeError:
            if not loop.is_closed():  # a second Ctrl-C closes the loop while jobs still run
                raise

    return emit


async def _report_disconnect(receive: Receive, events: "asyncio.Queue[Event]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    events.put_nowait(Disconnected())


async def plain_answer(request: Request, run: RequestRun, answer_format: AnswerFormat) -> Response:
    """All choices in one JSON object."""
    choices = [Choice([], "") for _ in run.specs]
    batches = run.batches(request.receive)
    try:
        async for batch in batches:
            choices[batch.index].tokens.extend(batch.tokens)
            if batch.finish:
                choices[batch.index] = choices[batch.index]._replace(finish_reason=batch.finish.finish_reason)
    except ClientDisconnected:
        return Response(status_code=499)
    finally:
        await batches.aclose()  # type: ignore[attr-defined]
    return JSONResponse(answer_format.body(choices, run.usage))


class StreamedAnswer(Response):
    """The choices as they are generated.

    Nothing is sent before the first tokens are generated, so a request that is refused gets the right status.
    """

    def __init__(self, run: RequestRun, answer_format: AnswerFormat) -> None:
        self.media_type = answer_format.media_type
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.run, self.format = run, answer_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        batches, opened = self.run.batches(receive), False
        try:
            async for batch in batches:
                if not opened:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await self._write(send, self.format.opening())
                    opened = True
                if batch.tokens:
                    await self._write(send, self.format.batch(batch.index, batch.tokens))
                if batch.finish:
                    await self._write(send, self.format.finish(batch.index, batch.finish.finish_reason))
            await send({"type": "http.response.body", "body": self.format.closing(self.run.usage)})
        except ClientDisconnected:
            pass
        except ApiError as error:
            if not opened:
                await error(scope, receive, send)
                return
            await send({"type": "http.response.body", "body": self.format.error(error)})
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    async def _write(self, send: Send, data: bytes) -> None:
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})
