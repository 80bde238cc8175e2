"""The routes of OpenAI's interface: chat completions, completions, embeddings, models."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm.runtime import Sampling
from bulletlm.serve.answers import CompletionSpec, Usage
from bulletlm.serve.embeddings import to_base64
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientDisconnected
from bulletlm.serve.openai.formats import ChatFormat, TextFormat
from bulletlm.serve.openai.schemas import (
    MAX_CHOICES,
    NO_TOOLS,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
    Generation,
    ModelCard,
    ModelList,
    OllamaOptions,
    options_settings,
)
from bulletlm.serve.openapi import GENERATE, READ, also, errors
from bulletlm.serve.service import Service, ServiceOf

router = APIRouter(prefix="/v1", tags=["OpenAI"])

STREAM = also("text/event-stream")


@router.post("/chat/completions", responses={**STREAM, **errors(*GENERATE)}, response_model=ChatCompletion)
async def chat_completions(request: Request, body: ChatRequest, service: ServiceOf) -> Response:
    """Answer the last message of a conversation, or continue an answer that has been started."""
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens mean the same: give one of them", "max_tokens", "invalid_value")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: set it to true", "top_logprobs", "invalid_value")
    for param, tools, tool_choice in (("tools", body.tools, body.tool_choice), ("functions", body.functions, body.function_call)):
        if tools and tool_choice != "none":
            name = "tool_choice" if param == "tools" else "function_call"
            raise ApiError(400, f'{param}: {NO_TOOLS}: leave them out, or set {name} to "none"', param, "unsupported_value")
    top = (body.top_logprobs or 0) if body.logprobs else None
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    sampling, generate = sampling_of(service, body, max_tokens)
    messages = [message.to_template() for message in body.messages]
    ids, usage = await run_in_threadpool(service.chat_prompt, messages, sampling, "messages")
    answer_format = ChatFormat(service.tokenizer, service.name, body.n or 1, top, _include_usage(body))
    specs = _copies(CompletionSpec(ids, sampling, stops(body), top, generate=generate), body.n)
    return await service.answer(request, specs, usage=usage, answer_format=answer_format, stream=bool(body.stream))


@router.post("/completions", responses={**STREAM, **errors(*GENERATE)}, response_model=Completion)
async def completions(request: Request, body: CompletionRequest, service: ServiceOf) -> Response:
    """Continue one text or several texts, or score them: `echo` with `logprobs` gives the log-probabilities of the prompt."""
    prompts = await run_in_threadpool(service.encode_all, body.prompt, "prompt")
    choices = len(prompts) * (body.n or 1)
    if choices > MAX_CHOICES:
        message = f"{len(prompts)} prompts with n={body.n} are {choices} completions: at most {MAX_CHOICES} are allowed"
        raise ApiError(400, message, "n", "invalid_value")
    for ids in prompts:
        service.check_length(ids, "prompt")
    (sampling, generate), score = sampling_of(service, body, body.max_tokens), bool(body.echo) and body.logprobs is not None
    specs = [
        spec for ids in prompts for spec in _copies(CompletionSpec(ids, sampling, stops(body), body.logprobs, score, generate), body.n)
    ]
    echo = [service.tokenizer.decode(spec.prompt) if body.echo and not score else "" for spec in specs]
    answer_format = TextFormat(service.tokenizer, service.name, echo, body.logprobs, _include_usage(body))
    usage = Usage(sum(map(len, prompts)))
    return await service.answer(request, specs, usage=usage, answer_format=answer_format, stream=bool(body.stream))


def sampling_of(service: Service, body: Generation, max_tokens: int | None) -> tuple[Sampling, bool]:
    """The sampling settings of a request, and whether it wants any tokens. Its own fields count more than those in `options`."""
    options = body.options or OllamaOptions()
    settings = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty")}
    settings["repetition_penalty"] = body.repeat_penalty if body.repetition_penalty is None else body.repetition_penalty
    settings = {name: options_settings(options)[name] if value is None else value for name, value in settings.items()}
    max_tokens = options.num_predict if max_tokens is None else max_tokens
    sampling = service.sampling(
        settings,
        max_tokens=max_tokens,
        seed=options.seed if body.seed is None else body.seed,
        logit_bias={int(token): value for token, value in (body.logit_bias or {}).items()},
    )
    return sampling, max_tokens != 0


def stops(body: Generation) -> list[str]:
    """The stop strings of a request."""
    stop = body.stop if body.stop is not None or body.options is None else body.options.stop
    return [stop] if isinstance(stop, str) else stop or []


def _copies(spec: CompletionSpec, count: int | None) -> list[CompletionSpec]:
    """`spec` as often as a request wants it, each time with another seed."""
    return [replace(spec, sampling=replace(spec.sampling, seed=spec.sampling.seed + number)) for number in range(count or 1)]


def _include_usage(body: Generation) -> bool:
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for streams only: set stream to true", "stream_options", "invalid_value")
    return bool(body.stream_options and body.stream_options.include_usage)


@router.post("/embeddings", responses=errors(*GENERATE), response_model=EmbeddingList)
async def embeddings(request: Request, body: EmbeddingRequest, service: ServiceOf) -> Response:
    """Texts as vectors of length 1: the mean of the model's last hidden states."""
    dim = service.model.shape.dim
    if body.dimensions not in (None, dim):
        raise ApiError(400, f"this model's embeddings have {dim} dimensions", "dimensions", "invalid_value")
    inputs = await run_in_threadpool(service.encode_all, body.input, "input")
    try:
        vectors = await service.embed(request, inputs)
    except ClientDisconnected:
        return Response(status_code=499)
    data = [
        {"object": "embedding", "index": index, "embedding": to_base64(vector) if body.encoding_format == "base64" else vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, inputs))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "model": service.name, "data": data, "usage": usage})


@router.get("/models", responses=errors(*READ))
async def models(service: ServiceOf) -> ModelList:
    """The model that is served, as a list."""
    return ModelList(object="list", data=[_card(service)])


@router.get("/models/{model:path}", responses=errors(404, *READ))
async def one_model(model: Annotated[str, Path()], service: ServiceOf) -> ModelCard:
    """The model that is served, by its name."""
    if model != service.name:
        raise ApiError(404, f"The model '{model}' does not exist: this server has '{service.name}'", "model", "model_not_found")
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
