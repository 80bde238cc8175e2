"""Routes that belong to no other program's interface: tokens, health and counters."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from bulletlm.serve.openai.formats import token_text
from bulletlm.serve.openai.schemas import DetokenizeRequest, DetokenizeResponse, Health, TokenizeRequest, TokenizeResponse
from bulletlm.serve.openapi import POST, READ, also, errors
from bulletlm.serve.service import ServiceOf
from bulletlm.text.tokenizer import BOS, Tokenizer

router = APIRouter(tags=["More"])


@router.post("/tokenize", responses=errors(*POST), response_model=TokenizeResponse)
def tokenize(body: TokenizeRequest, service: ServiceOf) -> Response:
    """The tokens of a text without normalisation. /v1/completions and chats normalise their texts first."""
    ids = ([BOS] if body.add_special else []) + service.tokenizer.encode(body.content)
    return JSONResponse({"tokens": [{"id": id, "piece": _piece(service.tokenizer, id)} for id in ids] if body.with_pieces else ids})


def _piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    text, raw = token_text(tokenizer, token), tokenizer.decode_bytes([token])
    return text if text.encode() == raw or not raw else list(raw)


@router.post("/detokenize", responses=errors(*POST))
def detokenize(body: DetokenizeRequest, service: ServiceOf) -> DetokenizeResponse:
    """The text of tokens, without special tokens. Bytes that are not whole characters become U+FFFD."""
    service.check_ids(body.tokens, "tokens")
    return DetokenizeResponse(content=service.tokenizer.decode(body.tokens))


@router.get("/health", responses={503: {"model": Health}, **errors(400, 403)}, response_model=Health)
async def health(service: ServiceOf) -> Response:
    """Whether the server accepts requests. Needs no key."""
    if service.scheduler.stopping:
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/metrics", responses={**also("text/plain"), **errors(*READ)})
def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
