"""The routes of OpenAI's interface: chat completions, completions, embeddings, models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm.errors import BulletError
from bulletlm.serve.answers import AnswerFormat, CompletionSpec
from bulletlm.serve.embeddings import to_base64
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientDisconnected
from bulletlm.serve.openai.formats import ChatFormat, TextFormat
from bulletlm.serve.openai.schemas import (
    MAX_CHOICES,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
    Generation,
    ModelCard,
    ModelList,
)
from bulletlm.serve.openapi import GENERATE, READ, also, errors
from bulletlm.serve.service import Service, ServiceOf
from bulletlm.text.chat import encode_prompt

router = APIRouter(prefix="/v1", tags=["OpenAI"])

STREAM = also("text/event-stream")


@router.post("/chat/completions", responses={**STREAM, **errors(404, *GENERATE)}, response_model=ChatCompletion)
async def chat_completions(request: Request, body: ChatRequest, service: ServiceOf) -> Response:
    """Answer the last message of a conversation."""
    service.check_model(body.model)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens mean the same: give one of them", "max_tokens", "invalid_value")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: set it to true", "top_logprobs", "invalid_value")
    top = (body.top_logprobs or 0) if body.logprobs else None
    try:
        ids = await run_in_threadpool(encode_prompt, service.tokenizer, [_template_message(message) for message in body.messages])
    except BulletError as error:
        raise ApiError(400, str(error), "messages", "invalid_value") from None
    service.check_length(ids, "messages")
    answer_format = ChatFormat(service.tokenizer, service.name, body.n or 1, top, _include_usage(body))
    return await _generate(request, service, body, [ids], body.max_completion_tokens or body.max_tokens, top, answer_format)


@router.post("/completions", responses={**STREAM, **errors(404, *GENERATE)}, response_model=Completion)
async def completions(request: Request, body: CompletionRequest, service: ServiceOf) -> Response:
    """Continue one text or several texts."""
    service.check_model(body.model)
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "echo is not supported together with logprobs", "echo", "unsupported_value")
    prompts = await run_in_threadpool(service.encode_all, body.prompt, "prompt")
    choices = len(prompts) * (body.n or 1)
    if choices > MAX_CHOICES:
        message = f"{len(prompts)} prompts with n={body.n} are {choices} completions: at most {MAX_CHOICES} are allowed"
        raise ApiError(400, message, "n", "invalid_value")
    for ids in prompts:
        service.check_length(ids, "prompt")
    echo = [service.tokenizer.decode(ids) if body.echo else "" for ids in prompts for _ in range(body.n or 1)]
    answer_format = TextFormat(service.tokenizer, service.name, echo, body.logprobs, _include_usage(body))
    return await _generate(request, service, body, prompts, body.max_tokens, body.logprobs, answer_format)


async def _generate(
    request: Request,
    service: Service,
    body: Generation,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    top: int | None,
    answer_format: AnswerFormat,
) -> Response:
    """Answer with `n` completions of each prompt."""
    settings = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty")}
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    sampling = service.sampling(settings, max_tokens=max_tokens, seed=body.seed, logit_bias=bias)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    specs = [
        CompletionSpec(ids, replace(sampling, seed=sampling.seed + number), stop, top) for ids in prompts for number in range(body.n or 1)
    ]
    prompt_tokens = sum(map(len, prompts))
    return await service.answer(request, specs, prompt_tokens=prompt_tokens, answer_format=answer_format, stream=bool(body.stream))


def _include_usage(body: Generation) -> bool:
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for streams only: set stream to true", "stream_options", "invalid_value")
    return bool(body.stream_options and body.stream_options.include_usage)


def _template_message(message: Any) -> dict[str, str]:
    """A message as the chat template needs it: the text of its parts, and the role "system" instead of "developer"."""
    text = message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


@router.post("/embeddings", responses=errors(404, *GENERATE), response_model=EmbeddingList)
async def embeddings(request: Request, body: EmbeddingRequest, service: ServiceOf) -> Response:
    """Texts as vectors of length 1: the mean of the model's last hidden states."""
    service.check_model(body.model)
    dim = service.model.shape.dim
    if body.dimensions not in (None, dim):
        raise ApiError(400, f"this model's embeddings have {dim} dimensions", "dimensions", "invalid_value")
    inputs = await run_in_threadpool(service.encode_all, body.input, "input")
    for ids in inputs:
        service.check_length(ids, "input")
    try:
        vectors = await service.embedder.embed(request, inputs)
    except ClientDisconnected:
        service.metrics.abandoned.inc()
        return Response(status_code=499)
    data = [
        {"object": "embedding", "index": index, "embedding": to_base64(vector) if body.encoding_format == "base64" else vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, inputs))
    service.metrics.tokens.labels("prompt").inc(count)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "model": service.name, "data": data, "usage": usage})


@router.get("/models", responses=errors(*READ))
async def models(service: ServiceOf) -> ModelList:
    """The model that is served, as a list."""
    return ModelList(object="list", data=[_card(service)])


@router.get("/models/{model}", responses=errors(404, *READ))
async def one_model(model: Annotated[str, Path()], service: ServiceOf) -> ModelCard:
    """The model that is served, by its name."""
    service.check_model(model)
    return _card(service)


def _card(service: Service) -> ModelCard:
    shape = service.model.shape
    return ModelCard(
        id=service.name,
        object="model",
        created=service.created,
        owned_by="bulletlm",
        context_length=shape.max_seq_len,
        parameters=shape.n_parameters,
    )
