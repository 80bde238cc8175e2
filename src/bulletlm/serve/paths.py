"""ASGI middleware that accepts the variants of requests that clients send."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from bulletlm.serve.errors import OLLAMA_PREFIX


class AcceptVariants:
    """Treats /v1/models/ and //v1/models as /v1/models, and HEAD as GET; uvicorn sends no body in answer to HEAD.

    A redirect would not help: many clients do not follow one, or lose the body of a POST.

    A body sent to Ollama's interface is JSON whatever its Content-Type, because Ollama's own examples do not set one. Web pages
    could send such requests without a preflight; `Guard` refuses them because of their Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = re.sub("/+", "/", scope["path"]).rstrip("/") or "/"
            # A copy: uvicorn looks into its own scope for the method.
            scope = {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
            if path.startswith(OLLAMA_PREFIX):
                others = [header for header in scope["headers"] if header[0] != b"content-type"]
                scope["headers"] = [*others, (b"content-type", b"application/json")]
        await self.app(scope, receive, send)
