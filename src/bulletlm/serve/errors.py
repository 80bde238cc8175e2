"""Errors of the HTTP interface, in the shape that OpenAI's clients understand."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from bulletlm.errors import BulletError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Status -> type; other 4xx are invalid_request_error, other 5xx server_error."""

UNSUPPORTED = {
    "audio": "this model writes text only",
    "best_of": "only 1 is supported: ask for n completions and choose",
    "frequency_penalty": "only 0 is supported: use presence_penalty or repetition_penalty",
    "function_call": "this model cannot call functions",
    "functions": "this model cannot call functions",
    "modalities": "this model writes text only",
    "response_format": "only plain text is supported",
    "suffix": "this model cannot fill in between",
    "tool_calls": "this model cannot call tools",
    "tool_choice": "this model cannot call tools",
    "tools": "this model cannot call tools",
    "web_search_options": "this model cannot search",
}
"""Fields of OpenAI's interface that ask for something a model of ours does not do, so they may only have their neutral value."""


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: the HTTP status.
        message: one line: what is wrong, and what to do.
        param: the field of the request that is wrong, if it is one.
        code: a word for programs, as OpenAI has them.
        headers: further HTTP headers, such as Retry-After.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with this error."""
        await self.response()(scope, receive, send)

    def response(self) -> Response:
        # All ASCII: a message may repeat half of a surrogate pair from the request.
        return Response(json.dumps(self.body()), self.status, self.headers, media_type="application/json")


INTERNAL = ApiError(500, "an error inside the server, whose output says more", code="internal_error")
"""A bug of ours."""


def install_handlers(app: FastAPI) -> None:
    """Give every error of `app` OpenAI's shape. An error of ours is a plain 500, with its traceback on standard error."""

    def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    def bullet_error(request: Request, error: Exception) -> Response:
        return ApiError(400, str(error)).response()

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return explain(error.errors()).response()

    def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)
        headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
        return ApiError(error.status_code, message, **headers).response()

    def our_bug(request: Request, error: Exception) -> Response:
        return INTERNAL.response()  # uvicorn prints the traceback

    app.add_exception_handler(Exception, our_bug)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(BulletError, bullet_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def too_many() -> ApiError:
    """There is no more room to wait."""
    return ApiError(429, "too many requests are waiting: try again in a moment", code="rate_limit_exceeded", Retry_After="1")


def explain(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's complaints in one line. Where a value could be several things, the kind that came closest counts."""
    first = max(errors, key=lambda error: len(error["loc"]) if error["loc"][:2] == errors[0]["loc"][:2] else 0)
    path = [part for part in first["loc"] if part != "body" and not _is_branch(part)]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    kind, field = first["type"], path[-1] if path else None
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not path and kind == "value_error":
        return ApiError(400, message, code="invalid_value")
    if not path:
        return ApiError(400, "the body must be a JSON object, with the header Content-Type: application/json", code="invalid_json")
    if path[0] in UNSUPPORTED or field in UNSUPPORTED:
        name = str(path[0] if path[0] in UNSUPPORTED else field)
        return ApiError(400, f"{name}: {UNSUPPORTED[name]}", name, "unsupported_value")
    if kind == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    return ApiError(400, f"Invalid value for '{param}': {message}", param, "invalid_value")


def _is_branch(part: Any) -> bool:
    """Whether a part of an error's place names a branch of a union (`list[Part]`, `str`), not a field."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
