"""Errors of the HTTP interface, in the form that OpenAI's clients understand."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
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

OLLAMA_PREFIX = "/api/"
"""Path prefix of Ollama's interface; its clients expect {"error": "message"}."""


def _methods(request: Request) -> list[str]:
    """The methods of all routes for the path of a request."""
    matching = (route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE)
    found: set[str] = {method for route in matching for method in route.methods}
    return sorted(found)


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
        await self.response(scope["path"])(scope, receive, send)

    def response(self, path: str = "") -> Response:
        """This error as an HTTP response to a request for `path`, whose interface decides the form."""
        body = {"error": self.message} if path.startswith(OLLAMA_PREFIX) else self.body()
        # json.dumps escapes everything outside ASCII: a message may quote half of a surrogate pair from the request.
        return Response(json.dumps(body), self.status, self.headers, media_type="application/json")


INTERNAL = ApiError(500, "internal server error: the server's output has the details", code="internal_error")
"""The answer when the server has a bug."""


def install_handlers(app: FastAPI) -> None:
    """Give every error of `app` OpenAI's form. For a bug, the client gets status 500 and standard error gets the traceback."""

    def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response(request.url.path)

    def bullet_error(request: Request, error: Exception) -> Response:
        return ApiError(400, str(error)).response(request.url.path)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return explain(error.errors()).response(request.url.path)

    def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, headers = request.url.path, dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route only
            headers["Allow"] = ", ".join(_methods(request))
        message = {
            404: f"there is nothing at {path}: see {request.base_url} for what there is",
            405: f"{path} accepts {headers.get('Allow')} only",
        }.get(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)
        return ApiError(error.status_code, message, **{name.replace("-", "_"): value for name, value in headers.items()}).response(path)

    def bug(request: Request, error: Exception) -> Response:
        return INTERNAL.response(request.url.path)  # uvicorn prints the traceback

    app.add_exception_handler(Exception, bug)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(BulletError, bullet_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def queue_full() -> ApiError:
    """429: no more completions may wait."""
    return ApiError(429, "too many requests are waiting: try again in a moment", code="rate_limit_exceeded", Retry_After="1")


def explain(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first wrong field of pydantic's errors in one line.

    Where a value may have one of several types, pydantic reports an error for each of them. The most informative one is chosen: a
    wrong value is preferred to a wrong type, and an error deep inside the value to one at its top level.
    """
    field_errors = [error for error in errors if error["loc"][:2] == errors[0]["loc"][:2]]
    first = max(field_errors, key=lambda error: (not error["type"].endswith("_type"), len(error["loc"])))
    path = [part for part in first["loc"] if part != "body" and not _is_branch(part)]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    kind = first["type"]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not path and kind == "value_error":
        return ApiError(400, message, code="invalid_value")
    if not path:
        return ApiError(400, "the body must be a JSON object, with the header Content-Type: application/json", code="invalid_json")
    if kind == "unsupported_value":
        return ApiError(400, f"{param}: {message}", param, "unsupported_value")
    if kind == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if kind in ("too_long", "too_short"):
        context = first["ctx"]
        limit = f"at most {context['max_length']} are allowed" if kind == "too_long" else f"at least {context['min_length']} is needed"
        message = f"it has {context['actual_length']} items: {limit}"
    return ApiError(400, f"Invalid value for '{param}': {message}", param, "invalid_value")


def _is_branch(part: Any) -> bool:
    """Whether a part of an error's location names a branch of a union (`list[Part]`, `str`), not a field."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
