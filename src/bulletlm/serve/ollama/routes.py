"""The routes of Ollama's interface, for programs that are written for it."""

import hashlib
import json
import time
from collections import Counter
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm import __version__
from bulletlm.runtime import Sampling
from bulletlm.serve.answers import CompletionSpec, Usage
from bulletlm.serve.errors import ApiError
from bulletlm.serve.guard import ClientDisconnected
from bulletlm.serve.ollama.formats import OllamaFormat, timestamp
from bulletlm.serve.ollama.schemas import (
    EmbedAnswer,
    EmbedRequest,
    GenerationRequest,
    ModelDetails,
    OllamaAnswer,
    OllamaChatRequest,
    OllamaError,
    OllamaGenerateRequest,
    OllamaModel,
    OllamaModels,
    OneEmbeddingAnswer,
    OneEmbeddingRequest,
    RunningModel,
    RunningModels,
    ShowAnswer,
    ShowRequest,
    Version,
)
from bulletlm.serve.openai.schemas import OllamaOptions, options_settings
from bulletlm.serve.openapi import GENERATE, POST, READ, also, errors
from bulletlm.serve.service import Service, ServiceOf
from bulletlm.text.chat import CHAT_TEMPLATE

router = APIRouter(prefix="/api", tags=["Ollama"])

API_VERSION = "0.12.0"
"""The version of Ollama whose interface this is. Some clients refuse to work with an older one."""

STREAM = also("application/x-ndjson")


@router.post("/chat", responses={**STREAM, **errors(*GENERATE, model=OllamaError)}, response_model=OllamaAnswer)
async def chat(request: Request, body: OllamaChatRequest, service: ServiceOf) -> Response:
    """Answer the last message of a conversation. Without messages, the answer only says that the model is loaded."""
    if not body.messages:
        return _loaded(service, message={"role": "assistant", "content": ""})
    messages = [{"role": message.role, "content": message.content or ""} for message in body.messages]
    sampling = _sampling(service, body)
    ids, usage = await run_in_threadpool(service.chat_prompt, messages, sampling, "messages")
    return await _answer(request, body, service, ids, sampling, usage)


@router.post("/generate", responses={**STREAM, **errors(*GENERATE, model=OllamaError)}, response_model=OllamaAnswer)
async def generate(request: Request, body: OllamaGenerateRequest, service: ServiceOf) -> Response:
    """Answer a prompt, or continue it if `raw` is set. Without a prompt, the answer only says that the model is loaded."""
    if not body.prompt:
        return _loaded(service, response="")
    if body.raw and body.system:
        raise ApiError(400, "raw continues the prompt as it is: put the system text into the prompt", "system", "invalid_value")
    sampling = _sampling(service, body)
    if body.raw:
        [ids] = await run_in_threadpool(service.encode_all, body.prompt, "prompt")
        service.check_length(ids, "prompt")
        usage = Usage(len(ids))
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": body.prompt}]
        ids, usage = await run_in_threadpool(service.chat_prompt, messages, sampling, "prompt")
    return await _answer(request, body, service, ids, sampling, usage)


def _loaded(service: Service, **answer: Any) -> Response:
    """The answer to a request that generates nothing; at Ollama, it loads the model."""
    return JSONResponse({"model": _name(service), "created_at": timestamp(), **answer, "done": True, "done_reason": "load"})


def _sampling(service: Service, body: GenerationRequest) -> Sampling:
    options = body.options or OllamaOptions()
    return service.sampling(options_settings(options), max_tokens=options.num_predict, seed=options.seed, logit_bias={})


async def _answer(
    request: Request, body: GenerationRequest, service: Service, ids: list[int], sampling: Sampling, usage: Usage
) -> Response:
    """Generate an answer to the prompt `ids`."""
    options = body.options or OllamaOptions()
    top = (body.top_logprobs or 0) if body.logprobs else None
    chat = isinstance(body, OllamaChatRequest)
    answer_format = OllamaFormat(service.tokenizer, _name(service), chat, request.state.arrived, top)
    stop = [options.stop] if isinstance(options.stop, str) else options.stop or []
    spec = CompletionSpec(ids, sampling, stop, top, generate=options.num_predict != 0)
    return await service.answer(request, [spec], usage=usage, answer_format=answer_format, stream=body.stream is not False)


@router.post("/embed", responses=errors(*GENERATE, model=OllamaError), response_model=EmbedAnswer)
async def embed(request: Request, body: EmbedRequest, service: ServiceOf) -> Response:
    """Texts as vectors of length 1."""
    dim = service.model.shape.dim
    if body.dimensions not in (None, dim):
        raise ApiError(400, f"this model's embeddings have {dim} dimensions", "dimensions", "invalid_value")
    texts = [body.input] if isinstance(body.input, str) else body.input
    inputs = await run_in_threadpool(service.encode_all, texts, "input") if texts else []
    if body.truncate is not False:
        inputs = [ids[: service.max_prompt_tokens] for ids in inputs]
    try:
        vectors = await service.embed(request, inputs)
    except ClientDisconnected:
        return Response(status_code=499)
    answer = {
        "model": _name(service),
        "embeddings": [vector.tolist() for vector in vectors],
        "total_duration": round((time.monotonic() - request.state.arrived) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": sum(map(len, inputs)),
    }
    return JSONResponse(answer)


@router.post("/embeddings", responses=errors(*GENERATE, model=OllamaError), response_model=OneEmbeddingAnswer)
async def one_embedding(request: Request, body: OneEmbeddingRequest, service: ServiceOf) -> Response:
    """A text as a vector of length 1; an older form of /api/embed."""
    inputs = await run_in_threadpool(service.encode_all, body.prompt, "prompt")
    try:
        vectors = await service.embed(request, [ids[: service.max_prompt_tokens] for ids in inputs])
    except ClientDisconnected:
        return Response(status_code=499)
    return JSONResponse({"embedding": vectors[0].tolist()})


@router.get("/tags", responses=errors(*READ, model=OllamaError))
async def tags(service: ServiceOf) -> OllamaModels:
    """The model that is served, as a list."""
    return OllamaModels(models=[_model(service)])


@router.get("/ps", responses=errors(*READ, model=OllamaError))
async def running(service: ServiceOf) -> RunningModels:
    """The models in memory: the one that is served."""
    model = _model(service)
    never = timestamp(time.time() + 365 * 86_400)
    loaded = RunningModel(**model.model_dump(), expires_at=never, size_vram=0, context_length=service.model.shape.max_seq_len)
    return RunningModels(models=[loaded])


@router.post("/show", responses=errors(*POST, model=OllamaError))
async def show(body: ShowRequest, service: ServiceOf) -> ShowAnswer:
    """Details of the model that is served."""
    shape, header, sampling = service.model.shape, service.model.header, service.model.sampling
    settings = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "num_predict": sampling.max_tokens,
    }
    info = {
        "general.architecture": "llama",
        "general.basename": service.name,
        "general.parameter_count": shape.n_parameters,
        "llama.block_count": shape.n_layers,
        "llama.context_length": shape.max_seq_len,
        "llama.embedding_length": shape.dim,
        "llama.feed_forward_length": shape.hidden_dim,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": shape.norm_eps,
        "llama.rope.freq_base": shape.rope_theta,
        "llama.vocab_size": shape.vocab_size,
    }
    return ShowAnswer(
        license=str(header.get("license") or ""),
        modelfile=f"# {service.name}, served by BulletLM {__version__}\n",
        parameters="\n".join(f"{name} {value:g}" for name, value in settings.items()),
        template=CHAT_TEMPLATE,
        details=_details(service),
        model_info=info,
        capabilities=["completion", "embedding"],
        modified_at=timestamp(service.created),
    )


@router.get("/version", responses=errors(*READ, model=OllamaError))
async def version() -> Version:
    """The version of Ollama whose interface this is."""
    return Version(version=API_VERSION, bulletlm=__version__)


def _name(service: Service) -> str:
    """The model's name with a tag, which every model has at Ollama."""
    return service.name if ":" in service.name else f"{service.name}:latest"


def _model(service: Service) -> OllamaModel:
    header = service.model.header
    parts = [*header.get("tensors", ()), *header.get("sections", ())]
    size = max((part["offset"] + part["bytes"] for part in parts if "offset" in part), default=4 * service.model.shape.n_parameters)
    return OllamaModel(
        name=_name(service),
        model=_name(service),
        modified_at=timestamp(service.created),
        size=size,
        digest=hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest(),
        details=_details(service),
    )


def _details(service: Service) -> ModelDetails:
    types = Counter(str(tensor["type"]) for tensor in service.model.header.get("tensors", ()) if "type" in tensor)
    return ModelDetails(
        parent_model="",
        format="bullet",
        family="llama",
        families=["llama"],
        parameter_size=f"{service.model.shape.n_parameters / 1e6:.1f}M",
        quantization_level=types.most_common(1)[0][0] if types else "F32",
    )
