"""Errors of the HTTP interface, in the form that OpenAI's clients understand."""

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
"""HTTP status -> error type. Every other 4xx is an invalid_request_error, every other 5xx a server_error."""

UNSUPPORTED = {
    "audio": "this model writes text only",
    "best_of": "only 1 is supported: ask for n completions and choose one",
    "frequency_penalty": "only 0 is supported: use presence_penalty or repetition_penalty",
    "function_call": "this model cannot call functions",
    "functions": "this model cannot call functions",
    "modalities": "this model writes text only",
    "response_format": "only plain text is supported",
    "suffix": "this model cannot insert text before a suffix",
    "tool_calls": "this model cannot call tools",
    "tool_choice": "this model cannot call tools",
    "tools": "this model cannot call tools",
    "web_search_options": "this model cannot search the web",
}
"""Field -> why it is refused unless it has its neutral value: it asks for something that a small text model does not do."""


class ApiError(Exception):
    """An error answer to a request.

    Attributes:
        status: the HTTP status.
        message: one line: what is wrong, and what to do.
        param: the field of the request that is wrong, if it is one.
        code: a word for programs, as in OpenAI's errors.
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
        """This error as an HTTP response."""
        # json.dumps escapes everything outside ASCII: a message may quote half of a surrogate pair from the request.
        return Response(json.dumps(self.body()), self.status, self.headers, media_type="application/json")


INTERNAL = ApiError(500, "internal server error: the server's output has the details", code="internal_error")
"""The answer when the server has a bug."""


def install_handlers(app: FastAPI) -> None:
    """Give every error of `app` OpenAI's form. For a bug, the client gets status 500 and standard error gets the traceback."""

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
            405: f"{request.url.path} does not accept {request.method}",
        }.get(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)
        headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
        return ApiError(error.status_code, message, **headers).response()

    def bug(request: Request, error: Exception) -> Response:
        return INTERNAL.response()  # uvicorn prints the traceback

    app.add_exception_handler(Exception, bug)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(BulletError, bullet_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def queue_full() -> ApiError:
    """429: no more completions may wait."""
    return ApiError(429, "too many requests are waiting: try again in a moment", code="rate_limit_exceeded", Retry_After="1")


def explain(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's errors in one line.

    Where a value may have one of several types, pydantic reports an error for each of them; the one that goes deepest counts.
    """
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
    """Whether a part of an error's location names a branch of a union (`list[Part]`, `str`), not a field."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
