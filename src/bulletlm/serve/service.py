"""The objects that all routes share: the model, the scheduler, and the checks of requests."""

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from bulletlm.errors import BulletError, ConfigError
from bulletlm.hardware import available_cores
from bulletlm.runtime import Model, Sampling
from bulletlm.serve.answers import AnswerFormat, CompletionSpec, RequestRun, StreamedAnswer, Usage, plain_answer
from bulletlm.serve.embeddings import Embedder, Vector
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientDisconnected
from bulletlm.serve.metrics import Metrics
from bulletlm.serve.options import ServeOptions
from bulletlm.serve.scheduler import Scheduler
from bulletlm.serve.sessions import SessionPool
from bulletlm.text.chat import fit_prompt
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import BOS


class Service:
    """A model that is served. `close` ends its threads.

    Args:
        model: the loaded model.
        name: its name in answers.
        options: how it is served.

    Attributes:
        max_prompt_tokens: longest prompt in tokens.
        created: when the service was started, in seconds since 1970.

    Raises:
        ConfigError: --max-prompt-tokens exceeds the model's context length.
    """

    def __init__(self, model: Model, name: str, options: ServeOptions) -> None:
        context = model.shape.max_seq_len
        self.max_prompt_tokens = context if options.max_prompt_tokens is None else options.max_prompt_tokens
        if not 1 <= self.max_prompt_tokens <= context:
            raise ConfigError(
                f"--max-prompt-tokens is {self.max_prompt_tokens}: it must be from 1 to {context}, the model's context length"
            )
        self.model, self.name, self.options, self.tokenizer = model, name, options, model.tokenizer
        threads = min(options.threads or available_cores(), options.concurrency)
        self.scheduler = Scheduler(SessionPool(model, options.concurrency), threads, options.queue)
        self.embedder = Embedder(model, options.queue, options.timeout)
        self.metrics = Metrics(self.scheduler.running, self.scheduler.waiting)
        self.created = int(time.time())

    def close(self) -> None:
        """End all completions and threads."""
        self.scheduler.close()

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raises ApiError 400 unless all of `ids` are in the vocabulary."""
        if max(ids, default=0) >= self.tokenizer.vocab_size:
            raise ApiError(400, f"token ids are from 0 to {self.tokenizer.vocab_size - 1}, not {max(ids)}", param, "invalid_value")

    def check_length(self, ids: Sequence[int], param: str) -> None:
        """Raises ApiError 400 unless a prompt is short enough."""
        if len(ids) > self.max_prompt_tokens:
            message = (
                f"This model's maximum context length is {self.model.shape.max_seq_len} tokens, and a prompt may have "
                f"{self.max_prompt_tokens}: this one has {len(ids)}. Shorten it."
            )
            raise ApiError(400, message, param, "context_length_exceeded")

    def chat_prompt(
        self, messages: Sequence[Mapping[str, object]], sampling: Sampling, param: str, overflow: str | None = None
    ) -> tuple[list[int], Usage]:
        """The prompt of a conversation, without its oldest messages if it is too long and `overflow` (or the option) is "drop".

        Raises:
            ApiError: 400, the conversation cannot be answered, or it is too long.
        """
        # As in `bullet chat`, half of the longest answer must fit in the context too.
        context = self.model.shape.max_seq_len
        room = min(self.max_prompt_tokens, context - min(sampling.max_tokens, context) // 2)
        drop = (overflow or self.options.overflow) == "drop"
        try:
            fitted = fit_prompt(self.tokenizer, messages, room if drop else sys.maxsize)
        except BulletError as error:
            raise ApiError(400, str(error), param, "invalid_value") from None
        self.check_length(fitted.ids, param)
        return fitted.ids, Usage(len(fitted.ids), fitted.omitted)

    def encode_all(self, texts: str | list[str] | list[int] | list[list[int]], param: str) -> list[list[int]]:
        """Prompts as token ids. A text is normalized and gets <s> before it; tokens are used unchanged."""
        several: list[Any] = [texts] if isinstance(texts, str) or isinstance(texts[0], int) else texts
        prompts = [[BOS, *self.tokenizer.encode(normalize(text))] if isinstance(text, str) else text for text in several]
        for ids in prompts:
            self.check_ids(ids, param)
        return prompts

    async def embed(self, request: Request, inputs: Sequence[Sequence[int]]) -> list[Vector]:
        """`Embedder.embed` for prompts of allowed length; the tokens, or the disconnected client, are counted in the metrics.

        Raises:
            ApiError: see `Embedder.embed`; or 400, an input is too long.
            ClientDisconnected: the client has closed the connection.
        """
        for ids in inputs:
            self.check_length(ids, "input")
        try:
            vectors = await self.embedder.embed(request, inputs)
        except ClientDisconnected:
            self.metrics.abandoned.inc()
            raise
        self.metrics.tokens.labels("prompt").inc(sum(map(len, inputs)))
        return vectors

    def sampling(
        self, settings: Mapping[str, Any], *, max_tokens: int | None, seed: int | None, logit_bias: Mapping[int, float]
    ) -> Sampling:
        """The model's sampling settings with those of `settings` that are not None.

        Args:
            settings: fields of Sampling.
            max_tokens: below 0: no limit except the context length; None: as in the model file.
            seed: any integer; None takes a random one.
            logit_bias: token id -> number added to its logit.

        Raises:
            ApiError: 400, `logit_bias` has an id outside the vocabulary.
        """
        self.check_ids(list(logit_bias), "logit_bias")
        given = {name: value for name, value in settings.items() if value is not None}
        if given.get("top_k") == -1:
            given["top_k"] = 0
        if max_tokens is not None:
            context = self.model.shape.max_seq_len
            given["max_tokens"] = context if max_tokens < 0 else max(1, min(max_tokens, context))
        seed = secrets.randbits(63) if seed is None else seed % (1 << 64)
        return replace(self.model.sampling, **given, logit_bias=logit_bias, seed=seed)

    async def answer(
        self, request: Request, specs: Sequence[CompletionSpec], *, usage: Usage, answer_format: AnswerFormat, stream: bool
    ) -> Response:
        """Run the completions of a request, and answer in `answer_format`."""
        client = request.client.host if request.client else ""
        run = RequestRun(self.scheduler, self.metrics, client, specs, usage, request.state.arrived, self.options.timeout)
        return StreamedAnswer(run, answer_format) if stream else await plain_answer(request, run, answer_format)


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
"""Parameter type of a route that uses the service."""
