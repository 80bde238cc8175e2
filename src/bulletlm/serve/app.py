"""The HTTP application: its middleware and its routers."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from bulletlm import __version__
from bulletlm.runtime import Model
from bulletlm.serve import utility_routes
from bulletlm.serve.errors import install_handlers
from bulletlm.serve.guard import Guard
from bulletlm.serve.metrics import CountRequests
from bulletlm.serve.openai import routes as openai_routes
from bulletlm.serve.openai.schemas import ANY_TOKEN
from bulletlm.serve.options import LOCAL_NAMES, ServeOptions, is_loopback
from bulletlm.serve.service import Service
from bulletlm.shape import ModelShape


def create_app(model: Model, name: str, options: ServeOptions) -> FastAPI:
    """The application that serves `model` under `name`. The caller must call `app.state.service.close()` at the end."""
    service = Service(model, name, options)
    # FastAPI's documentation pages load scripts from the internet, so they are off; /openapi.json has the same content.
    app = FastAPI(title="BulletLM", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    generic_schema = app.openapi
    app.openapi = lambda: _with_model(generic_schema(), name, model.shape)  # type: ignore[method-assign]
    install_handlers(app)
    app.include_router(openai_routes.router)
    app.include_router(utility_routes.router)

    # Middleware that is added later runs earlier.
    # DNS rebinding is a danger for servers without a key on this computer only; elsewhere, the server's real names are unknown.
    hosts = LOCAL_NAMES if is_loopback(options.host) else ()
    app.add_middleware(Guard, key=options.api_key, hosts=hosts, origins=options.cors, max_bytes=options.max_request_bytes)
    if options.cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(options.cors), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(CountRequests, metrics=service.metrics)
    return app


def _with_model(part: Any, name: str, shape: ModelShape) -> Any:
    """An OpenAPI document with this model's name, highest token id and number of dimensions in the places for them."""
    if isinstance(part, list):
        return [_with_model(item, name, shape) for item in part]
    if not isinstance(part, dict):
        return part
    exact = {key: _with_model(item, name, shape) for key, item in part.items()}
    if exact.get("maximum") == ANY_TOKEN:
        exact["maximum"] = shape.vocab_size - 1
    if exact.get("title") == "Model" and exact.get("type") == "string":
        exact["enum"] = [name]
    if exact.get("title") == "Dimensions":
        exact["anyOf"] = [{"const": shape.dim}, {"type": "null"}]
    return exact
