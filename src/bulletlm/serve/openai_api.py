"""The HTTP routes: OpenAI's interface as far as a text model has it, and a few of our own."""

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Path
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm import __version__
from bulletlm.errors import BulletError
from bulletlm.runtime import Model, Sampling
from bulletlm.serve.answers import Shape, StreamedAnswer, Wish, Work, plain_answer
from bulletlm.serve.embeddings import Embedder, in_base64
from bulletlm.serve.errors import ApiError, install_handlers
from bulletlm.serve.guard import ClientGone, Guard
from bulletlm.serve.metrics import Measured, Metrics
from bulletlm.serve.scheduler import Scheduler
from bulletlm.serve.schemas import (
    ANY_TOKEN,
    MAX_CHOICES,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    DetokenizeRequest,
    DetokenizeResponse,
    EmbeddingList,
    EmbeddingRequest,
    ErrorResponse,
    Generation,
    Health,
    ModelCard,
    ModelList,
    TokenizeRequest,
    TokenizeResponse,
)
from bulletlm.serve.sessions import SessionPool
from bulletlm.serve.shapes import ChatShape, TextShape, token_text
from bulletlm.shape import ModelShape
from bulletlm.text.chat import encode_prompt
from bulletlm.text.normalize import normalize
from bulletlm.text.tokenizer import BOS


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them, may take.

    Attributes:
        request_bytes: size of a request's body.
        prompt_tokens: length of a prompt.
        concurrency: completions at once; each keeps one KV cache in memory.
        queue: completions that wait besides.
        seconds: for one request, from its arrival to its last token.
        threads: threads that compute.
    """

    request_bytes: int
    prompt_tokens: int
    concurrency: int
    queue: int
    seconds: float
    threads: int


@dataclass(frozen=True)
class Access:
    """Who may ask: see `Guard`."""

    key: str | None = None
    hosts: Collection[str] = ()
    origins: Collection[str] = ()


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "The request is wrong.",
        401: "No API key, or a wrong one.",
        403: "A web page that may not ask.",
        404: "No such model.",
        408: "The request arrived too slowly.",
        413: "The request is too large.",
        429: "Too many requests are waiting.",
        500: "The model failed.",
        503: "The server is stopping, or has too many connections.",
        504: "Too busy to begin in time.",
    }
    return {status: {"model": ErrorResponse, "description": texts[status]} for status in statuses}


READ = (400, 401, 403)
POST = (*READ, 408, 413)
GENERATE = (*POST, 404, 429, 500, 503, 504)
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


def create_app(model: Model, name: str, limits: Limits, access: Access) -> FastAPI:
    """The application: `app.state.scheduler` runs its completions and has to be closed at the end; `app.state.metrics` counts."""
    pool = SessionPool(model, limits.concurrency)
    scheduler = Scheduler(pool, limits.threads, limits.queue)
    embedder = Embedder(model, limits.queue, limits.seconds)
    metrics = Metrics(scheduler.running, scheduler.waiting)
    tokenizer, shape = model.tokenizer, model.shape
    card = ModelCard(
        id=name,
        object="model",
        created=int(time.time()),
        owned_by="bulletlm",
        context_length=shape.max_seq_len,
        parameters=shape.n_parameters,
    )

    # The documentation pages of FastAPI load scripts from the internet, so they are off; /openapi.json is what they show.
    app = FastAPI(title="BulletLM", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.scheduler, app.state.metrics = scheduler, metrics
    generic = app.openapi
    app.openapi = lambda: _made_exact(generic(), name, shape)  # type: ignore[method-assign]
    install_handlers(app)
    app.add_middleware(Guard, key=access.key, hosts=access.hosts, origins=access.origins, max_bytes=limits.request_bytes)
    if access.origins:
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Measured, metrics=metrics)

    def check_model(asked: str) -> None:
        if asked != name:
            raise ApiError(404, f"The model '{asked}' does not exist: this server has '{name}'", "model", "model_not_found")

    def check_ids(ids: Sequence[int], param: str) -> None:
        if max(ids, default=0) >= tokenizer.vocab_size:
            raise ApiError(400, f"token ids are from 0 to {tokenizer.vocab_size - 1}: {max(ids)} is not one", param, "invalid_value")

    def check_length(ids: Sequence[int], param: str) -> None:
        if len(ids) > limits.prompt_tokens:
            message = f"This model's maximum context length is {shape.max_seq_len} tokens, and prompts may have {limits.prompt_tokens}"
            raise ApiError(400, f"{message}: this one has {len(ids)}. Shorten it.", param, "context_length_exceeded")

    def sampling_of(body: Generation, max_tokens: int | None) -> Sampling:
        bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
        check_ids(list(bias), "logit_bias")
        asked = {
            "temperature": body.temperature,
            "top_k": body.top_k,
            "top_p": body.top_p,
            "min_p": body.min_p,
            "repetition_penalty": body.repetition_penalty,
            "presence_penalty": body.presence_penalty,
            "max_tokens": None if max_tokens is None else min(max_tokens, shape.max_seq_len),
        }
        given = {field: value for field, value in asked.items() if value is not None}
        seed = secrets.randbits(63) if body.seed is None else body.seed % (1 << 64)
        return replace(model.sampling, **given, logit_bias=bias, seed=seed)  # type: ignore[arg-type]

    async def answer(
        request: Request, body: Generation, prompts: list[list[int]], max_tokens: int | None, top: int | None, shape: Shape
    ) -> Response:
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options is only for streams: set stream", "stream_options", "invalid_value")
        for ids in prompts:
            check_length(ids, "prompt" if isinstance(body, CompletionRequest) else "messages")
        sampling = sampling_of(body, max_tokens)
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        wishes = [Wish(ids, replace(sampling, seed=sampling.seed + number), stop, top) for ids in prompts for number in range(body.n or 1)]
        client = request.client.host if request.client else ""
        work = Work(scheduler, metrics, client, wishes, sum(map(len, prompts)), request.state.arrived, limits.seconds)
        if body.stream:
            return StreamedAnswer(work, shape, name, with_usage=bool(body.stream_options and body.stream_options.include_usage))
        return await plain_answer(request, work, shape, name)

    @app.post("/v1/chat/completions", responses={**STREAM, **_errors(*GENERATE)}, response_model=ChatCompletion, tags=["OpenAI"])
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer the last message of a conversation."""
        check_model(body.model)
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens are the same: give one of them", "max_tokens", "invalid_value")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: set it to true", "top_logprobs", "invalid_value")
        top = (body.top_logprobs or 0) if body.logprobs else None
        try:
            ids = await run_in_threadpool(encode_prompt, tokenizer, [_plain_message(message) for message in body.messages])
        except BulletError as error:
            raise ApiError(400, str(error), "messages", "invalid_value") from None
        return await answer(request, body, [ids], body.max_completion_tokens or body.max_tokens, top, ChatShape(tokenizer, top))

    @app.post("/v1/completions", responses={**STREAM, **_errors(*GENERATE)}, response_model=Completion, tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue a text, or several."""
        check_model(body.model)
        if body.echo and body.logprobs is not None:
            raise ApiError(400, "echo is not supported together with logprobs", "echo", "unsupported_value")
        prompts = await run_in_threadpool(encode_all, body.prompt, "prompt")
        choices = len(prompts) * (body.n or 1)
        if choices > MAX_CHOICES:
            raise ApiError(
                400, f"{len(prompts)} prompts with n={body.n} are {choices} completions: at most {MAX_CHOICES}", "n", "invalid_value"
            )
        echo = [tokenizer.decode(ids) if body.echo else "" for ids in prompts for _ in range(body.n or 1)]
        return await answer(request, body, prompts, body.max_tokens, body.logprobs, TextShape(tokenizer, body.logprobs, echo))

    def encode_all(texts: str | list[str] | list[int] | list[list[int]], param: str) -> list[list[int]]:
        """The prompts of a request; a text gets <s> before it, tokens are taken as they are."""
        several: list[Any] = [texts] if isinstance(texts, str) or isinstance(texts[0], int) else texts
        prompts = [[BOS, *tokenizer.encode(normalize(text))] if isinstance(text, str) else text for text in several]
        for ids in prompts:
            check_ids(ids, param)
        return prompts

    @app.post("/v1/embeddings", responses=_errors(*GENERATE), response_model=EmbeddingList, tags=["OpenAI"])
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        """Texts as vectors of length 1: the mean of the model's last hidden states."""
        check_model(body.model)
        if body.dimensions not in (None, shape.dim):
            raise ApiError(400, f"this model's embeddings have {shape.dim} dimensions", "dimensions", "invalid_value")
        inputs = await run_in_threadpool(encode_all, body.input, "input")
        for ids in inputs:
            check_length(ids, "input")
        try:
            vectors = await embedder.embed(request, inputs)
        except ClientGone:
            metrics.abandoned.inc()
            return Response(status_code=499)
        data = [
            {"object": "embedding", "index": index, "embedding": in_base64(vector) if body.encoding_format == "base64" else vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        count = sum(map(len, inputs))
        metrics.tokens.labels("prompt").inc(count)
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": count, "total_tokens": count}})

    @app.get("/v1/models", responses=_errors(*READ), tags=["OpenAI"])
    def models() -> ModelList:
        """The model that is served."""
        return ModelList(object="list", data=[card])

    @app.get("/v1/models/{model}", responses=_errors(*READ, 404), tags=["OpenAI"])
    def one_model(model: Annotated[str, Path()]) -> ModelCard:
        """The same, by its name."""
        check_model(model)
        return card

    @app.post("/tokenize", responses=_errors(*POST), response_model=TokenizeResponse, tags=["More"])
    def tokenize(body: TokenizeRequest) -> Response:
        """A text's tokens, as they are in the text: /v1/completions and chats also normalise it."""
        ids = ([BOS] if body.add_special else []) + tokenizer.encode(body.content)
        return JSONResponse({"tokens": [{"id": id, "piece": piece(id)} for id in ids] if body.with_pieces else ids})

    def piece(token: int) -> str | list[int]:
        text, raw = token_text(tokenizer, token), tokenizer.decode_bytes([token])
        return text if text.encode() == raw or not raw else list(raw)

    @app.post("/detokenize", responses=_errors(*POST), tags=["More"])
    def detokenize(body: DetokenizeRequest) -> DetokenizeResponse:
        """The text of tokens; special tokens are left out, and bytes that are not characters become U+FFFD."""
        check_ids(body.tokens, "tokens")
        return DetokenizeResponse(content=tokenizer.decode(body.tokens))

    @app.get("/health", responses={503: {"model": Health}, **_errors(400, 403)}, response_model=Health, tags=["More"])
    def health() -> Response:
        """Whether it takes requests; needs no key."""
        if scheduler.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_errors(*READ)}, tags=["More"])
    def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    return app


def _made_exact(part: Any, name: str, shape: ModelShape) -> Any:
    """An OpenAPI document with the model's name, its highest token id and its dimensions in place of what any model has."""
    if isinstance(part, list):
        return [_made_exact(item, name, shape) for item in part]
    if not isinstance(part, dict):
        return part
    exact = {key: _made_exact(item, name, shape) for key, item in part.items()}
    if exact.get("maximum") == ANY_TOKEN:
        exact["maximum"] = shape.vocab_size - 1
    if exact.get("title") == "Model" and exact.get("type") == "string":
        exact["enum"] = [name]
    if exact.get("title") == "Dimensions":
        exact["anyOf"] = [{"const": shape.dim}, {"type": "null"}]
    return exact


def _plain_message(message: Any) -> dict[str, str]:
    """A message as the chat template takes it: the text of its parts, a developer's word as the system's."""
    text = message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}
