"""Error answers of the routes, for /openapi.json."""

from typing import Any

from pydantic import BaseModel

_TEXTS = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The web page may not use this server.",
    404: "The model does not exist.",
    408: "The request arrived too slowly.",
    413: "The request is too large.",
    429: "Too many requests are waiting.",
    500: "The model failed.",
    503: "The server is stopping, or has too many connections.",
    504: "The server was too busy to begin before the timeout.",
}

Responses = dict[int | str, dict[str, Any]]

READ = (400, 401, 403)
POST = (*READ, 408, 413)
GENERATE = (*POST, 429, 500, 503, 504)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


def errors(*statuses: int, model: type[BaseModel] = ErrorResponse) -> Responses:
    """The documented error answers with these statuses; `model` is their form."""
    return {status: {"model": model, "description": _TEXTS[status]} for status in statuses}


def also(media_type: str) -> Responses:
    """A successful answer that may also be of `media_type`."""
    # OpenAPI 3.1 cannot describe the events of a stream.
    return {200: {"content": {media_type: {"schema": {} if media_type == "text/event-stream" else {"type": "string"}}}}}
