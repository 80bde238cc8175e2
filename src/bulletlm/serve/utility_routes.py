"""Routes that belong to no other program's interface: a page for people, tokens, health and counters."""

import html

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm.serve.openai.formats import token_text
from bulletlm.serve.openapi import POST, READ, also, errors
from bulletlm.serve.service import ServiceOf
from bulletlm.serve.utility_schemas import DetokenizeRequest, DetokenizeResponse, Health, TokenizeRequest, TokenizeResponse
from bulletlm.text.tokenizer import BOS, Tokenizer

router = APIRouter(tags=["More"])


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BulletLM server</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
code, pre {{ background: #8882; padding: .1em .3em; border-radius: .3em }} pre {{ padding: .8em; overflow-x: auto }}
td {{ padding: .2em 1em .2em 0; vertical-align: top }} :root {{ color-scheme: light dark }}</style>
<h1>BulletLM server</h1>
<p>This is the HTTP server of a small language model{model}. It is meant for programs: point them at one of these addresses.{key}</p>
<table>
<tr><td>Programs for OpenAI<td><code>{base}v1</code>
<tr><td>Programs for Ollama<td><code>{base}</code>
</table>
<p>For example:</p>
<pre>curl {base}v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"messages": [{{"role": "user", "content": "Hello"}}]}}'</pre>
<p>OpenAI's interface: <code>/v1/chat/completions</code>, <code>/v1/responses</code>, <code>/v1/completions</code>,
<code>/v1/embeddings</code>, <code>/v1/models</code>.</p>
<p>Ollama's interface: <code>/api/chat</code>, <code>/api/generate</code>, <code>/api/embed</code>, <code>/api/tags</code>,
<code>/api/show</code>, <code>/api/ps</code>, <code>/api/version</code>.</p>
<p>Also: <code>/tokenize</code>, <code>/detokenize</code>, <a href="/health"><code>/health</code></a>,
<a href="/metrics"><code>/metrics</code></a> for Prometheus, and <a href="/openapi.json"><code>/openapi.json</code></a>, which describes
all of them.</p>
"""


@router.get("/", responses={**also("text/html"), **errors(400, 403)}, response_class=Response)
async def index(request: Request, service: ServiceOf) -> Response:
    """A page for people that says what this is. Needs no key, and then does not name the model."""
    guarded = service.options.api_key is not None
    page = PAGE.format(
        base=html.escape(str(request.base_url)),
        model="" if guarded else f", <b>{html.escape(service.name)}</b>",
        key=" They must send a key: <code>Authorization: Bearer KEY</code>." if guarded else "",
    )
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


@router.post("/tokenize", responses=errors(*POST), response_model=TokenizeResponse)
def tokenize(body: TokenizeRequest, service: ServiceOf) -> Response:
    """The tokens of a text without normalization. /v1/completions and chats normalize their texts first."""
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
